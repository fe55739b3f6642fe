"""A folder with a diffusers pipeline, looked through before any library reads it.

Classes are taken by name from diffusers and transformers alone; nothing that a folder brings is imported. Numbers that
would build a network for hours, names that leave the folder, and files that are none are refused here, in one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffeat.backbones.card import refuse_unsupported
from diffeat.backbones.files import check_regular, check_safetensors, read_object
from diffeat.errors import ModelError, did_you_mean

INDEX = "model_index.json"
_CONFIGS = ("config.json", "scheduler_config.json")
#: Parts that never run when features are read.
UNUSED = frozenset({"safety_checker"})
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.(safetensors|bin)"
    r"(?:\.index(?:\.(\w+))?\.json)?"
)
#: What to install for weights that were quantised, by ``quant_method``.
_QUANTISERS = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "torchao": ("torchao", "torchao"),
    "gguf": ("gguf", "gguf"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "modelopt": ("modelopt", "nvidia-modelopt"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "awq": ("awq", "autoawq"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
}
#: The most that a configuration may ask for: entries by a part of their name, then any other.
_LARGEST = {"num_train_timesteps": 10**5, "sample_size": 4096, "pos_embed": 2048, "layers": 1000, "heads": 1000}
_LARGEST_NUMBER = 10**8


@dataclass(frozen=True)
class PipelineFolder:
    """What a folder holds.

    Attributes:
        pipeline: Name of the class of the pipeline.
        classes: Name of the class of each part that it was saved with.
        absent: Parts that it was saved without, and those that never run.
        variants: Of the weights of each part that has weights, such as ``"fp16"``; ``None`` for plain files.
    """

    path: Path
    pipeline: str
    classes: dict[str, str]
    absent: tuple[str, ...]
    variants: dict[str, str | None]

    @property
    def variant(self) -> str | None:
        """The variant that some parts are loaded in."""
        return next((variant for variant in self.variants.values() if variant), None)

    @classmethod
    def read(cls, path: Path, variant: str | None = None) -> PipelineFolder:
        """What a folder holds; by default plain files count, or the variant that is there alone."""
        pipeline, classes, absent = read_index(path)
        missing = [part for part in classes if not (path / part).is_dir()]
        if missing:
            raise ModelError(f"The model {path} is incomplete: {', '.join(missing)} missing. Download it again.")
        variants: dict[str, set[str]] = {}
        for part in classes:
            check_folder(path / part)
            weights = [weights_of(file.name) for file in (path / part).iterdir() if file.suffix != ".json"]
            if any(weights):
                variants[part] = {kind[0] for kind in weights if kind}
        chosen = chosen_variant(path, variants, variant)
        return cls(
            path, pipeline, classes, absent, {part: chosen if chosen in v else None for part, v in variants.items()}
        )

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part; empty if it has none."""
        file = next((self.path / part / name for name in _CONFIGS if (self.path / part / name).exists()), None)
        return {} if file is None else read_object(file)


