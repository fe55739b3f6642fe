"""From every activation of a model to a small set that works: measure, filter, rank, choose."""
