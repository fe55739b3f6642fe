"""Trained ways to join the maps of one picture."""
