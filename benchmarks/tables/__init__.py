"""Benchmarks that run offline on a laptop: the toy world, and photographs with known geometry."""
