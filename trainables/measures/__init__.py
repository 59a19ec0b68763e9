"""What is measured on the weights of confirmed models: docs/measures.md. `row` needs no torch."""
