"""Rewrite the golden lists of activation ids, then review the difference.

python tests/catalogues/rewrite.py [family …]
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from diffeat.activations import Catalogue  # noqa: E402
from tiny.pipelines import FAMILIES, build  # noqa: E402

for family in sys.argv[1:] or list(FAMILIES):
    ids = [a.id for a in Catalogue.of(build(family))]
    (HERE / f"{family}.txt").write_text("\n".join(ids) + "\n")
    print(f"{family}: {len(ids)}")
