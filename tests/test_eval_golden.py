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
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.joins.hyperfeatures import fuse_maps
from diffeat.features import FeatureMap, Streams
from diffeat.geometry import FrameSpec, open_image
from diffeat.tasks.correspondence import Lattice, Matching, get_protocol, pck
from diffeat.tasks.correspondence.evaluate import Evaluation, evaluate
from diffeat.training.hyperfeatures.examples import Examples
from diffeat.training.hyperfeatures.maps import PictureMaps
from diffeat.training.hyperfeatures.train import TrainSettings, pair_loss
from diffeat.trajectories import ode_steps, walk

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


class Replay(Streams):
    """A source of features that takes its noise from a file."""

    fingerprint = ""

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
    """DDIM inversion, twelve residual branches at five of its ten steps, and the aggregation network over them."""

    LAYERS = tuple(f"up_blocks.{i}.resnets.{j}.increment" for i in range(4) for j in range(3))

    def __init__(self) -> None:
        super().__init__(
            ReplayRecipe("hyperfeatures"),
            load_file(GOLDEN / "pck" / "spair_mini_hyper_noise_and_train.safetensors"),
        )
        self.config = SimpleNamespace(**EXPECTED["hyperfeatures"]["config"])
        self.backbone = Backbone.from_pretrained(str(GOLDEN / "hyperfeatures" / "pipeline"))
        config = AggregationConfig(
            self.LAYERS, (24,) * 3 + (16,) * 3 + (12,) * 3 + (8,) * 3, tuple(self.config.save_timestep), 10, "", 128
        )
        self.network = AggregationNetwork(config).eval()
        self.network.load_state_dict(load_file(GOLDEN / "hyperfeatures" / "head" / "aggregation_network.safetensors"))

    def features(self, picture, key: str):
        maps = self.maps(Path(picture.name))
        return fuse_maps(self.network, maps.layers), maps.frame

    def maps(self, path: Path) -> PictureMaps:
        side, inner = self.config.load_resolution, self.config.vae_size
        image = open_image(path)
        frame = FrameSpec("squash", (side, side), filter="bilinear").frame(image.size)
        pixels = F.interpolate(frame.pixels(image)[None], size=(inner, inner), mode="bilinear")
        x = self.backbone.encode_images(pixels).sample(self.noise["/".join(path.parts[-2:]) + ".vae_eps"][None])
        conditions = self.backbone.condition([""], size=(inner, inner))
        steps = ode_steps("inversion", self.config.num_timesteps, self.backbone)
        found: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            walk(
                self.backbone,
                x,
                steps,
                conditions,
                taps=Taps(self.backbone.denoiser, self.LAYERS),
                save=self.config.save_timestep,
                on_features=found.__setitem__,
                finish=False,
            )
        layers = tuple(torch.cat([found[s][name] for s in self.config.save_timestep]) for name in self.LAYERS)
        return PictureMaps(layers, frame)


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


def test_hyperfeatures_training_from_pictures_to_weights() -> None:
    expected = EXPECTED["hyperfeatures"]["train"]
    source = HyperReplay()
    images = GOLDEN / "pck" / "SPair-71k" / "JPEGImages"
    pairs = read_pair_list(GOLDEN / "pck" / "annotations" / "trn.json", images)
    examples = Examples(pairs, source, seed=0)
    settings = TrainSettings(lr=expected["lr"], weight_decay=expected["weight_decay"], convention="index")
    optimiser = torch.optim.AdamW(source.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    names = {pair.name: ["/".join(p.parts[-2:]) for p in (pair.source, pair.target)] for pair in pairs}
    before = source.network.mixing_weights.detach()
    assert error(before, source.noise["train.mixing_weights_before"]) <= 1e-6
    for step, (order, want) in enumerate(zip(expected["order"], expected["losses"], strict=True)):
        assert names[examples[step].name] == order
        loss, _ = pair_loss(source.network.train(), examples[step], settings)
        assert abs(loss.item() - want) <= 1e-5 * want
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        after = source.noise[f"train.mixing_weights_after_{step + 1}"]
        assert error(source.network.mixing_weights.detach(), after) <= 1e-5


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def assert_same_pairs(dataset: PairDataset, rows: list[dict[str, Any]]) -> None:
    names = [("/".join(p.source.parts[-2:]), "/".join(p.target.parts[-2:])) for p in dataset]
    assert names == [(row["source_path"], row["target_path"]) for row in rows]
