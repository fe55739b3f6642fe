"""Training of what joins and reads features."""
