"""Uses of features."""
