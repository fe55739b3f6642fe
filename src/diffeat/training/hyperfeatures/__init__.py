"""Training, reading and pruning the aggregation network of Diffusion Hyperfeatures."""
