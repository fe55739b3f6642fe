"""The aggregation network: what it computes, and its files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from diffeat.errors import DiffeatError, InvalidValueError, ModelError
from diffeat.extraction import load_aggregation, save_aggregation
from diffeat.extraction.joins import aggregation
from support.hyperfeatures import CONFIG, error, maps, network


@pytest.mark.parametrize("grid", [(8, 12), (3, 5), (20, 7), None])
@torch.no_grad()
def test_projecting_before_resizing_changes_nothing(grid) -> None:
    made, values = network(), maps()
    wanted = grid or (16, 9)
    resized = [F.interpolate(m.flatten(0, 1), size=wanted, mode="bilinear").unflatten(0, m.shape[:2]) for m in values]
    assert error(made(values, grid), made(resized, wanted)) <= 1e-5


@torch.no_grad()
def test_parts_of_the_steps_add_up() -> None:
    made, values = network(), maps()
    for parts in ([[0], [1], [2]], [[2, 0], [1]]):
        total = sum(made([m[:, p] for m in values], (8, 8), p) for p in parts)
        assert error(total, made(values, (8, 8))) <= 1e-5


def test_recomputing_in_the_backward_pass_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = []
    for limit in (1 << 40, 0):
        monkeypatch.setattr(aggregation, "_RECOMPUTE_ABOVE", limit)
        made = network().train()
        made(maps()).square().sum().backward()
        grads.append([p.grad for p in made.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*grads, strict=True))


@torch.no_grad()
def test_a_pair_that_is_switched_off_counts_for_nothing() -> None:
    made, values = network(), maps()
    off = [(0, 1), (2, 2)]
    for s, k in off:
        made.mixing_weights[3 * s + k] = -torch.inf
    kept = [(s, k) for s in range(3) for k in range(3) if (s, k) not in off]
    shares = made.shares
    assert shares.sum().item() == pytest.approx(1)
    bottlenecks = [b[0] for b in made.bottleneck_layers]
    wanted = sum(shares[s, k] * bottlenecks[k](values[k][:, s], (8, 8)) for s, k in kept)
    assert error(made(values, (8, 8)), wanted) <= 1e-5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda v: v[:2], ["3 layers", "2"]),
        (lambda v: [v[0][:, :2], *v[1:]], ["'a'", "3 steps"]),
        (lambda v: [v[0], v[2], v[1]], ["'b'", "32 channels"]),
    ],
    ids=["layers", "steps", "channels"],
)
def test_maps_of_another_network_are_refused(wrong, words: list[str]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        network()(wrong(maps()))
    assert all(word in str(caught.value) for word in words)


# ---- files


def test_saved_and_loaded(tmp_path: Path) -> None:
    made = network()
    save_aggregation(made, tmp_path / "n")
    again = load_aggregation(tmp_path / "n")
    assert again.config == made.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made.parameters(), strict=True))


def published(path: Path, **changes) -> Path:
    made = network()
    data = {
        "step": 5000,
        "config": {
            "model_id": "x/y", "projection_dim": 32, "save_timestep": [9, 4, 0], "num_timesteps": 10,
            "diffusion_mode": "generation", "prompt": "never to be used",
        },
        "aggregation_network": dict(made.state_dict()),
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
    }  # fmt: skip
    data.update(changes)
    torch.save(data, path)
    return path


def test_a_published_checkpoint_tells_its_shape_and_nothing_of_the_run(tmp_path: Path) -> None:
    state = {**network().state_dict(), "logit_scale": torch.tensor(2.6)}
    found = load_aggregation(published(tmp_path / "n.pt", aggregation_network=state))
    assert found.config.channels == CONFIG.channels
    assert found.config.steps == (9, 4, 0)
    assert found.config.count == 10
    assert torch.equal(found.mixing_weights, network().mixing_weights)


class Sneaky:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": Sneaky()}, ["not a plain state dict", "run code"]),
        ({"aggregation_network": {"mixing_weights": [1, 2]}}, ["no 'aggregation_network' state dict"]),
        ({"aggregation_network": {"other": torch.ones(3)}}, ["no aggregation network"]),
        ({"config": {"save_timestep": [1, 2]}}, ["2 save steps", "mixes 3"]),
        ({"aggregation_network": {**network().state_dict(), "mixing_weights": torch.ones(8)}}, ["8 mixing weights"]),
        ({"aggregation_network": {**network().state_dict(), "more": torch.ones(8)}}, ["1 are unknown", "'more'"]),
        (
            {"aggregation_network": {**network().state_dict(), "mixing_weights": torch.full((9,), torch.nan)}},
            ["NaN", "mixing_weights"],
        ),
    ],
    ids=["code", "no tensors", "no network", "steps", "mixing", "unknown", "nan"],
)
def test_damaged_checkpoints_are_refused(changes, words: list[str], tmp_path: Path, capsys) -> None:
    with pytest.raises(DiffeatError) as caught:
        load_aggregation(published(tmp_path / "n.pt", **changes))
    assert all(word in str(caught.value) for word in words)
    assert "must not run" not in capsys.readouterr().out


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"not a pickle")
    with (tmp_path / "b.pt").open("wb") as handle:
        pickle.dump([1, 2], handle)
    for name in ("a.pt", "b.pt", "none"):
        with pytest.raises(ModelError, match=name):
            load_aggregation(tmp_path / name)
