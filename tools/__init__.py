"""What builds the package's data and is not part of it."""
