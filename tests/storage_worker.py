"""Write a store of known features, shard by shard, going on where an earlier run stopped.

Usage: storage_worker.py STORE SHARDS [--largest BYTES]
"""

from __future__ import annotations

import argparse
import resource

import torch

from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureStore


def shard_features(shard: int) -> list[FeatureMap]:
    generator = torch.Generator().manual_seed(shard)
    return [
        FeatureMap(
            activations={
                "a": torch.randn(16, 20, 30 + row, generator=generator),
                "b": torch.ones(3, 4, 5) * row,
            },
            frame=FrameSpec("squash", size=64).frame((30 + row, 20 + shard)),
            image=f"{shard}/{row}.png",
            digest=f"{shard * 100 + row:064x}",
            provenance={"b": 1, "a": [1, 2]},
        )
        for row in range(4)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("shards", type=int)
    parser.add_argument("--largest", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.largest, arguments.largest))
    with FeatureStore.open_or_create(arguments.store, {"b": 1, "a": 2}, "hash", "bfloat16") as store:
        print("started", flush=True)
        for shard in range(arguments.shards):
            if f"{shard}/0.png" not in store:
                store.write_shard(shard_features(shard), position=shard)


if __name__ == "__main__":
    main()
