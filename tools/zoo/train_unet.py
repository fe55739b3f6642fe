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
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from diffeat.datasets.toyworld import CLASSES
from diffeat.errors import UnknownNameError, did_you_mean
from tools.zoo import cache
from tools.zoo.build import Parts, make_scheduler
from tools.zoo.optimiser import MuonAdamW
from tools.zoo.runs import Log, at_step, autocast, finished_stage, gradients, load_state, save_state

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


def train_unet(
    parts: Parts, run: Path, examples: Examples, steps: int, batch: int, seed: int, device: str,
    pool: ThreadPool, say: Callable[[str], None], at_checkpoint: Callable[[int, dict[str, Tensor]], None],
    stage: str = "unet", after: str | None = None, freeze: Sequence[str] = (), lean: float = 0.0,
    peak: float = 1e-3, save_every: int = 200,
) -> dict[str, Tensor]:  # fmt: skip
    """Train up to ``steps`` (continuing ``run``'s checkpoint when there is one) and return the averaged weights.

    ``at_checkpoint(step, average)`` is called after each checkpoint. Weights stay as they are when their names begin
    with one of ``freeze``, as in ``unet.down_blocks.0`` or ``text``.
    """
    unet, text = parts.unet, parts.text
    unet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if device == "cpu":  # maps this small are cheaper written out than fused, backwards above all
        unet.set_attn_processor(AttnProcessor())
    text.to(device).train()  # type: ignore[arg-type]
    weights = dict(_named(parts))
    for name, value in weights.items():
        value.requires_grad_(not is_frozen(name, freeze))
    if freeze:
        for module in unet.modules():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(_plain_layout)
    widths = list(unet.config["block_out_channels"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = WordHeads(unet, [widths[-1], widths[-2]], examples.groups).to(device)
    moving = {name: value for name, value in weights.items() if value.requires_grad}
    trained = {**moving, **{f"words.{n}": p for n, p in heads.named_parameters()}}
    optimiser = MuonAdamW(trained)
    average = {name: value.detach().float().clone() for name, value in weights.items()}
    start, state = 0, load_state(run / f"{stage}.pt")
    if state is None and after is not None:
        before = finished_stage(run, after)
        load_average(parts, before["average"])
        heads.load_state_dict(before["heads"])
        average = {name: value.detach().float().clone() for name, value in weights.items()}
    if state is not None:
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(state["weights"][name])
                average[name].copy_(state["average"][name])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    log = Log(run / f"{stage}_loss.csv", ("step", "loss", "rate", "seconds"), start)
    abar = make_scheduler().alphas_cumprod
    empty = examples.empty.to(device)

    def loss_of(noisy: Tensor, t: Tensor, tokens: Tensor, hidden: Tensor, velocity: Tensor) -> Tensor:
        with autocast(device):
            guess = unet(noisy, t, text(torch.where(hidden[:, None], empty, tokens))[0]).sample
        error = (guess.float() - velocity).square().mean((1, 2, 3))
        left = abar.to(device)[t]
        return (error * (CAP * (1 - left)).clamp(max=1) + WORDS * hidden * left * heads(tokens)).mean()

    for step in range(start, steps):
        generator = at_step(seed, step, stage)
        latents, tokens, hidden = examples.batch(batch, generator)
        eps = torch.randn(latents.shape, generator=generator)
        t = draw_timesteps(batch, lean, generator)
        a = abar[t][:, None, None, None]
        noisy = (a.sqrt() * latents + (1 - a).sqrt() * eps).to(device, memory_format=torch.channels_last)
        velocity = a.sqrt() * eps - (1 - a).sqrt() * latents
        rate = learning_rate(step, steps, peak)
        inputs = (noisy, *(x.to(device) for x in (t, tokens, hidden, velocity)))
        loss = gradients(pool, loss_of, inputs, list(trained.values()))
        nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimiser.step(rate)
        keep = min(0.999, (step + 1) / (step + 12))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [w.detach() for w in weights.values()], 1 - keep)
        log.add(step, loss, rate)
        if (step + 1) % 25 == 0:
            say(f"{stage} {step + 1}/{steps}: {log.recent():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            log.flush()
            state = {"weights": {n: w.detach() for n, w in weights.items()}, "average": average}
            state |= {"heads": heads.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            save_state(run / f"{stage}.pt", state)
            at_checkpoint(step + 1, average)
    return average
