r"""What is trained in a diffusion model itself, beside a head.

* ``denoiser``: all its weights, as VPD does (Zhao et al., ICCV 2023); autoencoder and text encoders stay.
* ``lora``: of its attention layers' projections, :math:`W + BA` with B and A of a small rank (Hu et al., ICLR 2022), B
  from zero.
* a learned text: embeddings in place of those of the recipe's text, which they start as (Meta Prompts,
  arXiv:2312.14733, learn such embeddings beside a frozen text encoder).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from diffeat.ambient import seeded
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import InvalidValueError, ModelError, shown
from diffeat.extraction import Extractor
from diffeat.features import FeatureMap, Source

What = Literal["denoiser", "lora", "none"]
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "qkv", "proj_out")
#: Arguments of denoisers that hold texts.
_TEXTS = ("encoder_hidden_states", "pooled_projections")


class LowRank(nn.Module):
    """Adds a product of small matrices to a weight."""

    def __init__(self, outside: int, inside: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, inside) / inside**0.5)
        self.up = nn.Parameter(torch.zeros(outside, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).to(weight)


class Tuned:
    """Weights in a source's diffusion model that are trained; the model is changed in place.

    Args:
        source: Of one diffusion model.
        what: See the module's docstring.
        rank: Of ``lora``.
        text: Whether the text is learned.
        seed: Of the first weights.

    Raises:
        InvalidValueError: There is nothing of the kind in this model.
    """

    def __init__(self, source: Extractor, what: What, rank: int = 8, text: bool = False, seed: int = 0) -> None:
        backbone = source.backbone
        denoiser = unwrapped(backbone.denoiser)
        self.settings: dict[str, Any] = {"what": what, "rank": rank, "text": text}
        self.denoiser = denoiser
        for network in backbone.networks:
            network.requires_grad_(False)
        self._weights: dict[str, nn.Parameter] = {}
        with seeded(seed, next(denoiser.parameters()).device):
            if what == "denoiser":
                denoiser.requires_grad_(True)
                self._weights = dict(denoiser.named_parameters())
            elif what == "lora":
                self._weights = dict(_low_rank(denoiser, rank, backbone.name))
        if text:
            self._learn_text(source)

    def _learn_text(self, source: Extractor) -> None:
        backbone = source.backbone
        arguments = backbone.condition([source.recipe.prompt]).arguments()
        found = {name: arguments[name] for name in _TEXTS if isinstance(arguments.get(name), Tensor)}
        pooled = (arguments.get("added_cond_kwargs") or {}).get("text_embeds")
        if not found:
            raise InvalidValueError(f"{backbone.name} reads no text, so none can be learned for it.")
        learned = {f"text.{name}": nn.Parameter(value[:1].detach().float().clone()) for name, value in found.items()}
        if pooled is not None:
            learned["text.pooled"] = nn.Parameter(pooled[:1].detach().float().clone())
        self._weights |= learned

        def replaced(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            own: dict[str, Any] = {name: _as(learned[f"text.{name}"], kwargs[name]) for name in found}
            if pooled is not None:
                added = kwargs["added_cond_kwargs"]
                own["added_cond_kwargs"] = {**added, "text_embeds": _as(learned["text.pooled"], added["text_embeds"])}
            return args, {**kwargs, **own}

        self.denoiser.register_forward_pre_hook(replaced, with_kwargs=True)

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self._weights.values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return dict(self._weights)

    def state_dict(self) -> dict[str, Tensor]:
        """By name."""
        return {name: weight.detach() for name, weight in self._weights.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights.

        Raises:
            ModelError: They are not of this model.
        """
        for name, weight in self._weights.items():
            if name not in state or state[name].shape != weight.shape:
                raise ModelError(
                    f"The tuned weights do not fit this model: {name} is "
                    f"{'missing' if name not in state else f'{tuple(state[name].shape)}, not {tuple(weight.shape)}'}."
                )
            weight.copy_(state[name])

    load_state_dict = load


def tuned_of(source: Source[FeatureMap], what: What, rank: int = 8, text: bool = False, seed: int = 0) -> Tuned:
    """See :class:`Tuned`.

    Raises:
        InvalidValueError: The source is not of one diffusion model, or ``what`` or ``rank`` does not fit.
    """
    if what not in get_args(What):
        raise InvalidValueError(f"{shown(what)} cannot be tuned: choose from {', '.join(get_args(What))}.")
    if rank < 1:
        raise InvalidValueError(f"The rank of a LoRA is at least 1, got {rank}.")
    if not isinstance(source, Extractor):
        raise InvalidValueError(
            f"Only a recipe of one diffusion model can be tuned; {source.recipe.name!r} is none. Use --tune none."
        )
    if source.recipe.trajectory.stepped:
        raise InvalidValueError(
            "A recipe that walks (inversion, generation) is not tuned: it reads at noise levels only."
        )
    return Tuned(source, what, rank, text, seed)


def _low_rank(denoiser: nn.Module, rank: int, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    layers = {n: m for n, m in denoiser.named_modules() if isinstance(m, nn.Linear) and n.endswith(_PROJECTIONS)}
    if not layers:
        raise InvalidValueError(f"{name} has no attention layers to add a LoRA to. Use --tune denoiser or none.")
    for path, layer in layers.items():
        part = LowRank(layer.out_features, layer.in_features, rank).to(layer.weight.device)
        parametrize.register_parametrization(layer, "weight", part)
        yield from ((f"{path}.{key}", weight) for key, weight in part.named_parameters())


def _as(learned: Tensor, given: Tensor) -> Tensor:
    return learned.to(given).expand(len(given), *learned.shape[1:])
