r"""The adapters of a whole CleanDIFT checkpoint: from clean features to those of a timestep.

CleanDIFT (Stracke et al., CVPR 2025) fine-tunes a denoiser to read the clean latent at one told timestep, itself
trained. While it is trained, an adapter for each activation maps the clean feature x at every position to what the
original model's would be at t; for use the adapters are left out, and with them a feature of any timestep can be asked
for. With :math:`c = M(W\,[\cos 2\pi w t', \sin 2\pi w t'])`, t' = t / 999 and M a stack of blocks of the same kind
without condition, each of an adapter's blocks adds

.. math:: x \leftarrow x + D\,(a \odot \mathrm{silu}(b)),\qquad (a, b) = U\,\bigl((1 + S c) \odot \mathrm{rms}(x)\bigr)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones.files import read_tensors
from diffeat.backbones.weights import find_weights
from diffeat.errors import ModelError, UnknownNameError, did_you_mean

#: What of a checkpoint is not trained with the adapters.
FIXED = ("timestep", "time_emb.weight")
_LARGEST_TIMESTEP, _EPS = 999, 1e-6


class CleanDiftAdapters:
    """Adapters by the name of their activation: ``mid``, ``us1`` … ``us10`` of the published ones (``cleandift:us6`` in
    recipes), ids of those that :func:`diffeat.training.train_clean` trained.

    Args:
        state: Tensors of a whole checkpoint, by name. Gradients reach those in float32.

    Attributes:
        timestep: What the fine-tuned denoiser is told; for a recipe's ``trajectory.timesteps``.
        names: Of the adapters.

    Raises:
        ModelError: The checkpoint holds no adapters.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = {
            name: value.float()
            for name, value in state.items()
            if name.startswith(("adapters.", "mapping.", "time_emb.", "time_in_proj.", "timestep"))
        }
        inside = (name.removeprefix("adapters.") for name in self._state if name.startswith("adapters."))
        self.names = sorted({name.rpartition(".layers.")[0] for name in inside})
        if not self.names or not {"timestep", "time_emb.weight", "time_in_proj.weight"} <= self._state.keys():
            raise ModelError(
                "These weights hold no CleanDIFT adapters; they lie in cleandift_sd21_full.safetensors and "
                "cleandift_sd15_full.safetensors of CompVis/cleandift."
            )
        self.timestep = float(self._state["timestep"])

    @classmethod
    def load(cls, source: str = "CompVis/cleandift", file: str | None = None) -> CleanDiftAdapters:
        """The adapters of a checkpoint: a file, or ``file`` in a folder or hub repository.

        Raises:
            ModelError: There is none, or it holds no adapters.
        """
        return cls(read_tensors(find_weights(source, file, None, "adapter")))

    def __call__(
        self, name: str, feature: Float[Tensor, "*b c h w"], timestep: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "*b c h w"]:
        """A clean feature as the original model would give it at a timestep, in float32.

        Args:
            name: Of the activation.
            timestep: 1…999; one, or one for each row.

        Raises:
            UnknownNameError: There is no such adapter.
        """
        name = name.removeprefix("cleandift:")
        if name not in self.names:
            raise UnknownNameError(f"There is no adapter {name!r}. {did_you_mean(name, self.names)}")
        waves = self._state["time_emb.weight"][:, 0]
        at = torch.as_tensor(timestep, dtype=torch.float32, device=waves.device)
        turns = 2 * math.pi * at[..., None] / _LARGEST_TIMESTEP * waves
        condition = torch.cat([turns.cos(), turns.sin()], dim=-1) @ self._state["time_in_proj.weight"].T
        condition = _rms(condition, self._state["mapping.in_norm.scale"])
        for block in self._blocks("mapping.blocks"):
            condition = _block(condition, block, block["norm.scale"])
        condition = _rms(condition, self._state["mapping.out_norm.scale"])
        x = feature.float().movedim(-3, -1)
        for block in self._blocks(f"adapters.{name}.layers"):
            x = _block(x, block, 1 + (condition @ block["norm.linear.weight"].T)[..., None, None, :])
        return x.movedim(-1, -3)

    def _blocks(self, prefix: str) -> list[dict[str, Tensor]]:
        inside = {
            name.removeprefix(f"{prefix}."): v for name, v in self._state.items() if name.startswith(f"{prefix}.")
        }
        count = len({name.split(".")[0] for name in inside})
        return [
            {name.partition(".")[2]: v for name, v in inside.items() if name.startswith(f"{i}.")} for i in range(count)
        ]


def new_adapters(channels: Mapping[str, int], timestep: float, depth: int = 3, width: int = 256) -> dict[str, Tensor]:
    """First weights for adapters of these activations, by the names of a checkpoint: each maps a feature to itself.

    Args:
        channels: Of each activation.
        timestep: What the denoiser is told.
        depth: Blocks of an adapter.
        width: Of the condition.

    Example:
        >>> feature = torch.randn(6, 4, 4)
        >>> torch.equal(CleanDiftAdapters(new_adapters({"mid": 6}, 261))("mid", feature, 20.0), feature)
        True
    """

    def drawn(outside: int, inside: int) -> Tensor:
        return torch.randn(outside, inside) / inside**0.5

    def block(prefix: str, size: int, inner: int) -> dict[str, Tensor]:
        down = torch.zeros(size, inner)
        return {f"{prefix}.up_proj.weight": drawn(2 * inner, size), f"{prefix}.down_proj.weight": down}

    state = {
        "timestep": torch.tensor(float(timestep)),
        "time_emb.weight": torch.randn(width // 2, 1),
        "time_in_proj.weight": drawn(width, width),
        "mapping.in_norm.scale": torch.ones(width),
        "mapping.out_norm.scale": torch.ones(width),
    }
    for i in range(2):
        state |= {f"mapping.blocks.{i}.norm.scale": torch.ones(width), **block(f"mapping.blocks.{i}", width, 3 * width)}
    for name, size in channels.items():
        for i in range(depth):
            prefix = f"adapters.{name}.layers.{i}"
            state |= {f"{prefix}.norm.linear.weight": torch.zeros(size, width), **block(prefix, size, size)}
    return state


def _rms(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS)


def _block(x: Tensor, weights: Mapping[str, Tensor], scale: Tensor) -> Tensor:
    value, gate = (_rms(x, scale) @ weights["up_proj.weight"].T).chunk(2, dim=-1)
    return x + (value * F.silu(gate)) @ weights["down_proj.weight"].T
