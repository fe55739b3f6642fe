"""One extraction by many workers: processes of this machine, each with a device or a share of the threads, or a Ray
cluster. A store that they fill has the same bytes as one that a single process fills with the same threads.
"""

from diffeat.distributed.workers import Workers, start_workers

__all__ = ["Workers", "start_workers"]
