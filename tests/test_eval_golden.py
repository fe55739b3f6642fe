"""The mini SPair-71k folder from pictures to numbers, against two recorded evaluations.

The noise that entered the recorded runs is replayed; everything else is the library's: readers, frames, encoding,
taps, store, matching, scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from diffeat.activations import Taps
from diffeat.backbones import Backbone
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.spair import read_pair_list, read_spair
from diffeat.geometry import FrameSpec
from diffeat.storage import FeatureMap
from diffeat.tasks.correspondence import Lattice, Matching, get_protocol, pck
from diffeat.tasks.correspondence.evaluate import Evaluation, evaluate

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "pck" / "expected.json").read_text())
ALPHAS = (0.05, 0.1, 0.15, 0.2)


@dataclass
class ReplayRecipe:
    name: str
    prompt: str = ""
    template: str = "{}"
    hash: str = "replay"

    def content(self) -> dict[str, Any]:
        return {"name": self.name}

    def text_for(self, prompt: str | None) -> str:
        return self.template.replace("{}", prompt) if prompt else self.prompt


class Replay:
    """A source of features that takes its noise from a file."""

    def __init__(self, recipe: ReplayRecipe, noise: dict[str, Tensor]) -> None:
        self.recipe = recipe
        self.noise = noise

    def stream(self, images, prompts=None, *, on_error=None) -> Iterator[FeatureMap]:
        for picture in images:
            key = "/".join(Path(picture.name).parts[-2:])
            with torch.no_grad():
                tensor, frame = self.features(picture, key)
            yield FeatureMap({"map": tensor}, frame, picture.name, picture.digest, {"prompt": picture.text})

    def features(self, picture, key: str) -> tuple[Tensor, Any]:
        raise NotImplementedError


class DiftReplay(Replay):
    """One noised forward pass per draw, averaged."""

    def __init__(self, index: int) -> None:
        noise = load_file(GOLDEN / "pck" / "spair_mini_dift_noise_a.safetensors")
        super().__init__(ReplayRecipe(f"dift-{index}", template="a photo of a {}"), noise)
        self.backbone = Backbone.from_pretrained(str(GOLDEN / "dift" / "pipeline"))
        self.taps = Taps(self.backbone.denoiser, [f"dift:{index}"])

    def features(self, picture, key: str):
        frame = FrameSpec("squash", (160, 160), filter="bicubic").frame(picture.image.size)
        posterior = self.backbone.encode_images(frame.pixels(picture.image)[None])
        latents = posterior.sample(self.noise[f"{key}.vae_eps"])
        noisy = self.backbone.noise(latents, 261, self.noise[f"{key}.noise"])
        conditions = self.backbone.condition([picture.text], size=(160, 160)).take([0, 0])
        with self.taps as taps:
            found = taps.run(**self.backbone.denoiser_inputs(noisy, torch.tensor([261.0, 261.0]), conditions))
        return next(iter(found.values())).mean(0), frame


class HyperReplay(Replay):
    """DDIM inversion, twelve residual branches at five of its ten steps, one aggregation head."""

    LAYERS = tuple(f"up_blocks.{i}.resnets.{j}.conv2" for i in range(4) for j in range(3))

    def __init__(self) -> None:
        super().__init__(
            ReplayRecipe("hyperfeatures"),
            load_file(GOLDEN / "pck" / "spair_mini_hyper_noise_and_train.safetensors"),
        )
        self.config = SimpleNamespace(**EXPECTED["hyperfeatures"]["config"])
        self.backbone = Backbone.from_pretrained(str(GOLDEN / "hyperfeatures" / "pipeline"))
        self.head = load_file(GOLDEN / "hyperfeatures" / "head" / "aggregation_network.safetensors")
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
        self.alphas = torch.cat((torch.ones(1), (1 - betas).cumprod(0)))  # index t + 1
        self.taps = Taps(self.backbone.denoiser, self.LAYERS, stop=False)

    def features(self, picture, key: str):
        side, inner, grid = self.config.load_resolution, self.config.vae_size, self.config.output_resolution
        frame = FrameSpec("squash", (side, side), filter="bilinear").frame(picture.image.size)
        pixels = F.interpolate(frame.pixels(picture.image)[None], size=(inner, inner), mode="bilinear")
        x = self.backbone.encode_images(pixels).sample(self.noise[f"{key}.vae_eps"][None])
        conditions = self.backbone.condition([""], size=(inner, inner))
        steps = self.config.num_timesteps
        after = [k * (1000 // steps) for k in range(steps)]
        kept = {}
        for k, (t, to) in enumerate(zip([-1, *after], after, strict=False)):
            with self.taps as taps:
                inputs = dict(self.backbone.denoiser_inputs(x, torch.zeros(1), conditions))
                inputs["timestep"] = torch.tensor([float(t)])
                found, output = self._run(taps, inputs)
            if steps - 1 - k in self.config.save_timestep:
                kept[steps - 1 - k] = found
            now, then = self.alphas[t + 1], self.alphas[to + 1]
            x = then.sqrt() * (x - (1 - now).sqrt() * output) / now.sqrt() + (1 - then).sqrt() * output
        maps = [
            F.interpolate(kept[s][name], size=(grid, grid), mode="bilinear")
            for s in self.config.save_timestep
            for name in self.LAYERS
        ]
        return self._aggregate(maps)[0], frame

    def _run(self, taps: Taps, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        outputs: list[Any] = []
        hook = self.backbone.denoiser.register_forward_hook(lambda m, a, o: outputs.append(o))
        try:
            found = taps.run(**inputs)
        finally:
            hook.remove()
        return found, getattr(outputs[0], "sample", outputs[0][0])

    def _aggregate(self, maps: list[Tensor]) -> Tensor:
        weights = self.head["mixing_weights"].softmax(0)
        return sum(w * self._bottleneck(x, i % 12) for i, (w, x) in enumerate(zip(weights, maps, strict=True)))

    def _bottleneck(self, x: Tensor, layer: int) -> Tensor:
        def part(name: str, value: Tensor, padding: int = 0) -> Tensor:
            key = f"bottleneck_layers.{layer}.0.{name}"
            value = F.conv2d(value, self.head[f"{key}.weight"], padding=padding)
            return F.group_norm(value, 32, self.head[f"{key}.norm.weight"], self.head[f"{key}.norm.bias"])

        hidden = part("conv2", part("conv1", x).relu(), padding=1).relu()
        return (part("conv3", hidden) + part("shortcut", x)).relu()


def check_pixels(found: Evaluation, expected: list[dict[str, Any]], recorded) -> int:
    """Every prediction is the recorded pixel, or one that the record lists as tied. Returns how many were tied."""
    tied = 0
    for prediction, want in zip(found.predictions, expected, strict=True):
        pixels = recorded(prediction)
        for got, (x, y), ties in zip(pixels, want["predicted_xy"], want["ties"], strict=True):
            allowed = [(b, a) for a, b in ties.get("tied_yx", [])]
            assert got == (x, y) or got in allowed
            tied += got != (x, y)
    return tied


def inside(value: float, bounds: list[float]) -> bool:
    return bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9


@pytest.mark.parametrize("index", [1, 2])
def test_dift_evaluation_from_pictures_to_numbers(index: int, tmp_path: Path) -> None:
    expected = EXPECTED["dift"][f"idx{index}"]
    dataset = read_spair(GOLDEN / "pck", "test")
    assert [p.name for p in dataset] == [row["pair"] for row in expected["pairs"]]
    source = DiftReplay(index)
    protocol = get_protocol("dift").replace(alphas=ALPHAS)
    found = evaluate(dataset, source, protocol, prompts="category", store=tmp_path / "store")

    feature = load_file(GOLDEN / "pck" / f"spair_mini_dift_idx{index}_one_feature.safetensors")
    from diffeat.storage import FeatureStore

    for key, want in feature.items():
        got = FeatureStore.open(tmp_path / "store").load((dataset.root / "JPEGImages" / key).as_posix()).tensor
        assert (got - want[0]).abs().max() <= 1e-5 * want.abs().max()

    check_pixels(found, expected["pairs"], lambda p: [(int(x), int(y)) for x, y in p.matches.target])
    assert [p.record.lengths["bbox"] for p in found.predictions] == [row["threshold_base"] for row in expected["pairs"]]
    for average in ("image", "point"):
        result = pck(found.records, protocol.replace(average=average), replicates=0)
        for alpha in ALPHAS:
            rows = expected["expected"][f"{alpha:g}"]
            assert inside(result[alpha], rows["All"][f"per_{average}_range"])
            for category, score in result.categories.items():
                assert inside(score.values[alpha][average], rows[category][f"per_{average}_range"])
    assert found.pictures == {"extracted": 12, "present": 0}
    assert "true category" in str(found)


def test_hyperfeatures_evaluation_from_pictures_to_numbers(tmp_path: Path) -> None:
    expected = EXPECTED["hyperfeatures"]
    images = GOLDEN / "pck" / "SPair-71k" / "JPEGImages"
    dataset = read_pair_list(GOLDEN / "pck" / "annotations" / "test.json", images)
    assert_same_pairs(dataset, expected["pairs"])
    side = expected["config"]["load_resolution"]
    matching = Matching(Lattice((side, side), convention="index", snap=True))
    protocol = get_protocol("hyperfeatures").replace(alphas=ALPHAS, matching=matching)
    found = evaluate(dataset, HyperReplay(), protocol, store=tmp_path / "store")

    rows = [
        {"predicted_xy": [(x, y) for y, x in row["predicted_load_yx"]], "ties": row["ties"]}
        for row in expected["pairs"]
    ]

    def load_pixels(prediction) -> list[tuple[int, int]]:
        from PIL import Image

        with Image.open(prediction.pair.target) as image:
            width, height = image.size
        return [(round(x * side / width), round(y * side / height)) for x, y in prediction.matches.target.tolist()]

    check_pixels(found, rows, load_pixels)
    for kind, reference in (("bbox", "bbox"), ("img", "image")):
        for average in ("image", "point"):
            asked = protocol.replace(reference=reference, average=average)
            result = pck(found.records, asked, replicates=0)
            for alpha in ALPHAS:
                assert inside(result[alpha], expected["expected"][f"{alpha:g}"][kind][f"per_{average}_range"])


def assert_same_pairs(dataset: PairDataset, rows: list[dict[str, Any]]) -> None:
    names = [("/".join(p.source.parts[-2:]), "/".join(p.target.parts[-2:])) for p in dataset]
    assert names == [(row["source_path"], row["target_path"]) for row in rows]
