"""Training of the transformer together with its text encoder on encoded pictures.

Loss, weights of timesteps, hidden captions and the heads that tell what a hidden caption says of the figure are those
of :mod:`tools.zoo.train_unet`; the heads read the mean tokens of the middle and the last block. The weights that
count are a moving average.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffeat.training.checkpoint import Tensors
from diffeat.training.loop import Loop, Schedule, Values
from tools.zoo.build_dit import DitParts, make_dit_scheduler
from tools.zoo.optimiser import MuonAdamW
from tools.zoo.runs import MovingAverage, Work, at_step, autocast, shared_gradients
from tools.zoo.train_unet import CAP, GROUPS, WORDS, Examples, Stage, learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: parts of names of matrices that are tables or ends of the network, not maps between features
_TABLES = ("shared", "relative_attention_bias", "scale_shift_table", "pos_embed", "proj_out", "words")


def named_weights(parts: DitParts) -> Iterator[tuple[str, Tensor]]:
    """The trained weights. Names of those that are not for Muon hold ``embed``, which the optimiser goes by."""
    for prefix, module in (("dit", parts.transformer), ("text", parts.text)):
        for name, value in module.named_parameters():
            table = any(word in name for word in _TABLES) or value.ndim < 2
            yield f"{prefix}.{'embed:' if table else ''}{name}", value


def load_dit_average(parts: DitParts, average: dict[str, Tensor]) -> None:
    """Put averaged weights into the networks."""
    with torch.no_grad():
        for name, value in named_weights(parts):
            value.copy_(average[name])


class BlockWords(nn.Module):
    """Tells which word of each group a hidden caption says, from the mean tokens of the middle and the last block.

    Args:
        transformer: Hooks are left on its blocks.
        groups: Token ids of each group.
    """

    def __init__(self, transformer: nn.Module, groups: list[list[int]]) -> None:
        super().__init__()
        blocks = list(transformer.transformer_blocks)  # type: ignore[arg-type]
        width = int(transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"])  # type: ignore[index, operator]
        self.words = nn.ModuleList([nn.Linear(width, sum(map(len, groups))) for _ in range(2)])
        self.groups = [torch.tensor(group) for group in groups]
        self.seen = threading.local()  # slices of a batch run side by side
        for k, block in enumerate((blocks[len(blocks) // 2], blocks[-1])):
            block.register_forward_hook(lambda _m, _i, output, k=k: setattr(self.seen, f"block{k}", output))

    def forward(self, tokens: Tensor) -> Tensor:
        """Cross-entropy ``(b,)``, summed over blocks and groups, after the transformer ran on this thread."""
        total = torch.zeros(len(tokens), device=tokens.device)
        for k, head in enumerate(self.words):
            guesses = head(getattr(self.seen, f"block{k}").float().mean(1))
            for group, guess in zip(self.groups, guesses.split([len(g) for g in self.groups], 1), strict=True):
                said = (tokens[:, :, None] == group.to(tokens.device)).any(1)
                error = F.cross_entropy(guess, said.int().argmax(1), reduction="none")
                total = total + torch.where(said.any(1), error, 0)
        return total


def word_groups(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The token of each word of each group of which a caption says one, or none."""
    return [[int(tokenizer(word, add_special_tokens=False).input_ids[0]) for word in group] for group in GROUPS]


def train_dit(
    parts: DitParts,
    run: Path,
    examples: Examples,
    groups: list[list[int]],
    stage: Stage,
    work: Work,
    at_checkpoint: Callable[[int, dict[str, Tensor]], None],
) -> dict[str, Tensor]:
    """Train (going on with ``run``'s checkpoint when there is one) and return the averaged weights.

    ``at_checkpoint(step, average)`` is called at each checkpoint.
    """
    device = work.device
    transformer, text = parts.transformer.to(device).train(), parts.text.to(device).train()  # type: ignore[arg-type]
    weights = dict(named_weights(parts))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        heads = BlockWords(transformer, groups).to(device)
    trained = {**weights, **{f"embed:words.{n}": p for n, p in heads.named_parameters()}}
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
    abar = make_dit_scheduler().alphas_cumprod
    empty = examples.empty.to(device)

    def loss_of(noisy: Tensor, t: Tensor, tokens: Tensor, hidden: Tensor, velocity: Tensor) -> Tensor:
        said = torch.where(hidden[:, None], empty, tokens)
        mask = (said != 0).long()
        with autocast(device):
            words = text(said, attention_mask=mask)[0]
            guess = transformer(
                noisy, words, t, {"resolution": None, "aspect_ratio": None}, encoder_attention_mask=mask,
                return_dict=False,
            )[0]  # fmt: skip
        error = (guess.float() - velocity).square().mean((1, 2, 3))
        left = abar.to(device)[t]
        return (error * (CAP * (1 - left)).clamp(max=1) + WORDS * hidden * left * heads(tokens)).mean()

    def gradients(number: int) -> Values:
        generator = at_step(stage.seed, number, stage.name)
        latents, tokens, hidden = examples.batch(stage.batch, generator)
        eps = torch.randn(latents.shape, generator=generator)
        t = torch.randint(1000, (stage.batch,), generator=generator)
        a = abar[t][:, None, None, None]
        noisy, velocity = a.sqrt() * latents + (1 - a).sqrt() * eps, a.sqrt() * eps - (1 - a).sqrt() * latents
        inputs = tuple(x.to(device) for x in (noisy, t, tokens, hidden, velocity))
        loss = shared_gradients(work.pool, loss_of, inputs, list(trained.values()))
        optimiser.take_gradients()
        return {"loss": loss}

    loop.run(
        gradients, keep=lambda: at_checkpoint(loop.step, average.values), progress=work.progress, desc=stage.name
    )  # fmt: skip
    return average.values
