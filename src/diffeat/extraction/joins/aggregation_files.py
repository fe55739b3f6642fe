"""Aggregation networks on disk: our folder, and the checkpoints that Diffusion Hyperfeatures published.

A folder holds ``config.json`` (:class:`AggregationConfig`) and ``model.safetensors``. A published checkpoint is a
``.pt`` file with a dictionary ``{step, config, aggregation_network, optimizer_state_dict}``; of its configuration only
what describes the network is used (model, widths, steps), never the rest of the run's settings. It is read with
``weights_only``, so it cannot run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.backbones.files import PICKLED, read_object, read_plain, read_tensors
from diffeat.backbones.weights import find_weights, misfit
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.reading import Weights
from diffeat.storage.atomic import StagedFile, disk_errors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_KIND = "diffeat-aggregation-network"
_REFERENCE_LAYERS = tuple(f"up_blocks.{i}.resnets.{j}.increment" for i in range(4) for j in range(3))
_UNUSED = ("logit_scale", "self_logit_scale")  # of training; some checkpoints carry them


def save_aggregation(network: AggregationNetwork, folder: str | Path) -> None:
    """Write a network's folder; the weights last, each file complete or absent.

    Raises:
        StoreError: The folder cannot be written.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    config = json.dumps({"kind": _KIND, **network.config.to_dict()}, indent=1)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        StagedFile(folder / CONFIG_FILE, config.encode()).commit()
        StagedFile(folder / WEIGHTS_FILE, to_bytes(state)).commit()


def weights_file(source: str | Path, file: str | None = None, revision: str | None = None) -> Path:
    """The file that holds a network's weights, fetched from the hub if need be."""
    return find_weights(
        str(source), file or (None if Path(source).is_file() else WEIGHTS_FILE), revision, "aggregation"
    )


def files_of(weights: Weights) -> list[str]:
    """Names of the files of a network in its repository."""
    file = weights.file or WEIGHTS_FILE
    return [file] if Path(file).suffix in PICKLED else [file, str(Path(file).with_name(CONFIG_FILE))]


def load_aggregation(source: str | Path, file: str | None = None, revision: str | None = None) -> AggregationNetwork:
    """Load a network.

    Args:
        source: A folder that :func:`save_aggregation` wrote, a published ``.pt`` file, or the hub id of a repository
            with either.
        file: Name of the weights inside the folder or repository, for published checkpoints.
        revision: Of the hub repository.

    Raises:
        ModelError: The file cannot be had or read, is no plain state dict, or its tensors are not those of such a
            network.
    """
    path = weights_file(source, file, revision)
    if path.suffix in PICKLED:
        return read_published(path)
    config_path = path.parent / CONFIG_FILE
    if not config_path.is_file() and not Path(source).exists():
        config_path = find_weights(str(source), str(Path(file or WEIGHTS_FILE).with_name(CONFIG_FILE)), revision)
    config = _read_config(config_path)
    return _filled(config, read_tensors(path), path)


def read_published(path: Path) -> AggregationNetwork:
    """Read a published checkpoint (or one that the published training code wrote)."""
    data = read_plain(path)
    state = data.get("aggregation_network", data) if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        held = ", ".join(sorted(map(str, data))[:5]) if isinstance(data, Mapping) else type(data).__name__
        raise ModelError(f"{path} holds no 'aggregation_network' state dict of tensors (it holds: {held}).")
    settings = data.get("config") if "aggregation_network" in data else {}
    plain = {str(name): value.float() for name, value in state.items()}
    return _filled(_published_config(plain, settings or {}, path), plain, path)


