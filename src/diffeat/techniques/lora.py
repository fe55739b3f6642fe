"""Low-rank adapters through PEFT: diffusers and kohya files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from diffeat.errors import ModelError
from diffeat.techniques.base import Scale, Technique

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

    from diffeat.techniques.scene import Desk

_PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
_DOWN = ".lora_A.weight"


class LoRA(Technique, frozen=True):
    """A LoRA of the denoiser, and of the text encoders where the file has them.

    Attributes:
        path: A safetensors file or folder of diffusers or kohya format, or a hub id.
        file: File inside the folder or repository.
        scale: Factor on the adapter, any finite number; 1 is as trained, negative ones turn it around.
    """

    words = {"lora": "path"}
    usage = ("lora:FILE,scale=0.7",)
    strength = "scale"
    changes_layers = True
    once = False

    kind: Literal["lora"] = "lora"
    path: str
    file: str | None = None
    scale: Scale = 1.0

    @property
    def label(self) -> str:
        return f"lora {Path(self.file or self.path).stem} ×{self.scale:g}"

    def files(self) -> Sequence[str]:
        return (str(Path(self.path) / self.file) if self.file else self.path,)

    @classmethod
    def change_layers(cls, desk: Desk, techniques: Sequence[Self]) -> bool:
        """
        Raises:
            ModelError: If a file cannot be read, or was made for another architecture; names the layers.
        """
        from diffeat.backbones.hub import near

        pipeline = desk.backbone.pipeline
        if not hasattr(pipeline, "load_lora_weights"):
            raise ModelError(f"{type(pipeline).__name__} takes no LoRA.")
        if any(getattr(part, "peft_config", None) for part in pipeline.components.values()):
            raise ModelError(
                "The pipeline has LoRA adapters of its own. Unload them first (pipeline.unload_lora_weights()) and "
                "give them as techniques."
            )
        text, names = False, []
        for i, lora in enumerate(techniques):
            state = _read(pipeline, lora)
            text |= any(key.startswith("text_encoder") for key in state)
            _check(pipeline, lora, state)
            name = f"diffeat{i}"
            try:
                pipeline.load_lora_weights(near(lora.path), adapter_name=name, **_file(lora))
            except Exception as error:  # PEFT and diffusers raise whatever they run into
                raise ModelError(
                    f"The LoRA {lora.path!r} cannot be applied ({type(error).__name__}: {error})."
                ) from error
            names.append(name)
        pipeline.set_adapters(names, [lora.scale for lora in techniques])
        return text


def _file(lora: LoRA) -> dict[str, str]:
    return {"weight_name": lora.file} if lora.file else {}


def _read(pipeline: DiffusionPipeline, lora: LoRA) -> Mapping[str, Tensor]:
    from diffeat.backbones.hub import near

    if lora.path.endswith((".safetensors", ".bin", ".pt")) and not Path(lora.path).is_file():
        raise ModelError(f"The LoRA {lora.path!r} cannot be read: there is no such file.")
    options = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
    try:
        state = pipeline.lora_state_dict(near(lora.path), **_file(lora), **options)
    except Exception as error:
        raise ModelError(f"The LoRA {lora.path!r} cannot be read ({type(error).__name__}: {error}).") from error
    return state[0] if isinstance(state, tuple) else state


def _check(pipeline: DiffusionPipeline, lora: LoRA, state: Mapping[str, Tensor]) -> None:
    """Diffusers drops layers that do not fit with a warning at most; a LoRA that does half of its work is an error."""
    wrong = []
    try:
        layers = list(_layers(state))
    except ValueError as error:
        raise ModelError(f"The LoRA {lora.path!r} has layers in a form that diffusers does not know: {error}") from None
    for name, path, width in layers:
        layer = _layer(getattr(pipeline, name, None), path)
        takes = getattr(layer, "in_features", None) or getattr(layer, "in_channels", None)
        if layer is None:
            wrong.append(f"{name}.{path} does not exist")
        elif takes != width:
            wrong.append(f"{name}.{path} takes {takes} channels, not {width}")
    if not layers:
        raise ModelError(f"The LoRA {lora.path!r} has no layers for a {type(pipeline).__name__}.")
    if wrong:
        raise ModelError(
            f"The LoRA {lora.path!r} was made for another architecture: {len(wrong)} of its {len(layers)} layers do "
            f"not fit this model, e.g. {'; '.join(wrong[:2])}."
        )


def _layers(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, int]]:
    """Network, path and input width of every adapted layer, whatever way the file names them."""
    from diffusers.utils.state_dict_utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    for name in _PARTS:
        part = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        if part and not any(_DOWN in key for key in part):
            if name.startswith("text_encoder"):
                part = convert_state_dict_to_peft(convert_state_dict_to_diffusers(part))
            else:
                part = convert_unet_state_dict_to_peft(part)
        for key, weight in part.items():
            if key.endswith(_DOWN):
                yield name, key.removesuffix(_DOWN), weight.shape[1]


def _layer(part: nn.Module | None, path: str) -> nn.Module | None:
    try:
        return None if part is None else part.get_submodule(path)
    except AttributeError:
        return None
