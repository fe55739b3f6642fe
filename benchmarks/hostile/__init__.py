"""What ``fuzz.py`` runs: one module for each part, and the harness that they share."""