def read_index(path: Path) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Class of the pipeline, classes of its parts, and the parts it was saved without or that never run."""
    import diffusers
    import transformers

    index = read_object(path / INDEX)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise ModelError(f"{path / INDEX} names no pipeline of diffusers ({str(pipeline)[:80]}); code is never loaded.")
    classes, absent = {}, []
    for part, value in index.items():
        if not isinstance(value, list) or part.startswith("_"):
            continue
        if value == [None, None] or part in UNUSED:
            absent.append(part)
        elif len(value) == 2 and part.isidentifier() and all(isinstance(v, str) for v in value):
            classes[part] = value[1]
            library = {"diffusers": diffusers, "transformers": transformers}.get(value[0])
            library = getattr(diffusers.pipelines, value[0], None) if library is None else library
            refuse_unsupported(value[1])
            if not value[1].isidentifier() or not isinstance(getattr(library, value[1], None), type):
                raise ModelError(
                    f"The {part} of {path} is a {value[1][:80]!r} of {value[0][:80]!r}, which diffusers "
                    f"{diffusers.__version__} does not have. If it is newer, update diffusers; code is never loaded."
                )
        elif part.isidentifier() and all(isinstance(v, (int, float)) for v in value):
            continue  # a setting of the pipeline
        else:
            raise ModelError(f"{path / INDEX} describes a part by {str({part: value})[:120]}, which is no class.")
    refuse_unsupported(pipeline)
    stock = getattr(diffusers, pipeline, None)
    if not (isinstance(stock, type) and issubclass(stock, diffusers.DiffusionPipeline)):
        near = did_you_mean(pipeline, [name for name in dir(diffusers) if name.endswith("Pipeline")])
        raise ModelError(
            f"diffusers {diffusers.__version__} has no pipeline {pipeline[:80]!r}, which {path} names. {near}".strip()
        )
    expected, _ = stock._get_signature_keys(stock)
    lacks = sorted(set(expected) - {*classes, *absent, *stock._optional_components})
    if lacks:
        raise ModelError(f"{path / INDEX} has no {', no '.join(lacks)}, which a {pipeline} needs.")
    return pipeline, classes, tuple(absent)


def check_folder(folder: Path) -> None:
    """Look through the folder of one part."""
    if not folder.is_dir() or (not (folder / "config.json").exists() and not any(folder.iterdir())):
        raise ModelError(f"The folder {folder} of a model is not there.")
    for file in sorted(folder.iterdir()):
        if file.is_dir():
            continue
        if file.suffix in (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja"):
            check_regular(file)
        if file.suffix == ".safetensors":
            check_safetensors(file)
        elif file.name.endswith("config.json"):
            check_config(file)
        elif ".index." in file.name and file.suffix == ".json":
            shards_of(file)


def check_config(file: Path) -> dict[str, Any]:
    """The configuration of one part; refused if it asks for the impossible, or for a library that is not installed."""
    config = read_object(file)
    if "auto_map" in config and str(config.get("_class_name", "")).startswith("Auto"):
        raise ModelError(f"{file} asks for code of its own (auto_map), which is never run.")
    for name, number in _numbers(config) if "tokenizer" not in file.name else ():
        most = next((most for part, most in _LARGEST.items() if part in name), _LARGEST_NUMBER)
        if abs(number) > most:
            raise ModelError(f"{file} asks for {name} {number:.6g}, which is no size of a model ({most:,} at most).")
    method = quantiser(config)
    if method is not None:
        module, package = _QUANTISERS.get(method, ("", ""))
        if not module:
            raise ModelError(
                f"{file}: quantised by {method[:80]!r}, which is not known here. Load unquantised weights."
            )
        if not installed(module):
            raise ModelError(
                f"The {file.parent.name} in {file.parent.parent} is quantised by {method}: `pip install {package}`, "
                "or load unquantised weights."
            )
    return config


def quantiser(config: dict[str, Any]) -> str | None:
    """What quantised the weights of a part, by its configuration; ``None`` if nothing did."""
    quantised = config.get("quantization_config")
    if not isinstance(quantised, dict):
        return None
    if any(str(key).startswith("load_in_") for key in quantised):
        return "bitsandbytes"
    return str(quantised.get("quant_method") or next((m for m in _QUANTISERS if m in str(quantised)), None))


def installed(module: str) -> bool:
    """Whether a module of this name can be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def _numbers(config: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _numbers(value, str(key)[:80])
    elif isinstance(config, list):
        for value in config:
            yield from _numbers(value, name)
    elif isinstance(config, int) and not isinstance(config, bool):
        yield name, config


def shards_of(index: Path) -> list[Path]:
    """The files of weights that lie in several."""
    shards = read_object(index).get("weight_map")
    names = list(map(str, shards.values())) if isinstance(shards, dict) else []
    strange = [name for name in names or [""] if not name or Path(name).name != name]
    if strange:
        raise ModelError(f"{index} does not say which files hold the weights ({strange[0][:80]!r}).")
    return [check_regular(index.parent / name) for name in dict.fromkeys(names)]


def weights_of(name: str) -> tuple[str, str] | None:
    """Variant (``""`` if plain) and format of a file of weights or of their index, by its name; ``None`` for others."""
    match = _WEIGHTS.fullmatch(name)
    return match and (match[1] or match[2] or match[4] or "", match[3])


def chosen_variant(path: Path | str, variants: dict[str, set[str]], asked: str | None) -> str | None:
    """The variant to load, of those that each part has (``""`` for plain weights)."""
    if asked:
        if not any(asked in held for held in variants.values()):
            held = ", ".join(sorted({v for held in variants.values() for v in held} - {""})) or "none"
            raise ModelError(f"The model {path} has no variant {asked!r}; leave it out (its variants: {held}).")
        return asked
    bare = {part: held for part, held in variants.items() if "" not in held}
    common = set.intersection(*bare.values()) if bare else set()
    if bare and not common:
        each = "; ".join(f"{part}: {', '.join(sorted(held))}" for part, held in bare.items())
        raise ModelError(f"No variant of the weights is there for all parts of {path} ({each}). Download one of them.")
    if not common:
        return None
    return next((v for v in ("fp16", "bf16") if v in common), min(common))
