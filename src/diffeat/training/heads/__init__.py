"""Training of dense heads: segmentation, depth and normals, on frozen features or with the backbone."""
