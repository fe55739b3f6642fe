"""Hyperfeatures against the published formulation on the same weights: training step, head memory, extractions.

    python benchmarks/hyperfeatures.py              # all three
    python benchmarks/hyperfeatures.py step         # one training step
    python benchmarks/hyperfeatures.py memory       # the head alone, at the true widths of Stable Diffusion 1.5
    python benchmarks/hyperfeatures.py evaluation   # pictures extracted for an evaluation

The published formulation enlarges every layer to the common grid, stacks all steps and layers, runs the head on the
stack and builds both full similarity matrices; it extracts both pictures again for every pair. Losses, gradients and
descriptors of both sides must be equal within 1e-5 (gradients, as one vector, 5e-5), or the script fails.

The training step runs on Stable Diffusion 1.5's topology at a quarter of its widths and 256 px (random weights), with
the paper's 50 inversion steps, 11 of them read, so that denoiser and head keep about the proportion they have at full
size. Times are CPU seconds. Memory is the peak of a fresh process above what it has before the first map is made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PARTS = ("step", "memory", "evaluation")
SAVE = [49, 45, 40, 35, 30, 25, 20, 15, 10, 5, 0]
CHANNELS = [1280] * 6 + [640] * 3 + [320] * 3
GRIDS = [8] * 3 + [16] * 3 + [32] * 3 + [64] * 3


# ---- the published formulation


def published_head(state: dict[str, Tensor], stacked: Tensor, channels: list[int], groups: int) -> Tensor:
    """Descriptors (b, d, h, w) of maps stacked to (b, steps · ΣC, h, w), all at one grid."""
    shares = state["mixing_weights"].softmax(0)
    pieces = stacked.split(channels * (len(shares) // len(channels)), dim=1)

    def part(layer: int, name: str, x: Tensor) -> Tensor:
        key = f"bottleneck_layers.{layer}.0.{name}"
        weight = state[f"{key}.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return F.group_norm(x, groups, state[f"{key}.norm.weight"], state[f"{key}.norm.bias"])

    total: Any = 0
    for i, (share, x) in enumerate(zip(shares, pieces, strict=True)):
        layer = i % len(channels)
        hidden = part(layer, "conv2", part(layer, "conv1", x).relu()).relu()
        total = total + share * (part(layer, "conv3", hidden) + part(layer, "shortcut", x)).relu()
    return total


def published_loss(source: Tensor, target: Tensor, cells: list[Tensor]) -> Tensor:
    """Symmetric cross-entropy out of the full similarity matrices."""
    a, b = (x.flatten(1) / x.flatten(1).norm(dim=0) for x in (source, target))
    forth, back = a.T @ b / 0.07, b.T @ a / 0.07
    return (F.cross_entropy(forth[cells[0]], cells[1]) + F.cross_entropy(back[cells[1]], cells[0])) / 2


# ---- one training step


def quarter_sd15(folder: Path) -> Path:
    """Stable Diffusion 1.5's topology at a quarter of its widths, random weights, as a pipeline directory."""
    import diffusers as D
    from real_models import _clip, _clip_tokenizer, filled

    if (folder / "model_index.json").is_file():
        return folder
    f32 = torch.float32
    levels = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    unet = filled(
        lambda: D.UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(80, 160, 320, 320),
            norm_num_groups=16,
            cross_attention_dim=768,
            attention_head_dim=8,
            down_block_types=tuple(levels),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        ),
        f32,
    )
    vae = filled(
        lambda: D.AutoencoderKL(
            block_out_channels=(32, 64, 128, 128),
            layers_per_block=2,
            norm_num_groups=16,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        f32,
    )
    scheduler = D.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    pipeline = D.StableDiffusionPipeline(
        vae=vae, text_encoder=_clip(768, 12, False, f32), tokenizer=_clip_tokenizer(), unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def measure_step(folder: Path) -> dict[str, Any]:
    from diffeat import Extractor, Recipe
    from diffeat.activations import Taps
    from diffeat.datasets.registry import open_dataset
    from diffeat.datasets.toyworld_spair import write_toyworld_pairs
    from diffeat.features import Picture
    from diffeat.geometry import open_image
    from diffeat.training.hyperfeatures.examples import Examples, points_in_cells
    from diffeat.training.hyperfeatures.loss import nearest_cells
    from diffeat.training.hyperfeatures.prepare import explicit, network_config, prepare
    from diffeat.training.hyperfeatures.train import TrainSettings, new_network, pair_loss
    from diffeat.trajectories import ode_steps, walk

    root = write_toyworld_pairs(
        folder / "world", classes=["cat"], images={"trn": 3, "val": 0, "test": 0}, pairs=2, size=256
    )
    pairs = open_dataset("toyworld", root, "trn").limited(1)
    recipe = Recipe.load("hyperfeatures-sd15").replace(
        model=str(quarter_sd15(folder / "model")), fuse=None, **{"frame.size": 256, "trajectory.latent": "mean"}
    )
    extractor = explicit(Extractor.from_recipe(recipe, device="cpu", dtype=torch.float32))
    backbone, names = extractor.backbone, extractor.names
    with prepare(extractor, [pairs], folder / "features") as ready:
        config = network_config(extractor, ready.channels, projection=96, bottleneck=32)
        example = Examples(pairs, ready.source, 0)[0]
        network = new_network(config, 0).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.0)  # weights stay, so that both sides can be compared
        settings = TrainSettings()

        def ours() -> tuple[float, list[Tensor]]:
            optimiser.zero_grad()
            loss, _ = pair_loss(network, Examples(pairs, ready.source, 0)[0], settings)
            loss.backward()
            optimiser.step()
            return loss.item(), [p.grad.clone() for p in network.parameters()]  # type: ignore[union-attr]

        def published() -> tuple[float, list[Tensor]]:
            pictures = [Picture.of(path) for path in (pairs[0].source, pairs[0].target)]
            kept: dict[int, Tensor] = {}
            with torch.no_grad():
                pixels = torch.stack(
                    [m.frame.pixels(open_image(p.name)) for m, p in zip(example.maps, pictures, strict=True)]
                )
                grid = backbone.latent_size((256, 256))

                def keep(save: int, maps: dict[str, Tensor]) -> None:
                    kept[save] = torch.cat([F.interpolate(maps[n], size=grid, mode="bilinear") for n in names], 1)

                walk(
                    backbone,
                    backbone.encode_images(pixels).mean,
                    ode_steps("inversion", 50, backbone),
                    backbone.condition(["", ""], (256, 256)),
                    taps=Taps(backbone.denoiser, names),
                    save=SAVE,
                    on_features=keep,
                )
            stacked = torch.stack([kept[s] for s in SAVE], 1).float().flatten(1, 2)
            optimiser.zero_grad()
            state = dict(network.named_parameters())
            described = published_head(state, stacked, list(config.channels), config.groups)
            cells = [
                nearest_cells(points_in_cells(p, m.frame, grid, "half-pixel"), grid)
                for p, m in zip(example.points, example.maps, strict=True)
            ]
            loss = published_loss(described[0], described[1], cells)
            loss.backward()
            optimiser.step()
            return loss.item(), [p.grad.clone() for p in network.parameters()]  # type: ignore[union-attr]

        ours()
        start = time.process_time()
        for _ in range(3):
            loss, grads = ours()
        fast = (time.process_time() - start) / 3
        start = time.process_time()
        wanted, theirs = published()
        slow = time.process_time() - start
    off = sum(float((a - b).square().sum()) for a, b in zip(grads, theirs, strict=True))
    gradients = (off / sum(float(b.square().sum()) for b in theirs)) ** 0.5
    return {"ours_s": fast, "published_s": slow, "loss": abs(loss - wanted) / wanted, "gradients": gradients}


# ---- memory of the head


def _maps(step: int) -> list[Tensor]:
    """Maps of one picture at one step, at the sizes of Stable Diffusion 1.5 at 512 px."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(1, c, g, g, generator=generator) for c, g in zip(CHANNELS, GRIDS, strict=True)]


def _memory(field: str) -> float:
    """MB of this process (Linux): VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 2**10


@torch.no_grad()
def measure_memory(which: str) -> dict[str, Any]:
    from diffeat.extraction.joins.aggregation import AggregationConfig
    from diffeat.training.hyperfeatures.train import new_network

    steps = len(SAVE)
    config = AggregationConfig(tuple(map(str, range(12))), tuple(CHANNELS), tuple(SAVE), 50)
    network = new_network(config, 0).eval()
    network([m[:, None, :, :4, :4] for m in _maps(0)], (8, 8), [0])  # load the kernels
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, also that of the parent process
    start = time.process_time()
    if which == "ours":
        described = sum(network([m[:, None] for m in _maps(s)], (64, 64), [s]) for s in range(steps))
    else:
        stacked = torch.empty(1, steps, sum(CHANNELS), 64, 64)
        for s in range(steps):
            stacked[:, s] = torch.cat([F.interpolate(m, size=(64, 64), mode="bilinear") for m in _maps(s)], 1)
        described = published_head(network.state_dict(), stacked.flatten(1, 2), CHANNELS, 32)
    seconds = time.process_time() - start
    assert isinstance(described, Tensor)
    return {"peak_mb": _memory("VmHWM") - before, "seconds": seconds, "descriptor": described.flatten()[::997].tolist()}


# ---- extractions of an evaluation


def measure_evaluation(folder: Path) -> dict[str, Any]:
    from diffeat import Extractor, Recipe
    from diffeat.datasets.registry import open_dataset
    from diffeat.datasets.toyworld_spair import write_toyworld_pairs
    from diffeat.tasks.correspondence import get_protocol
    from diffeat.tasks.correspondence.evaluate import evaluate

    root = write_toyworld_pairs(folder / "few", classes=["cat"], images={"trn": 0, "val": 0, "test": 6}, pairs=30)
    pairs = open_dataset("toyworld", root, "test")
    recipe = Recipe.load("hyperfeatures-tiny").replace(fuse={"kind": "concat"})
    found = evaluate(pairs, Extractor.from_recipe(recipe, device="cpu"), get_protocol("spair"))
    return {"pairs": len(pairs), "pictures": len(pairs.images()), **found.pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--folder", type=Path, help="for models and features; a temporary one by default")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_memory(args.measure)))
        return
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for part in args.parts or PARTS:
            globals()[f"_show_{part}"](folder)


def _show_step(folder: Path) -> None:
    found = measure_step(folder)
    print(f"training step, published: {found['published_s']:.2f} s; from stored maps: {found['ours_s']:.3f} s")
    print(f"{found['published_s'] / found['ours_s']:.0f} times faster")
    print(f"relative error of the loss {found['loss']:.1e}, of all gradients {found['gradients']:.1e}")
    if found["loss"] > 1e-5 or found["gradients"] > 5e-5:
        sys.exit("NOT EQUAL")


def _show_memory(folder: Path) -> None:
    rows = {}
    for which in ("published", "ours"):
        call = [sys.executable, __file__, "--measure", which]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
        rows[which] = json.loads(done.stdout.splitlines()[-1])
        print(f"head, {which:9s} peak {rows[which]['peak_mb']:.0f} MB, {rows[which]['seconds']:.1f} s")
    ours, theirs = (torch.tensor(rows[w]["descriptor"]) for w in ("ours", "published"))
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    ratio = rows["published"]["peak_mb"] / rows["ours"]["peak_mb"]
    print(f"1/{ratio:.0f} of the memory, relative error of the descriptor {error:.1e}")
    if error > 1e-5:
        sys.exit("NOT EQUAL")


def _show_evaluation(folder: Path) -> None:
    found = measure_evaluation(folder)
    print(f"{found['pairs']} pairs of {found['pictures']} pictures: {found['extracted']} extractions")
    if found["extracted"] != found["pictures"]:
        sys.exit("NOT EQUAL")


if __name__ == "__main__":
    main()
