"""Training of the U-Net together with the text encoder on encoded pictures.

Noise prediction (DDPM, Ho et al. 2020, eq. 14) with uniform timesteps, weighted by min(SNR, 5) / SNR (Hang et al. 2023)
so that the texture seen at little noise does not drown the shapes seen at much; a tenth of the captions is replaced by
the empty prompt, which makes classifier-free guidance possible; the weights that count are a moving average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffeat.errors import InvalidValueError
from diffeat.zoo import cache
from diffeat.zoo.build import Parts, make_scheduler
from diffeat.zoo.runs import Log, at_step, autocast, gradients, load_state, save_state

DROPPED = 0.1
SNR_CAP = 5.0


def _named(parts: Parts) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in (("unet", parts.unet), ("text", parts.text)):
        for name, value in module.named_parameters():
            yield f"{prefix}.{name}", value


def load_average(parts: Parts, average: dict[str, Tensor]) -> None:
    """Put averaged weights into the networks."""
    with torch.no_grad():
        for name, value in _named(parts):
            value.copy_(average[name])


class Examples:
    """Encoded pictures (all, or the chosen ones) and their captions as token ids."""

    def __init__(self, run: Path, pictures: Path, tokenizer, scale: float, chosen: list[int] | None = None) -> None:
        self.latents = [np.load(p, mmap_mode="r") for p in sorted(run.glob("latents-*.npy"))]
        self.ids = []
        for path in cache.shards(pictures)[: len(self.latents)]:
            self.ids.append(_tokens(tokenizer, cache.captions_of(path)))
        self.empty = _tokens(tokenizer, [""])[0]
        self.scale = scale
        ends = np.cumsum([len(shard) for shard in self.latents])
        self.starts = np.concatenate([[0], ends[:-1]])
        self.chosen = range(int(ends[-1])) if chosen is None else chosen

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latent draws ``(b, 4, h, w)`` and token ids ``(b, n)``."""
        rows, ids = [], []
        for pick in torch.randint(len(self.chosen), (size,), generator=generator).tolist():
            index = self.chosen[pick]
            shard = int(np.searchsorted(self.starts, index, side="right")) - 1
            offset = index - int(self.starts[shard])
            rows.append(torch.from_numpy(np.array(self.latents[shard][offset])).float())
            ids.append(self.ids[shard][offset])
        posterior, tokens = torch.stack(rows), torch.stack(ids)
        dropped = torch.rand(size, generator=generator) < DROPPED
        tokens[dropped] = self.empty
        noise = torch.randn(posterior[:, 0].shape, generator=generator)
        return (posterior[:, 0] + posterior[:, 1] * noise) * self.scale, tokens


def _tokens(tokenizer, captions: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    return tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


def learning_rate(step: int, steps: int, peak: float, warm: int = 150) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak at the last step."""
    return peak * min(1, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))


def train_unet(
    parts: Parts, run: Path, examples: Examples, steps: int, batch: int, seed: int, device: str,
    pool: ThreadPool, say: Callable[[str], None], at_checkpoint: Callable[[int, dict[str, Tensor]], None],
    stage: str = "unet", after: str | None = None, peak: float = 5e-4, save_every: int = 200,
) -> dict[str, Tensor]:  # fmt: skip
    """Train up to ``steps`` (continuing ``run``'s checkpoint when there is one) and return the averaged weights.

    ``at_checkpoint(step, average)`` is called after each checkpoint.
    """
    unet, text = parts.unet, parts.text
    unet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    text.to(device).train()  # type: ignore[arg-type]
    weights = dict(_named(parts))
    optimiser = torch.optim.AdamW(list(weights.values()), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    average = {name: value.detach().float().clone() for name, value in weights.items()}
    start, state = 0, load_state(run / f"{stage}.pt")
    if state is None and after is not None:
        before = load_state(run / f"{after}.pt")
        if before is None:
            raise InvalidValueError(f"{run} holds no finished stage {after!r} to go on from; train that first.")
        load_average(parts, before["average"])
        average = {name: value.detach().float().clone() for name, value in weights.items()}
    if state is not None:
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(state["weights"][name])
                average[name].copy_(state["average"][name])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    log = Log(run / f"{stage}_loss.csv", ("step", "loss", "rate", "seconds"), start)
    abar = make_scheduler().alphas_cumprod

    def loss_of(noisy: Tensor, t: Tensor, tokens: Tensor, eps: Tensor) -> Tensor:
        with autocast(device):
            guess = unet(noisy, t, text(tokens)[0]).sample
        error = (guess.float() - eps).square().mean((1, 2, 3))
        ratio = abar.to(device)[t] / (1 - abar.to(device)[t])
        return (error * (SNR_CAP / ratio).clamp(max=1)).mean()

    for step in range(start, steps):
        generator = at_step(seed, step, stage)
        latents, tokens = examples.batch(batch, generator)
        eps = torch.randn(latents.shape, generator=generator)
        t = torch.randint(1000, (batch,), generator=generator)
        a = abar[t][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * eps
        rate = learning_rate(step, steps, peak)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        inputs = (noisy.to(device, memory_format=torch.channels_last), t.to(device), tokens.to(device), eps.to(device))
        loss = gradients(pool, loss_of, inputs, list(weights.values()))
        nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimiser.step()
        keep = min(0.999, (step + 1) / (step + 12))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [w.detach() for w in weights.values()], 1 - keep)
        log.add(step, loss, rate)
        if (step + 1) % 25 == 0:
            say(f"{stage} {step + 1}/{steps}: {log.recent():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            log.flush()
            state = {"weights": {n: w.detach() for n, w in weights.items()}, "average": average}
            save_state(run / f"{stage}.pt", {**state, "optimiser": optimiser.state_dict(), "step": step + 1})
            at_checkpoint(step + 1, average)
    return average
