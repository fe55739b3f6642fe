"""The report of homographies: ``report.json``, ``report.md`` and a page."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path

from diffeat.files import write_files
from diffeat.report.page import REPORT, Page, markdown_report, markdown_table
from diffeat.tasks.homography.evaluate import THRESHOLDS, Homographies


def write_homographies(result: Homographies, folder: str | Path, *, force: bool = False) -> Path:
    """Write the report; returns the HTML page."""
    (header, rows), notes = result.table(), [str(result.options), *result.notes]
    title = f"{result.dataset} · {result.recipe}: homography accuracy"
    pairs = [asdict(s) | {"error": s.error if isfinite(s.error) else None} for s in result.scores]
    data = {
        "options": result.options.model_dump(mode="json"),
        "accuracy": {t: result.accuracy(t) for t in THRESHOLDS},
        "interval": list(result.interval()),
        "pairs": pairs,
        "notes": notes,
    }
    page = Page(title, str(result.options))
    page.text(f"within 3 px {result.value:.1f} {result.interval()}", "big")
    page.table(header, rows)
    page.bullets(notes)
    text = markdown_report(title, [markdown_table(header, rows, sums_up=True)], notes)
    return write_files(folder, REPORT, [json.dumps(data, indent=1), text, page.html()], force=force)
