"""Models: folders of tiny stock pipelines with damaged, exchanged, missing, endless and malicious files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

from .bytes import cut, extreme, flip, repeat
from .recipes import Payload
from .trial import Case, Wrong, command
from .values import change, spoil

_FAMILIES = {
    "sd15": "up_blocks.1",
    "sdxl": "up_blocks.1",
    "pixart_sigma": "transformer_blocks.1",
    "sd3": "transformer_blocks.1",
    "flux": "transformer_blocks.1",
}
_MODEL = Path("model")
_CLASSES = (
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "FluxKontextPipeline",
    "WanPipeline",
    "NoPipeline",
    "os.system",
    "",
    "DiffusionPipeline",
    "AutoencoderKL",
)


class Models:
    """
    Args:
        families: Which of the tests' tiny pipelines to take.
    """

    name = "models"
    count = 200
    recipes = ("tiny-dift",)

    def __init__(self, families: Sequence[str] = tuple(_FAMILIES)) -> None:
        self._families = sorted(families)

    def prepare(self, folder: Path) -> None:
        """The tests' tiny pipelines, and each again with other weights."""
        sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
        from tiny.pipelines import build

        for name in self._families:
            build(name).save_pretrained(folder / name)
            build(name, seed=1).save_pretrained(folder / "others" / name)

    def case(self, random: Random, seeds: Path) -> Case:
        from PIL import Image

        family = random.choice(self._families)
        shutil.copytree(seeds / family, _MODEL)
        Image.new("RGB", (8, 6), (200, 100, 0)).save("good.png")
        recipe = {
            "model": "./model",
            "activations": [_FAMILIES[family]],
            "frame": {"mode": "squash", "size": 64},
            "trajectory": {"timesteps": [100]},
        }
        Path("recipe.yaml").write_text(json.dumps(recipe))
        kind, other = _damage(random, seeds, family)
        doors: dict[str, Callable[[], object]] = {
            "load": lambda: _load(seeds / family if other else None),
            "activations": lambda: command("activations", "./model"),
            "extract": lambda: command("extract", "good.png", "-r", "recipe.yaml", "--out", "out", good=(0, 1)),
        }
        return Case(kind, ("model", "Pipeline", "VAE", "recipe"), doors)


def _damage(random: Random, seeds: Path, family: str) -> tuple[str, bool]:
    """Damage one file; tells what was done, and whether the model is a good one with other weights."""
    files = sorted(f for f in _MODEL.rglob("*") if f.is_file())
    role = random.choice(("index", "config", "weights", "weights", "tokenizer", "folder", "code"))
    if role == "folder":
        return _folder(random, seeds, family)
    if role == "code":
        return f"code {_code(random)}", False
    if role == "tokenizer":
        files = [f for f in files if "token" in f.parent.name]
    elif role == "weights":
        files = [f for f in files if f.suffix == ".safetensors"]
    else:
        files = [
            f
            for f in files
            if f.suffix == ".json" and (f.parent == _MODEL) == (role == "index") and "token" not in f.parent.name
        ]
    if not files:
        return _folder(random, seeds, family)
    file = random.choice(files)
    data = file.read_bytes()
    ways: dict[str, Callable[[], bytes | None]] = {
        "flip": lambda: flip(random, data),
        "cut": lambda: cut(random, data),
        "repeat": lambda: repeat(random, data),
        "extreme": lambda: extreme(random, data),
        "empty": lambda: b"",
        "gone": lambda: file.unlink(),
        **{what: lambda what=what: _replace(file, what) for what in ("fifo", "endless", "folder", "dangling", "huge")},
    }
    if file.suffix == ".json":
        ways |= {
            name: lambda: json.dumps(change(random, json.loads(data)), default=str, skipkeys=True).encode()
            for name in ("json", "field", "value", "type")
        }
        ways |= {
            "text": lambda: spoil(random, data.decode()),
            "number": lambda: _number(random, data),
            "class": lambda: _class(random, data),
        }
    if role == "weights":
        ways |= {
            "exchanged": lambda: random.choice(files).read_bytes(),
            "other": lambda: (seeds / "others" / family / file.relative_to(_MODEL)).read_bytes(),
            "variant": lambda: _variant(file),
            "header": lambda: struct.pack("<Q", random.choice((0, 1, 2**40, 2**63, 99))) + data[8:],
            "names": lambda: _names(random, data),
            "shards": lambda: _shards(random, file),
        }
    way = random.choice(sorted(ways))
    changed = ways[way]()
    if changed is not None:
        file.write_bytes(changed)
    return f"{role} {way} {file.relative_to(_MODEL)}", way == "other"


def _replace(file: Path, what: str) -> None:
    size = file.stat().st_size
    file.unlink()
    if what == "fifo":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    elif what == "huge":
        with open(file, "wb") as sparse:
            sparse.truncate((1 << 36) + size)
    else:
        os.symlink("/dev/zero" if what == "endless" else "nowhere", file)


def _number(random: Random, data: bytes) -> bytes:
    """One number of a configuration becomes another."""
    config = json.loads(data)
    numbers = [k for k, v in config.items() if isinstance(v, (int, float, list))]
    if numbers:
        config[random.choice(numbers)] = random.choice(
            (0, -1, 1, 3, 7, 10**6, 10**9, 0.5, None, [], [8, 8], float("nan"), True)
        )
    return json.dumps(config).encode()


