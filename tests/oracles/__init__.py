"""Answers that are known by other means than the code under test."""
