"""Models in one file: checkpoints with all parts under the names of their first home, and GGUF files of a denoiser.

Such a file brings no configurations and no tokenizers; those of its base are taken, by default of the model that
diffusers takes its tensors for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffeat.backbones.card import cards
from diffeat.backbones.files import PICKLED, check_regular, check_safetensors, read_tensors, said
from diffeat.backbones.folder import PipelineFolder, installed
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SINGLE_FILE = ("model.diffusion_model.", "first_stage_model.")


def is_single_file(path: str) -> bool:
    """Whether a path is a file that holds a whole model, or a denoiser in GGUF, by its name and its tensors' names."""
    file = Path(os.path.expanduser(path))
    if file.suffix not in (".safetensors", ".gguf", *PICKLED) or not file.is_file():
        return False
    if file.suffix == ".gguf":
        return True
    try:
        names = check_safetensors(file) if file.suffix == ".safetensors" else read_tensors(file)
    except ModelError:
        return False
    return all(any(name.startswith(prefix) for name in names) for prefix in _SINGLE_FILE)


def base_of(path: str) -> str:
    """The model with a name here whose configurations belong to a file."""
    from diffusers.loaders.single_file_utils import (
        DIFFUSERS_DEFAULT_PIPELINE_PATHS,
        infer_diffusers_model_type,
        load_single_file_checkpoint,
    )

    _check_gguf(path := os.path.expanduser(path))
    try:
        tensors = load_single_file_checkpoint(path)
        kind = infer_diffusers_model_type(tensors)
    except Exception as error:  # whatever a foreign file provokes
        raise ModelError(f"{path} cannot be read as a model ({said(error)}).") from error
    if kind == "v1" and not any("input_blocks." in name for name in tensors):  # diffusers' word for all others
        raise ModelError(
            f"{path} does not tell by its tensors which model it is of. Say what it was trained from: {path},base=…"
        )
    place = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    name = next((name for name, card in cards().items() if place in card.ids), None)
    if name is None:
        raise ModelError(
            f"{path} looks like a {kind} ({place}), which has no name here. Say what it was trained from: {path},base=…"
        )
    return name


def load_single_file(path: str, folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of a file; the folder is that of its base, of a GGUF file with the weights of all other parts."""
    import diffusers

    _check_gguf(path)
    check_regular(Path(path))
    pipeline = getattr(diffusers, PipelineFolder.read(folder).pipeline)
    try:
        if not path.endswith(".gguf"):
            return pipeline.from_single_file(
                path, config=str(folder), local_files_only=True, safety_checker=None, torch_dtype=dtype
            )
        part = "transformer" if (folder / "transformer").is_dir() else "unet"
        kind = getattr(diffusers, PipelineFolder.read(folder).classes[part])
        if not hasattr(kind, "from_single_file"):
            raise ModelError(
                f"{path} cannot be read: diffusers reads no single files of a {kind.__name__}. Load a folder, "
                "unquantised or quantised by torchao."
            )
        denoiser = kind.from_single_file(
            path,
            config=str(folder),
            subfolder=part,
            local_files_only=True,
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
            torch_dtype=dtype,
        )
        return pipeline.from_pretrained(
            folder, **{part: denoiser}, dtype=dtype, local_files_only=True, trust_remote_code=False
        )
    except ModelError:
        raise
    except Exception as error:  # anything a damaged or foreign file provokes inside the loaders
        raise ModelError(
            f"{path} does not fit the configurations in {folder} ({said(error)}). Say what it was trained from: "
            f"{path},base=…"
        ) from error


def _check_gguf(path: str) -> None:
    if path.endswith(".gguf") and not installed("gguf"):
        raise ModelError(f"{path} is quantised by GGUF: `pip install gguf`, or load unquantised weights.")