def check_fits(
    config: AggregationConfig,
    *,
    activations: tuple[str, ...] | list[str],
    channels: Mapping[str, int],
    steps: tuple[float, ...],
    count: int | None,
) -> None:
    """Refuse a network that is for other layers or steps than a recipe reads; says every difference."""
    wrong = []
    if tuple(activations) != config.activations:
        wrong.append(_differences("layers", config.activations, tuple(activations)))
    else:
        other = [a for a, c in zip(config.activations, config.channels, strict=True) if channels.get(a, c) != c]
        wrong += [
            f"layer {a!r} has {channels[a]} channels in this model, the weights expect "
            f"{config.channels[config.activations.index(a)]} (they belong to {config.model or 'another model'})"
            for a in other[:3]
        ]
    if tuple(steps) != config.steps:
        wrong.append(_differences("steps", config.steps, tuple(steps)))
    if count != config.count:
        wrong.append(f"the weights are for a trajectory of {config.count} steps, the recipe's has {count}")
    if wrong:
        raise InvalidValueError(
            "The aggregation weights do not fit the recipe: " + "; ".join(wrong) + ". Use the recipe that was written "
            "with the weights, or change its activations, steps and save steps to those."
        )


def _differences(what: str, weights: tuple, recipe: tuple) -> str:
    show = lambda values: ", ".join(f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in values)  # noqa: E731
    only_weights = [v for v in weights if v not in recipe]
    only_recipe = [v for v in recipe if v not in weights]
    if not only_weights and not only_recipe:
        return f"the {what} come in another order ({show(weights)} in the weights, {show(recipe)} in the recipe)"
    parts = []
    if only_weights:
        parts.append(f"{what} {show(only_weights)} are in the weights alone")
    if only_recipe:
        parts.append(f"{what} {show(only_recipe)} in the recipe alone")
    return ", ".join(parts)


def _read_config(path: Path) -> AggregationConfig:
    try:
        data = read_object(path)
        if data.pop("kind", None) != _KIND:
            raise ModelError(f"{path} does not describe an aggregation network.")
        return AggregationConfig(**data)
    except (ValueError, TypeError) as error:
        raise ModelError(f"The description {path} of the aggregation network cannot be read: {error}") from None


def _published_config(state: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path) -> AggregationConfig:
    channels = []
    while (name := f"bottleneck_layers.{len(channels)}.0.conv1.weight") in state:
        channels.append(state[name].shape[1])
    if not channels or "mixing_weights" not in state or "bottleneck_layers.0.0.conv3.weight" not in state:
        raise ModelError(f"{path} holds no mixing weights or no bottlenecks; it is no aggregation network.")
    count, rest = divmod(len(state["mixing_weights"]), len(channels))
    if rest:
        raise ModelError(
            f"{path} has {len(state['mixing_weights'])} mixing weights for {len(channels)} layers, which is no whole "
            "number of steps."
        )
    saved = settings.get("save_timestep")
    if saved is not None and len(saved) != count:
        raise ModelError(f"{path} names {len(saved)} save steps but mixes {count}.")
    steps = saved if saved is not None else range(count)
    layers = [f"up_blocks.{i}.resnets.{j}.increment" for i, j in settings["idxs"]] if settings.get("idxs") else None
    if layers is None:
        layers = _REFERENCE_LAYERS if len(channels) == 12 else [f"layer {i}" for i in range(len(channels))]
    wide, narrow = state["bottleneck_layers.0.0.conv3.weight"].shape[:2]
    return AggregationConfig(
        activations=tuple(layers),
        channels=tuple(channels),
        steps=tuple(float(s) for s in steps),
        count=int(settings.get("num_timesteps", count)),
        model=str(settings.get("model_id", "")),
        projection=wide,
        bottleneck=narrow,
    )


def _filled(config: AggregationConfig, state: Mapping[str, Tensor], path: Path) -> AggregationNetwork:
    with torch.random.fork_rng(devices=[]):
        network = AggregationNetwork(config)
    state = {name: value for name, value in state.items() if name not in _UNUSED}
    if differences := misfit(network.state_dict(), state):
        raise ModelError(f"{path} does not hold the network that its configuration describes: {differences}.")
    bad = [
        name for name, v in state.items() if not (torch.isfinite(v) | (name == "mixing_weights") & v.isneginf()).all()
    ]
    if bad:
        raise InvalidValueError(f"{path} holds NaN or infinity in {bad[0]!r}: the training that wrote it went wrong.")
    network.load_state_dict(dict(state))
    return network.eval()
