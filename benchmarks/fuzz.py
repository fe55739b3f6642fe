"""Hostile inputs through diffeat's public doors: mutated pictures, recipes, models and stores.

    python benchmarks/fuzz.py pictures --count 20000 --seed 0 --out fuzzed [--seeds FOLDER]
    python benchmarks/fuzz.py all --out fuzzed              # 20,000 pictures, 500 recipes, 200 models, 200 stores
    python benchmarks/fuzz.py pictures --only 4711          # one case again

A case depends on its part, the seed and its number only. Right outcomes are that an input is read, or refused in one
line that names it. Anything else is a failure: another exception, wrong numbers, more than 10 s or 1 GB, a file touched
outside the output, a program or foreign code run. Tables are written to ``OUT/PART/table.md``, every case to
``cases.csv``; exit code 1 tells that there are failures. Linux only.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

PARTS = ("pictures", "recipes", "stores", "models")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--count", type=int, help="cases; those of a full run if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzzed"))
    parser.add_argument("--seeds", type=Path, help="folder of further pictures to mutate")
    parser.add_argument("--only", type=int, help="the number of a single case")
    parser.add_argument("--workers", type=int, default=1, choices=range(1, 9))
    args = parser.parse_args()

    from hostile.workers import get_part, run, table

    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "DIFFEAT_FUZZ_SEEDS": str((args.seeds or Path()).resolve()),
    }
    if not args.seeds:
        del os.environ["DIFFEAT_FUZZ_SEEDS"]
    records = []
    for name in PARTS if args.part == "all" else (args.part,):
        part = get_part(name)
        cases = range(args.count or part.count) if args.only is None else range(args.only, args.only + 1)
        found = run(part, cases, args.seed, args.out.resolve(), args.workers)
        print((args.out / name / "table.md").read_text(encoding="utf-8"), flush=True)
        records += found
    if args.part == "all":
        print(table(records))
    sys.exit(any(record.outcome not in ("ok", "refused") for record in records))


if __name__ == "__main__":
    main()
