"""Tiny random pipelines of every family, built from nothing in a fraction of a second each."""
