"""Training of the U-Net together with the text encoder on encoded pictures.

v-prediction (Salimans and Ho 2022) with uniform timesteps, or more of the noisy ones. In terms of the clean latent's
error, a timestep then counts SNR + 1: unlike under noise prediction, where it counts SNR, the shapes and colours that
only much noise hides are learned soon. The other end is capped at 5, so that texture does not drown them. A share of
the captions is replaced by the empty prompt, under which features are read and without which there is no guidance.
Where the caption is hidden, linear heads tell what it says of the figure, its class and the side it shows, from the
mean over positions of a deep and a middle block: the denoiser profits from knowing that, and an hour of denoising alone
does not teach it. They count by how much of the picture the noise leaves (the cumulative alpha), and are not part of
the model. The weights that count are a moving average.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from diffeat.datasets.toyworld import CLASSES
from diffeat.errors import UnknownNameError, did_you_mean
from diffeat.training.checkpoint import Tensors, within
from diffeat.training.loop import STATE, Loop, Schedule, Values
from tools.zoo import cache
from tools.zoo.build import Parts, make_scheduler
from tools.zoo.optimiser import MuonAdamW
from tools.zoo.runs import MovingAverage, Work, at_step, autocast, finished_stage, shared_gradients

#: share of hidden captions
DROPPED = 0.5
#: most that a timestep counts
CAP = 5.0
#: weight of the heads' cross-entropies, in nats a picture
WORDS = 0.15
#: blocks whose means are read
READ = ("mid_block", "up_blocks.1")
#: words of which a caption says one, or none
GROUPS = (CLASSES, ("left", "right", "camera", "behind"))


def _named(parts: Parts) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in (("unet", parts.unet), ("text", parts.text)):
        for name, value in module.named_parameters():
            yield f"{prefix}.{name}", value


def is_frozen(name: str, freeze: Sequence[str]) -> bool:
    """Whether a weight belongs to one of the modules ``freeze``."""
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in freeze)


def check_frozen(parts: Parts, freeze: Sequence[str]) -> None:
    """Refuse to freeze what has no weights.

    Raises:
        UnknownNameError: A name in ``freeze`` is no module; the nearest are named.
    """
    names = [name for name, _ in _named(parts)]
    for module in freeze:
        if not any(is_frozen(name, [module]) for name in names):
            modules = {".".join(name.split(".")[:k]) for name in names for k in range(1, name.count(".") + 1)}
            raise UnknownNameError(f"There is no module {module!r} to freeze. {did_you_mean(module, sorted(modules))}")


def load_average(parts: Parts, average: dict[str, Tensor]) -> None:
    """Put averaged weights into the networks."""
    with torch.no_grad():
        for name, value in _named(parts):
            value.copy_(average[name])


def _plain_layout(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Inputs without gradients leave channels-last memory: torch 2.13's GroupNorm dies in its backward pass there."""
    return None if inputs[0].requires_grad else (inputs[0].contiguous(), *inputs[1:])


