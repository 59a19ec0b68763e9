"""The study: arms, searches, verdicts. Knows Ray, Optuna and MLflow; never imports torch."""
