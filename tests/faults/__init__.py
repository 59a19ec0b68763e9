"""Real faults in real studies: python -m tests.faults."""