class Examples:
    """Encoded pictures and their captions as token ids.

    Args:
        run: Folder of the encoded pictures.
        pictures: Folder of the captions.
        tokenizer: Of the text encoder.
        scale: What latents are multiplied with.
        hide: Share of hidden captions.
        late: ``(count, share)``: the share of each batch that is drawn from the last ``count`` pictures (default: all
            pictures are drawn alike).
    """

    def __init__(
        self, run: Path, pictures: Path, tokenizer, scale: float, hide: float = DROPPED,
        late: tuple[int, float] | None = None,
    ) -> None:  # fmt: skip
        self.hide, self.late = hide, late
        self.latents = [np.load(p, mmap_mode="r") for p in sorted(run.glob("latents-*.npy"))]
        self.ids = []
        for path in cache.shards(pictures)[: len(self.latents)]:
            self.ids.append(_tokens(tokenizer, cache.captions_of(path)))
        self.empty = _tokens(tokenizer, [""])[0]
        self.scale = scale
        ends = np.cumsum([len(shard) for shard in self.latents])
        self.starts = np.concatenate([[0], ends[:-1]])
        self.count = int(ends[-1])
        self.groups = [[int(_tokens(tokenizer, [word])[0, 1]) for word in group] for group in GROUPS]

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latent draws ``(b, c, h, w)``, true token ids ``(b, n)``, and whether each caption is hidden ``(b,)``."""
        rows, ids = [], []
        for index in self._indices(size, generator):
            shard = int(np.searchsorted(self.starts, index, side="right")) - 1
            offset = index - int(self.starts[shard])
            rows.append(torch.from_numpy(np.array(self.latents[shard][offset])).float())
            ids.append(self.ids[shard][offset])
        posterior, tokens = torch.stack(rows), torch.stack(ids)
        hidden = torch.rand(size, generator=generator) < self.hide
        noise = torch.randn(posterior[:, 0].shape, generator=generator)
        return (posterior[:, 0] + posterior[:, 1] * noise) * self.scale, tokens, hidden

    def _indices(self, size: int, generator: torch.Generator) -> list[int]:
        if self.late is None:
            return torch.randint(self.count, (size,), generator=generator).tolist()
        count, share = self.late
        first = self.count - count
        below, place = torch.rand(2, size, generator=generator)
        spans = torch.where(below < share, count, first)
        return (torch.where(below < share, first, 0) + (place * spans).long()).tolist()


def _tokens(tokenizer, captions: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    return tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


def learning_rate(step: int, steps: int, peak: float, warm: int = 150, falling: float = 0.4) -> float:
    """Linear warm-up, the peak, and a linear fall to nothing over the last ``falling`` of the steps."""
    return peak * min(1, (step + 1) / warm, (steps - step) / (falling * steps))


class WordHeads(nn.Module):
    """Tells which word of each group a hidden caption says, from the blocks named in :data:`READ`.

    Args:
        unet: Hooks are left on its blocks.
        widths: Channels of the blocks.
        groups: Token ids of each group.
    """

    def __init__(self, unet: nn.Module, widths: list[int], groups: list[list[int]]) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(width, sum(map(len, groups))) for width in widths])
        self.groups = [torch.tensor(group) for group in groups]
        self.seen = threading.local()  # slices of a batch run side by side
        for name in READ:
            unet.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: setattr(self.seen, name, output)
            )

    def forward(self, tokens: Tensor) -> Tensor:
        """Cross-entropy ``(b,)``, summed over blocks and groups, after the U-Net ran on this thread."""
        total = torch.zeros(len(tokens), device=tokens.device)
        for name, head in zip(READ, self.heads, strict=True):
            guesses = head(getattr(self.seen, name).float().mean((2, 3)))
            for group, guess in zip(self.groups, guesses.split([len(g) for g in self.groups], 1), strict=True):
                said = (tokens[:, :, None] == group.to(tokens.device)).any(1)
                error = F.cross_entropy(guess, said.int().argmax(1), reduction="none")
                total = total + torch.where(said.any(1), error, 0)
        return total


def draw_timesteps(count: int, lean: float, generator: torch.Generator) -> Tensor:
    """Timesteps ``(count,)`` from 0 to 999 with a density that grows as t to the power ``lean``."""
    if lean == 0:
        return torch.randint(1000, (count,), generator=generator)
    return (1000 * torch.rand(count, generator=generator) ** (1 / (1 + lean))).long().clamp(max=999)


@dataclass(frozen=True)
class Stage:
    """A stage of the U-Net's training.

    Attributes:
        name: Of the stage.
        after: An earlier stage whose averaged weights this one starts from.
        freeze: Weights stay as they are when their names begin so, as in ``unet.down_blocks.0`` or ``text``.
        lean: See :func:`draw_timesteps`.
        peak: The highest learning rate.
        save_every: Steps between checkpoints.
    """

    name: str
    steps: int
    batch: int
    seed: int
    after: str | None = None
    freeze: Sequence[str] = ()
    lean: float = 0.0
    peak: float = 1e-3
    save_every: int = 200


def train_unet(
    parts: Parts,
    run: Path,
    examples: Examples,
    stage: Stage,
    work: Work,
    at_checkpoint: Callable[[int, dict[str, Tensor]], None],
) -> dict[str, Tensor]:
    """Train (going on with ``run``'s checkpoint of the stage when there is one) and return the averaged weights.

    ``at_checkpoint(step, average)`` is called at each checkpoint.
    """
    unet, text, device = parts.unet, parts.text, work.device
    unet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if device == "cpu":  # maps this small are cheaper written out than fused, backwards above all
        unet.set_attn_processor(AttnProcessor())
    text.to(device).train()  # type: ignore[arg-type]
    weights = dict(_named(parts))
    for name, value in weights.items():
        value.requires_grad_(not is_frozen(name, stage.freeze))
    if stage.freeze:
        for module in unet.modules():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(_plain_layout)
    widths = list(unet.config["block_out_channels"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        heads = WordHeads(unet, [widths[-1], widths[-2]], examples.groups).to(device)
    if stage.after is not None and not (run / f"{stage.name}-{STATE}").exists():
        before = finished_stage(run, stage.after)
        load_average(parts, within(before, "average"))
        heads.load_state_dict(within(before, "heads"))
    moving = {name: value for name, value in weights.items() if value.requires_grad}
    trained = {**moving, **{f"words.{n}": p for n, p in heads.named_parameters()}}
    optimiser, average = MuonAdamW(trained), MovingAverage(weights)
    loop = Loop(
        run,
        Schedule(
            stage.steps, stage.save_every, clip=1.0,
            share=lambda number: learning_rate(number, stage.steps, stage.peak),
        ),
        optimiser.parts,
        {"weights": Tensors(weights), "average": average, "heads": heads},
        prefix=f"{stage.name}-",
    )  # fmt: skip
    optimiser.parts["adam"].register_step_post_hook(lambda *_: average.update(loop.step))
    abar = make_scheduler().alphas_cumprod
    empty = examples.empty.to(device)

    def loss_of(noisy: Tensor, t: Tensor, tokens: Tensor, hidden: Tensor, velocity: Tensor) -> Tensor:
        with autocast(device):
            guess = unet(noisy, t, text(torch.where(hidden[:, None], empty, tokens))[0]).sample
        error = (guess.float() - velocity).square().mean((1, 2, 3))
        left = abar.to(device)[t]
        return (error * (CAP * (1 - left)).clamp(max=1) + WORDS * hidden * left * heads(tokens)).mean()

    def gradients(number: int) -> Values:
        generator = at_step(stage.seed, number, stage.name)
        latents, tokens, hidden = examples.batch(stage.batch, generator)
        eps = torch.randn(latents.shape, generator=generator)
        t = draw_timesteps(stage.batch, stage.lean, generator)
        a = abar[t][:, None, None, None]
        noisy = (a.sqrt() * latents + (1 - a).sqrt() * eps).to(device, memory_format=torch.channels_last)
        velocity = a.sqrt() * eps - (1 - a).sqrt() * latents
        inputs = (noisy, *(x.to(device) for x in (t, tokens, hidden, velocity)))
        loss = shared_gradients(work.pool, loss_of, inputs, list(trained.values()))
        optimiser.take_gradients()
        return {"loss": loss}

    loop.run(
        gradients, keep=lambda: at_checkpoint(loop.step, average.values), progress=work.progress, desc=stage.name
    )  # fmt: skip
    return average.values
