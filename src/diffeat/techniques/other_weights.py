"""The weights of a fine-tuned or merged model of the same architecture, in place of the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from diffeat.errors import ModelError
from diffeat.techniques.base import Scale, Technique

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffeat.backbones import Backbone
    from diffeat.techniques.scene import Desk

#: Weights by network of the pipeline and name; those that equal the model's own are the model's own.
_States = Mapping[str, Mapping[str, "Tensor"]]


class OtherWeights(Technique, frozen=True):
    """A denoiser's weights, or those of a whole model, which shares the autoencoder.

    With w the model's weights and w' the others, w + scale (w' - w) is used: exactly w' at 1. Of a model that a LoRA
    was merged into, another scale is the LoRA at that scale. Weights that equal the model's own are shared with it.

    Attributes:
        source: Of the denoiser: a file (also a single-file checkpoint), a folder that holds one or a whole pipeline, or
            a hub id with ``file``, as :func:`~diffeat.backbones.weights.load_denoiser_weights` takes it.
        file: File inside the folder or repository.
        revision: Of the hub repository.
        model: In place of ``source``: a model by name, hub id or folder. Its text encoders are taken too.
        scale: Any finite number.
    """

    words = {"denoiser": "source", "model": "model"}
    usage = ("denoiser:FILE,scale=1", "model:MODEL,scale=1")
    strength = "scale"
    changes_layers = True
    replaces_weights = True

    kind: Literal["weights"] = "weights"
    source: str | None = None
    file: str | None = None
    revision: str | None = None
    model: str | None = None
    scale: Scale = 1.0

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.source is None) == (self.model is None):
            raise ValueError("give either source, of a denoiser alone, or model")
        if self.model is not None and self.file is not None:
            raise ValueError("file belongs to source")
        return self

    @property
    def label(self) -> str:
        return f"weights {Path(self.file or self.source or self.model or '').stem} ×{self.scale:g}"

    def files(self) -> Sequence[str]:
        from diffeat.backbones.named import ModelName

        name = self.source or ModelName.parse(self.model or "").name
        return (str(Path(name) / self.file) if self.file else name,)

    @classmethod
    def change_layers(cls, desk: Desk, techniques: Sequence[Self]) -> bool:
        """
        Raises:
            ModelError: The weights cannot be had or do not fit, or the model has another autoencoder or predicts
                something else.
        """
        (other,) = techniques
        backbone = desk.backbone
        states = desk.keep(other.key, lambda: other._states(backbone))
        for name, state in states.items():
            network = _networks(backbone)[name]
            for path, value in state.items():
                owner, _, leaf = path.rpartition(".")
                module = network.get_submodule(owner)
                place: dict = module._parameters if leaf in module._parameters else module._buffers
                place[leaf] = value
        return any(name != _DENOISER for name, state in states.items() if state)

    def _states(self, backbone: Backbone) -> _States:
        """What differs from the model's own."""
        from diffeat.backbones.weights import denoiser_weights
        from diffeat.backbones.wrappers import offloaded

        if any(map(offloaded, backbone.networks)):
            raise ModelError("The weights of an offloaded model cannot be exchanged: load it without offloading.")
        if self.source is not None:
            state = denoiser_weights(backbone, self.source, self.file, self.revision)
            return {_DENOISER: self._mixed(backbone.denoiser, state)}
        others = _networks(self._other(backbone))
        return {
            name: self._mixed(network, _fitting(f"{name} of {self.model}", network, others[name]))
            for name, network in _networks(backbone).items()
            if name in others
        }

    def _other(self, backbone: Backbone) -> Backbone:
        from diffeat.backbones import Backbone
        from diffeat.backbones.loading import load_pipeline

        pipeline = load_pipeline(str(self.model), dtype=backbone.dtype, revision=self.revision)
        other = Backbone.from_pipeline(pipeline, name=str(self.model))
        if other.prediction_type != backbone.prediction_type:
            raise ModelError(
                f"{other.name} predicts {other.prediction_type!r} and {backbone.name} {backbone.prediction_type!r}: "
                "they cannot be views of one recipe. Join two recipes: 'ONE + OTHER'."
            )
        own, its = (getattr(b.pipeline, "vae", None) for b in (backbone, other))
        alike = own is its is None if own is None or its is None else self._same(own, its)
        if not alike:
            raise ModelError(
                f"{other.name} has another autoencoder than {backbone.name}, so they do not share latents. If its "
                f"denoiser alone is wanted, name it as denoiser: {{source: {self.model}}}; else join two recipes: "
                "'ONE + OTHER'."
            )
        return other

    def _same(self, own: nn.Module, other: nn.Module) -> bool:
        state = _fitting(f"autoencoder of {self.model}", own, other)
        return all(_equal(value, state[name]) for name, value in own.state_dict().items())

    def _mixed(self, network: nn.Module, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        mixed: dict[str, Tensor] = {}
        for name, own in network.state_dict(keep_vars=True).items():
            other = others[name].to(own.device)
            if self.scale == 0 or _equal(own.detach(), other):
                continue
            value = other
            if self.scale != 1 and own.is_floating_point():
                value = own.detach().float() + self.scale * (other.float() - own.detach().float())
            value = value.to(own.dtype, memory_format=torch.preserve_format)
            parameter = isinstance(own, torch.nn.Parameter)
            mixed[name] = torch.nn.Parameter(value, requires_grad=own.requires_grad) if parameter else value
        return mixed


_DENOISER = "denoiser"


def _networks(backbone: Backbone) -> dict[str, nn.Module]:
    """The denoiser and the text encoders."""
    parts = backbone.pipeline.components.items()
    encoders = {name: part for name, part in parts if name.startswith("text_encoder") and part is not None}
    return {_DENOISER: backbone.denoiser, **encoders}


def _fitting(what: str, network: nn.Module, other: nn.Module) -> dict[str, Tensor]:
    own, state = network.state_dict(), other.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
        raise ModelError(f"The {what} has another architecture than the model's own.")
    return state


def _equal(own: Tensor, other: Tensor) -> bool:
    import torch

    return own.shape == other.shape and torch.equal(own, other.to(own))
