"""The comparison of raw, AdaLN and discard on a small model, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.tables.ditf import run_ditf
from benchmarks.tables.injection import inject_massive
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction import Recipe
from tiny.pipelines import build


@pytest.mark.slow
def test_the_comparison_runs_and_tells_rows_and_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.tables.ditf.SIZE", 64)
    folder = tmp_path / "model"
    build("pixart_sigma").save_pretrained(folder)
    recipe = Recipe.load("ditf-tiny").replace(frame={"mode": "squash", "size": 64}, **{"trajectory.draws": 1})
    rows, differences = run_ditf(
        tmp_path / "out", model=str(folder), recipe=recipe, timesteps=[100], classes=["horse", "car"],
        images=2, pairs=1, channels=[3, 5],
    )  # fmt: skip
    assert [r.name.rsplit(", ", 1)[1] for r in rows] == 2 * ["raw", "AdaLN", "AdaLN + discard"]
    assert len(differences) == 4
    for d in differences:
        assert d.low <= d.value <= d.high
    first = rows[1].evaluation.result.value - rows[0].evaluation.result.value
    assert differences[0].value == pytest.approx(first)
    for name in ("bench.html", "sweep/sweep.html", "massive/massive.html", "massive-injected/massive.html"):
        assert (tmp_path / "out" / name).is_file()
    assert "Massive channels" in (tmp_path / "out" / "massive-injected" / "summary.txt").read_text()


def test_injection_takes_a_transformer() -> None:
    with pytest.raises(InvalidValueError, match="no AdaLN"):
        inject_massive(Backbone.from_pipeline(build("sd15")), [1], picture=(64, 64))


def test_injection_changes_weights_only() -> None:
    backbone = Backbone.from_pipeline(build("flux"))
    before = {k: (v.shape, v.dtype) for k, v in backbone.denoiser.state_dict().items()}
    inject_massive(backbone, [3], picture=(64, 64))
    after = backbone.denoiser.state_dict()
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == before
    assert all(torch.isfinite(v).all() for v in after.values())
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.denoiser.modules())