def _class(random: Random, data: bytes) -> bytes:
    """Another class of the pipeline, or of a component."""
    config = json.loads(data)
    components = [k for k, v in config.items() if isinstance(v, list) and len(v) == 2]
    if components and random.random() < 0.7:
        config[random.choice(components)] = random.choice(
            (
                [None, None],
                ["diffusers", "NoClass"],
                ["os", "system"],
                ["transformers"],
                [1, 2],
                ["diffusers", "AutoencoderKL"],
                ["nowhere", "X"],
                [None, "x"],
            )
        )
    else:
        config["_class_name"] = random.choice((*_CLASSES, None, 3, ["a", "b"]))
    return json.dumps(config).encode()


def _variant(file: Path) -> None:
    file.rename(file.with_suffix(".fp16.safetensors"))


def _names(random: Random, data: bytes) -> bytes:
    """Weights under other names, or fewer."""
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + size])
    tensors = [k for k in header if k != "__metadata__"]
    for name in random.sample(tensors, min(len(tensors), random.choice((1, 3, 1000)))):
        header[f"model.diffusion_model.{name}"] = header.pop(name)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _shards(random: Random, file: Path) -> None:
    """An index of shards that leads elsewhere."""
    place = random.choice(("../../outside.safetensors", "/dev/zero", "none.safetensors", file.name, 7))
    index = {"metadata": {"total_size": 10**15}, "weight_map": {"conv_in.weight": place}}
    shutil.copy(file, "outside.safetensors")
    if random.random() < 0.5:
        file.unlink()
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))


def _folder(random: Random, seeds: Path, family: str) -> tuple[str, bool]:
    """Components missing, from another model, or links; and folders that are no pipeline."""
    parts = sorted(p for p in _MODEL.iterdir() if p.is_dir())
    part = random.choice(parts)
    what = random.choice(
        ("missing", "foreign", "file", "empty", "loop", "single", "unet only", "checkpoint", "weights alone", "nothing")
    )
    if what == "foreign":
        shutil.rmtree(part)
        donors = [d / part.name for d in sorted(seeds.iterdir()) if d.name != family and (d / part.name).is_dir()]
        shutil.copytree(random.choice(donors) if donors else seeds / "sd15" / "vae", part)
    elif what in ("single", "nothing", "weights alone"):
        shutil.copy(next(seeds.joinpath("sd15").rglob("*.safetensors")), "weights.safetensors")
        shutil.rmtree(_MODEL)
        if what == "single":
            Path("weights.safetensors").rename("model")
        elif what == "weights alone":
            _MODEL.mkdir()
            Path("weights.safetensors").rename(_MODEL / "model.safetensors")
    elif what in ("unet only", "checkpoint"):
        denoiser = next(p for p in parts if p.name in ("unet", "transformer"))
        target = Path("kept") if what == "unet only" else Path("kept", "checkpoint-500", denoiser.name)
        shutil.copytree(denoiser, target)
        shutil.rmtree(_MODEL)
        Path("kept").rename(_MODEL)
    else:
        shutil.rmtree(part)
        if what == "file":
            part.write_text("x")
        elif what == "empty":
            part.mkdir()
        elif what == "loop":
            part.symlink_to(Path("..", "model"))
    return f"folder {what} {part.name}", False


def _code(random: Random) -> str:
    """Pickles in place of weights, and modules that configurations name."""
    parts = sorted(p for p in _MODEL.iterdir() if list(p.glob("*.safetensors")) if p.is_dir())
    part = random.choice(parts)
    what = random.choice(
        (
            "pickle",
            "pickle",
            "pickle beside",
            "zip pickle",
            "component module",
            "pipeline module",
            "auto map",
            "tokenizer map",
            "library",
        )
    )
    index = json.loads((_MODEL / "model_index.json").read_text())
    weights = next(part.glob("*.safetensors"))
    module = "import diffeat_canary\nclass Canary:\n    pass\n"
    if "pickle" in what:
        if what == "zip pickle":
            import torch

            torch.save({"a": Payload()}, weights.with_suffix(".bin"))
        else:
            weights.with_suffix(".bin").write_bytes(pickle.dumps(Payload()))
        shutil.copy(weights.with_suffix(".bin"), part / "pytorch_model.bin")
        if "beside" not in what:
            weights.unlink()
    elif what == "component module":
        (part / "canary.py").write_text(module)
        index[part.name] = ["canary", "Canary"]
    elif what == "pipeline module":
        (_MODEL / "pipeline.py").write_text(module)
        index["_class_name"] = random.choice((["pipeline", "Canary"], "Canary"))
    elif what == "library":
        index[part.name] = ["diffeat_canary", "run"]
    else:
        token = [p for p in _MODEL.iterdir() if "token" in p.name]
        home = random.choice(token) if "token" in what and token else part
        (home / "canary.py").write_text(module)
        for file in home.glob("*config.json"):
            config = json.loads(file.read_text())
            config["auto_map"] = dict.fromkeys(("AutoModel", "AutoConfig", "AutoTokenizer"), "canary.Canary")
            config["tokenizer_class"] = "Canary"
            file.write_text(json.dumps(config))
    (_MODEL / "model_index.json").write_text(json.dumps(index))
    return what


def _load(other: Path | None) -> None:
    """Load it; other weights under the same path have another fingerprint."""
    from diffeat.extraction import load_source

    source = load_source("recipe.yaml", device="cpu")
    if other is not None and source.fingerprint == _fingerprint(other):
        raise Wrong("other weights have the same fingerprint")


@lru_cache(8)
def _fingerprint(folder: Path) -> str:
    from diffeat.extraction import Recipe, load_source

    return load_source(Recipe.load("recipe.yaml").replace(model=str(folder)), device="cpu").fingerprint


PART = Models()
