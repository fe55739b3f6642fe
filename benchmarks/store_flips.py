"""Flip bits of a store, one at a time: each must be noticed by verify, and repaired by extracting again.

    python benchmarks/store_flips.py [--shards 150] [--index 1500]

One bit in each of that many shards, and that many bits of the index. No model is loaded.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat import FeatureStore, load_source
from diffeat.extraction import extract_to_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=150)
    parser.add_argument("--index", type=int, default=1500)
    arguments = parser.parse_args()
    source, numbers = load_source("baseline:rgb"), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        photos = [Path(folder, f"{number:04d}.png") for number in range(arguments.shards)]
        for photo in photos:
            Image.fromarray(numbers.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(photo)
        where = Path(folder, "store")

        def extract(chosen: list[Path]) -> None:
            with FeatureStore.of(where, source) as store:
                extract_to_store(source, chosen, store, shard_size=1)

        extract(photos)
        whole = {file: file.read_bytes() for file in where.rglob("*") if file.is_file()}
        for kind, count in (("shards", arguments.shards), ("index", arguments.index)):
            files = sorted((where / kind).iterdir())
            chance, unnoticed = random.Random(0), 0
            for number in range(count):
                file = files[number % len(files)]
                data = bytearray(whole[file])
                bit = chance.randrange(8 * len(data))
                data[bit // 8] ^= 1 << bit % 8
                file.write_bytes(data)
                if kind == "shards" and number < count - 1:
                    continue  # all are damaged at once
                problems = "\n".join(FeatureStore.open(where).verify().problems)
                unnoticed += sum(f.name not in problems for f in (files if kind == "shards" else [file]))
                if kind == "index":
                    file.write_bytes(whole[file]) if number % 100 else extract(photos)
            extract(photos)
            repaired = all(file.read_bytes() == data for file, data in whole.items())
            print(f"{kind}: {count} bits flipped, {unnoticed} unnoticed, {'repaired' if repaired else 'NOT REPAIRED'}")


if __name__ == "__main__":
    main()
