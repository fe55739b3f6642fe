"""Recipes: damaged as text and as values, without end, naming code, and naming files that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

from .trial import Case, Door, Wrong, command
from .values import change, places, spoil

_BOUND = 10**6
_CHEAP = ("tiny-dift", "tiny-unet", "ditf-tiny")
_TAGS = (
    "!!python/object/apply:os.system ['touch ../canary/tag-was-run']",
    "!!python/name:os.system",
    "!!python/module:diffeat_canary",
)


class Recipes:
    """
    Args:
        extracts: Extract a picture by those that are valid, which loads models.
    """

    name = "recipes"
    count = 500
    recipes = ("tiny-dift", "baseline:rgb")

    def __init__(self, extracts: bool = True) -> None:
        self._extracts = extracts

    def prepare(self, folder: Path) -> None:
        """The presets, as text."""
        from diffeat.extraction import Recipe, preset_names

        for name in preset_names():
            (folder / f"{name}.yaml").write_text(Recipe.load(name).to_yaml(), encoding="utf-8")
        joined = {"parts": ["baseline:rgb", "tiny-dift"], "join": "weighted", "weights": [1, 2]}
        (folder / "joined.yaml").write_text(json.dumps(joined))
        (folder / "vision.yaml").write_text(
            json.dumps({"kind": "vision", "model": "facebook/dinov2-small", "size": 224})
        )
        (folder / "baseline.yaml").write_text(Recipe.load("baseline:rgb").to_yaml())
        (folder / "gdf_15.json").write_text(json.dumps({"up-level1-repeat1-vit-block0-cross-q": True, "mid": False}))

    def case(self, random: Random, seeds: Path) -> Case:
        import yaml
        from PIL import Image

        Image.new("RGB", (8, 6), (200, 100, 0)).save("good.png")
        os.mkfifo("fifo")
        os.mkdir("folder")
        file = random.choice([*sorted(seeds.iterdir()), *[seeds / f"{name}.yaml" for name in _CHEAP] * 4])
        text = file.read_text(encoding="utf-8")
        kind = random.choice(("text", "values", "values", "values", "values", "endless", "code", "special"))
        target = f"hostile{file.suffix}"
        label = kind
        if kind == "text":
            Path(target).write_bytes(spoil(random, text))
        elif kind == "values":
            data = change(random, yaml.safe_load(text))
            if file.suffix == ".json":
                Path(target).write_text(json.dumps(data, default=str, skipkeys=True))
            else:
                Path(target).write_text(_dump(data), encoding="utf-8")
        elif kind == "endless":
            label, content = random.choice(sorted(_endless().items()))
            Path(target).write_text(content, encoding="utf-8")
        elif kind == "code":
            label = _code(random, target)
        else:
            label, target = _special(random)
        doors: dict[str, Door] = {"load": lambda: _load(target), "recipes": lambda: command("recipes", target)}
        if self._extracts and (kind == "code" or file.stem in (*_CHEAP, "baseline", "joined")):
            doors["extract"] = lambda: _run(target)
        names = (
            ("",) if kind == "code" or label in ("plus", "baseline:") else (target, target[:40], "No activation")
        )  # its faults lie in what it names
        return Case(f"{kind} {label}" if label != kind else kind, names, doors)


def _dump(data: Any) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _endless() -> dict[str, str]:
    """Texts that are small, or simple, and become large."""
    laughs = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12))
    short = "model: tiny-unet\nactivations: [up_blocks.1]\n"
    return {
        "aliases": f"a0: &a0 [x]\n{laughs}\nactivations: *a11\n",
        "merges": "x: &x {name: a}\n"
        + "".join(f"y{k}: &y{k} {{<<: [{', '.join(['*x'] * 500)}]}}\n" for k in range(300)),
        "lists": "activations: " + "[" * 20_000 + "]" * 20_000,
        "open lists": "[" * 300_000,
        "mappings": "".join(" " * k + "a:\n" for k in range(3000)),
        "self": "&a {model: *a, activations: [*a]}",
        "self list": "parts: &a [*a, *a]",
        "number": f"{short}seed: {'9' * 200_000}\n",
        "hexadecimal": f"{short}seed: 0x{'f' * 200_000}\n",
        "sexagesimal": f"{short}seed: {'1:' * 50_000}1\n",
        "float": f"{short}trajectory: {{timesteps: [1e{'9' * 300}]}}\n",
        "date": f"{short}seed: 2026-13-45\n",
        "timesteps": f"{short}trajectory: {{timesteps: [{', '.join(str(k / 400) for k in range(400_000))}]}}\n",
        "activations": f"{short}prompt: x\n" + "".join(f"# {k}\n" for k in range(500_000)),
        "text": f"{short}prompt: {'x' * 20_000_000}\n",
        "draws": f"{short}trajectory: {{timesteps: [1], draws: 1000000000}}\n",
        "steps": f"{short}trajectory: {{kind: inversion, steps: 1000000000000}}\n",
        "size": f"{short}trajectory: {{timesteps: [1]}}\nframe: {{mode: squash, size: 1000000}}\n",
        "longer": f"{short}trajectory: {{timesteps: [1]}}\nframe: {{mode: keep, longer: 8000000}}\n",
        "grid": f"{short}trajectory: {{timesteps: [1]}}\nfuse: {{kind: concat, grid: [900000, 900000]}}\n",
        "stride": "kind: baseline\nname: RGB patches\nstride: 100000\nlonger: 100000000\n",
        "parts": json.dumps({"parts": ["baseline:rgb"] * 20_000}),
        "deep parts": '{"parts": ["baseline:rgb", ' * 400 + '"baseline:rgb"' + "]}" * 400,
        "circle": "parts: [hostile.yaml, hostile.yaml]",
        "keys": "? [1, 2]\n: x\n? {a: b}\n: y\n",
        "many keys": "".join(f"key{k}: 1\n" for k in range(20_000)),
        "nothing": "",
        "documents": f"---\n{short}---\n{short}",
        "tag": f"{short}prompt: {_TAGS[0]}\n",
        "tag name": f"{short}prompt: {_TAGS[1]}\n",
        "tag module": f"{short}? {_TAGS[2]}\n: 1\n",
    }


class Payload:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path(os.environ["DIFFEAT_CANARY"], "pickle-was-run"),)


def _code(random: Random, target: str) -> str:
    """A recipe that names functions, or files that hold code."""
    import pickle

    function = random.choice(
        (
            "diffeat_canary:run",
            "os:getcwd",
            "diffeat_canary:",
            "diffeat_canary",
            ":",
            "os:path.x",
            "..:x",
            "x" * 9999 + ":y",
        )
    )
    for name in ("lora.bin", "lora.pt", "weights.pt", "weights.safetensors", "weights.ckpt"):
        Path(name).write_bytes(pickle.dumps(Payload()))
    folder = Path("custom")
    folder.mkdir()
    config = {
        "model_type": "canary",
        "auto_map": dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor"), "modeling.Canary"),
    }
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(config))
    (folder / "modeling.py").write_text("import diffeat_canary\nclass Canary: ...\n")
    base: dict[str, Any] = {"model": "tiny-unet", "activations": ["up_blocks.1"], "trajectory": {"timesteps": [100]}}
    choices: dict[str, dict[str, Any]] = {
        "captioner": {"techniques": [{"kind": "prompt", "captioner": function}]},
        "captions": {
            "techniques": [
                {"kind": "prompt", "captions": random.choice(("fifo", "/dev/zero", "folder", "lora.bin", "none.csv"))}
            ]
        },
        "condition": {"techniques": [{"kind": "controlnet", "model": "custom", "condition": function}]},
        "depth": {"techniques": [{"kind": "controlnet", "model": "custom", "condition": "depth:custom"}]},
        "lora": {
            "techniques": [
                {"kind": "lora", "path": random.choice(("lora.bin", "lora.pt", "fifo", "folder", "/dev/zero", "none"))}
            ]
        },
        "ip-adapter": {"techniques": [{"kind": "ip-adapter", "model": random.choice(("custom", "lora.bin", "fifo"))}]},
        "custom": {"techniques": [{"kind": "custom", "function": function, "load": function}]},
        "weights": {
            "fuse": {
                "kind": "hyperfeatures",
                "grid": [8, 8],
                "weights": {
                    "source": random.choice(
                        ("weights.pt", "weights.safetensors", "weights.ckpt", "fifo", "/dev/zero", "folder")
                    )
                },
            }
        },
        "mixing": {
            "fuse": {
                "kind": "amalgamation",
                "grid": [8, 8],
                "weights": {"source": random.choice(("weights.pt", "weights.safetensors", "fifo"))},
            }
        },
        "model": {"model": random.choice(("custom", "fifo", "/dev/zero", "./folder"))},
        "vision": {"kind": "vision", "model": random.choice(("custom", "./custom", "fifo", "folder")), "size": 56},
        "view": {
            "views": [{"name": "a", "techniques": [{"kind": "prompt", "captioner": function}]}, {"name": "b"}],
            "fuse": {"kind": "mean", "grid": [8, 8]},
        },
    }
    label = random.choice(sorted(choices))
    data = choices[label] if label == "vision" else base | choices[label]
    Path(target).write_text(_dump(data), encoding="utf-8")
    return label


def _special(random: Random) -> tuple[str, str]:
    """A recipe's path that is no plain file, or no path."""
    links = {"zero": "/dev/zero", "dangling": "none.yaml", "loop": "hostile.yaml"}
    kind = random.choice(
        ("fifo", "folder", "missing", "huge", "bytes", "empty name", "long", "plus", "vision:", "baseline:", *links)
    )
    names = {
        "empty name": "",
        "plus": " + ",
        "vision:": "vision:",
        "baseline:": "baseline:x",
        "long": "x" * 5000,
        "fifo": "fifo",
        "folder": "folder",
    }
    target = names.get(kind, "hostile.yaml")
    if kind in links:
        os.symlink(links[kind], target)
    elif kind == "huge":
        with open(target, "wb") as file:
            file.truncate(1 << 36)
    elif kind == "bytes":
        Path(target).write_bytes(random.randbytes(5000))
    return kind, target


def _load(target: str) -> None:
    """Load a recipe; what was loaded is written and loaded to the same, and nothing in it is without bounds."""
    from diffeat.extraction import Recipe

    recipe = Recipe.load(target)
    again = Recipe.from_yaml(recipe.to_yaml())
    if again.hash != recipe.hash:
        raise Wrong(f"written and read again it is another recipe: {recipe!s:.100}")
    content = json.loads(json.dumps(recipe.content(), allow_nan=False))
    for path in places(content):
        value = content
        for key in path:
            value = value[key]
        if isinstance(value, (int, float)) and abs(value) > _BOUND and path[-1] != "seed" and "scale" not in path[-1:]:
            raise Wrong(f"no bound: {'.'.join(map(str, path))} may be {value!r:.40}")


def _run(target: str) -> None:
    """Extract a picture by it."""
    command("extract", "good.png", "--recipe", target, "--out", "out", good=(0, 1))


PART = Recipes()
