"""Procedures that end in a recipe and a report: selection, content shift, massive activations, sweeps."""
