"""What a path is that is no pipeline, and what to load or write instead."""

from __future__ import annotations

from pathlib import Path

from diffeat.backbones.files import PICKLED, check_regular, check_safetensors, read_object
from diffeat.backbones.folder import INDEX
from diffeat.errors import ModelError

DENOISERS = ("unet", "transformer")


def explain(place: str) -> ModelError:
    """The error for a path that was given as a model and is no folder of a pipeline."""
    path = Path(place)
    try:
        if not path.exists():
            return ModelError(
                f"The model {place} is not there. Give a name of diffeat, a hub id or a pipeline's folder."
            )
        return ModelError(f"{path} {_of_folder(path) if path.is_dir() else _of_file(path)}")
    except ModelError as error:
        return error
    except (OSError, ValueError) as error:  # no permission, a loop of links, a name that is none
        return ModelError(f"The model {place[:200]} cannot be read ({getattr(error, 'strerror', None) or error}).")


def _of_folder(folder: Path) -> str:
    inside = next((f for depth in ("*", "snapshots/*") for f in sorted(folder.glob(f"{depth}/{INDEX}"))), None)
    if inside is not None:
        return f"is no pipeline, but holds one: give {inside.parent}."
    names = {file.name for file in folder.iterdir()}
    if "adapter_config.json" in names or "pytorch_lora_weights.safetensors" in names:
        return f"is {_lora(folder)}"
    trained = [name for name in names if name.removesuffix("_ema") in DENOISERS and (folder / name).is_dir()]
    if trained:  # a checkpoint of a training, or an unfinished pipeline
        held = ", ".join(sorted(trained))
        return f"is no whole pipeline: it has no {INDEX}, only {held}. {_base(folder / min(trained))}"
    if "config.json" in names:
        config = read_object(folder / "config.json")
        kind = str(config.get("_class_name", ""))
        if (folder.parent / INDEX).is_file():
            return f"is a part of the pipeline {folder.parent}: give that folder."
        if "ControlNet" in kind:
            return f"is a {kind}: give its base as the model, and it as the technique `controlnet:{folder}`."
        if kind.startswith(("Autoencoder", "VQ")):
            return f"is an autoencoder ({kind}) alone: give the folder of a pipeline that holds it as vae/."
        if "UNet" in kind or "Transformer" in kind:
            return f"is a denoiser ({kind}) alone. {_base(folder)}"
        if kind:
            return f"is a {kind} alone: give the folder of the whole pipeline."
        if config.get("architectures") or config.get("model_type"):
            name = config.get("architectures") or [config.get("model_type")]
            return (
                f"is a model of transformers ({str(name[0])[:80]}), no pipeline: as a recipe it is `vision:{folder}`."
            )
    weights = sorted(name for name in names if Path(name).suffix in (".safetensors", ".gguf", *PICKLED))
    if weights and "optimizer.bin" in names:
        return "is the state of a training: give the pipeline or the unet/ that the training saved at its end."
    if weights:
        return f"is no pipeline: it has no {INDEX}, only weights. " + _of_file(folder / weights[0], "The first")
    return (
        f"is not a diffusers pipeline: it has no {INDEX}. Give the directory that save_pretrained() of a pipeline "
        "wrote (with its unet or transformer, vae, scheduler, …)."
    )


def _of_file(file: Path, which: str = "") -> str:
    subject = f"{which}, {file.name}, is".lstrip(", ") if which else "is"
    if file.name == INDEX:
        return f"is a file of the pipeline {file.parent}: give that folder."
    if file.suffix in (".gguf", ".safetensors", *PICKLED):
        check_regular(file)
    if file.suffix == ".gguf":
        return f"{subject} a quantised denoiser (GGUF): give the file itself as the model."
    if file.suffix == ".safetensors":
        names = check_safetensors(file)
        if any("lora" in name for name in names):
            return f"{subject} {_lora(file)}"
        single = any(name.startswith("model.diffusion_model.") for name in names)
        return f"{subject} a {'single-file checkpoint' if single else 'file of weights'}, no pipeline. {_base(file)}"
    if file.suffix in PICKLED:
        return f"{subject} a file of weights, no pipeline. {_base(file)}"
    return "is a file, not a pipeline's folder."


def _lora(path: Path) -> str:
    return f"a LoRA: give its base as the model, and it as the technique `lora:{path}`."


def _base(path: Path) -> str:
    """How other weights of the denoiser are used."""
    whole = path.suffix in (".safetensors", *PICKLED)
    convert = (
        "; or make a pipeline of a whole checkpoint: diffusers' StableDiffusionPipeline.from_single_file(…)"
        ".save_pretrained(FOLDER)"
        if whole
        else ""
    )
    if path.suffix in PICKLED:
        convert += "; or, of weights of guided-diffusion, with `diffeat convert FILE --out FOLDER`"
    return f"Write a recipe with its base as `model:` and `denoiser: {{source: {path}}}`{convert}."
