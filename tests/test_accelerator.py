"""The benchmark for accelerators, small and on the CPU."""

from __future__ import annotations

from pathlib import Path

from benchmarks.accelerator import main


def test_it_runs_small_on_a_cpu(tmp_path: Path) -> None:
    text = main(["--small", "--device", "cpu", "--families", "sd15", "dit", "--out", str(tmp_path / "table.md")])
    assert (tmp_path / "table.md").read_text() == text
    assert "| sd15 | 0.0e+00 |" in text
    assert "| dit | 0.0e+00 |" in text
    assert "NOT EQUAL" not in text
    for word in ("pictures/s; accelerator", "channels_last", "bfloat16", "4 rows in 2 calls", "MB/s"):
        assert word in text
