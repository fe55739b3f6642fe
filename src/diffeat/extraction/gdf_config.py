"""Settings of the Generic Diffusion Feature code as recipes: its JSON files of layers and its options.

A layer file maps activation ids to true or false. Whatever its order, maps come in the order of execution.

A requested t becomes a position in the schedule of an image-to-image pipeline; the denoiser gets the timestep there:
of 1000 steps, or of 50 (Hunyuan-DiT) and 28 (FLUX.1, shifted towards noise), where one step spans many t.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import InvalidValueError, UnknownNameError, clipped, did_you_mean
from diffeat.extraction.reading import Reading
from diffeat.extraction.recipe import Recipe
from diffeat.files import read_text


def _flux(left: int) -> float:
    """Of the 28 sigmas 1, 27/28 … 1/28, shifted by e^1.15 (that of 1024² pixels)."""
    return 1000 / (1 + (28 / left - 1) / math.exp(1.15))


@dataclass(frozen=True)
class Version:
    """A model of theirs, and ours that it is.

    Attributes:
        size: Of its pictures.
        timestep: What the denoiser gets with so many steps left, the first of which is read.
        steps: Of the whole schedule.
        up: Whether a share of a step counts as a whole one.
    """

    model: str
    size: int
    timestep: Callable[[int], float]
    steps: int = 1000
    up: bool = False

    def took(self, t: float) -> float:
        """The timestep that a requested t really is; refused if there is no step left at t."""
        done = self.steps - min(self.steps * (t / 1000), self.steps)
        left = self.steps - (int(done) if self.up else math.ceil(done))
        if t <= 0 or left < 1:
            raise InvalidValueError(
                f"Their schedule of {self.steps} steps for {self.model} has no step left at t = {t:g}; the least is "
                f"{1000 / self.steps:g}."
            )
        return float(self.timestep(left))


#: Their names for models. PNDM (1-5) has its second timestep twice, so that all below come one step late.
VERSIONS = {
    "1-5": Version("sd15", 512, lambda left: min(left + 1, max(left, 999))),
    "2-1": Version("sd21-base", 512, lambda left: left - 1),
    "xl": Version("sdxl", 1024, lambda left: left),
    "pgv2": Version("playground-v2", 1024, lambda left: left),
    "pixart-sigma": Version("pixart-sigma", 1024, lambda left: round(left * 0.999)),
    "pixart-alpha": Version("pixart-alpha", 512, lambda left: round(left * 0.999)),
    "flux": Version("flux-dev", 1024, _flux, steps=28, up=True),
    "hunyuan": Version("hunyuan-dit", 1024, lambda left: 20 * (left - 1) + 1, steps=50),
}
_BY_FILE = {"15": "1-5", "xl": "xl", "pg": "pgv2"}
CONTROLNETS = {
    "canny": {"kind": "controlnet", "model": "lllyasviel/sd-controlnet-canny", "condition": "canny"},
    "canny-xl": {"kind": "controlnet", "model": "diffusers/controlnet-canny-sdxl-1.0", "condition": "canny"},
    "depth": {"kind": "controlnet", "model": "lllyasviel/sd-controlnet-depth", "condition": "depth"},
}
_TOKENS = ("cross-k", "cross-v")
#: Parts of ids, what is executed first before what comes after it.
_PARTS = (
    *("in", "after", "down", "mid", "up", "level", "repeat", "downsampler", "upsampler", "res", "vit", "block"),
    *("q", "k", "v", "self", "cross", "map", "attn", "norm", "ffn", "increment", "inner", "out"),
)


def recipe_from_gdf(
    layer: str | Path | Mapping[str, bool],
    version: str | None = None,
    *,
    t: float = 50,
    img_size: int | None = None,
    prompt: str = "",
    attention: Sequence[str] = (),
    feature_resize: int = 1,
    control: Sequence[str] = (),
    use_ddim_inversion: bool = False,
    aggregate_output: bool = False,
) -> Reading:
    """The recipe that does what their options do.

    Args:
        layer: Their JSON file, or its content: id to true or false.
        version: Their name of the model (:data:`VERSIONS`); by default read off the file's name or its ids.
        t: As they ask for it; the recipe has the timestep that their schedule really takes (:meth:`Version.took`).
        img_size: Side of the squashed pictures; what they recommend by default. Theirs enlarges them to 1024 again for
            FLUX.1 and Hunyuan-DiT.
        prompt: Text for all pictures.
        attention: ``up_cross``, ``down_self`` …
        feature_resize: Fewer cells, by average.
        control: ``canny``, ``canny-xl``, ``depth``.
        use_ddim_inversion: Walk to about t by DDIM inversion, of 100 steps for the whole way, instead of adding noise.
        aggregate_output: Join all maps into one, at the largest grid by nearest neighbour.

    Raises:
        InvalidValueError: The file is no layer file, names no layer, the model cannot be told, or its schedule has no
            step at t.
        UnknownNameError: No such version or control.
    """
    config, name = _read(layer)
    wanted = sorted((id for id, on in config.items() if on and not id.endswith(_TOKENS)), key=_executed)
    if not wanted and not attention:
        raise InvalidValueError(f"{name} switches no layer on (cross-k and cross-v are never kept).")
    version = version or _version_of(name, wanted)
    if version not in VERSIONS:
        raise UnknownNameError(f"No version {version!r}. {did_you_mean(version, VERSIONS)}".rstrip())
    model = VERSIONS[version]
    for kind in control:
        if kind not in CONTROLNETS:
            raise UnknownNameError(f"No control {kind!r}. {did_you_mean(kind, CONTROLNETS)}".rstrip())
    activations: list[Any] = [id if id == "vae-out" else f"gdf:{id}" for id in wanted if id != "attn"]
    data: dict[str, Any] = {
        "name": Path(name).stem,
        "source": "settings of Generic Diffusion Feature (Meng et al., NeurIPS 2024)",
        "model": model.model,
        "frame": {"mode": "squash", "size": img_size or model.size},
        "prompt": prompt,
        "trajectory": _trajectory(model.took(t), use_ddim_inversion),
        "activations": activations + [{"attention": a} for a in attention],
        "fuse": {"kind": "concat", "resize": "nearest"} if aggregate_output else None,
        "shrink": feature_resize if feature_resize > 1 else None,
    }
    if control:
        data["techniques"] = [CONTROLNETS[kind] for kind in control]
    return Reading.from_dict(data, origin=f"layer file {name}")


def _executed(id: str) -> list[tuple[int, int]]:
    parts = re.findall(r"([a-z]+)(\d*)", id.removeprefix("unet-").replace("mid-vit", "mid-repeat0-vit"))
    return [(_PARTS.index(word) if word in _PARTS else len(_PARTS), int(number or 0)) for word, number in parts]


def is_layer_file(path: Path) -> bool:
    """Whether a JSON file is one of theirs: names to true or false, and nothing else."""
    try:
        return bool(_read(path))
    except InvalidValueError:
        return False


def _trajectory(t: float, inversion: bool) -> dict[str, Any]:
    if not inversion:
        return {"kind": "noise", "timesteps": [t], "draws": 1, "latent": "sample"}
    steps = 100  # as theirs; saved steps count from noise, the last two are at t = 0 and before it
    return {"kind": "inversion", "steps": steps, "save": [max(0, steps - 2 - round(t * steps / 1000))]}


def _read(layer: str | Path | Mapping[str, bool]) -> tuple[dict[str, bool], str]:
    if isinstance(layer, Mapping):
        return dict(layer), "the layers given"
    path = Path(layer)
    try:
        data = json.loads(read_text(path, "layer file"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(f"{path} is not JSON: {clipped(str(error))}.") from None
    if not isinstance(data, dict) or not data or not all(isinstance(v, bool) for v in data.values()):
        raise InvalidValueError(f"{path} is no layer file: it must map activation ids to true or false.")
    return data, path.name


def _version_of(name: str, ids: Sequence[str]) -> str:
    found = re.search(r"_(15|xl|pg)(_|\.)", name)
    if found:
        return _BY_FILE[found[1]]
    text = " ".join(ids)
    if "level3" in text:
        return "1-5"
    if re.search(r"vit-block[1-9]", text) and "level" in text:
        return "xl"
    raise InvalidValueError(
        f"{name} does not tell its model. End its name in _15.json, _xl.json or _pg.json, or give version= to "
        f"recipe_from_gdf, one of: {', '.join(VERSIONS)} (their option --version)."
    )


def _written(name: str) -> Reading | None:
    """The path of a layer file."""
    path = Path(name)
    return recipe_from_gdf(path) if path.suffix == ".json" and is_layer_file(path) else None


Recipe.FORMS.append(_written)
