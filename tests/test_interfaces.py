"""A recipe as a module, a transformer and metrics: drop-in parts of other people's loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diffeat
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor, Reading, load_source
from diffeat.interfaces import FeatureBackbone, MeanIoU, PckMetric
from diffeat.tasks.correspondence import pck, record_pair
from diffeat.tasks.correspondence.protocol import get_protocol
from tiny.pipelines import build

RECIPE = Reading(
    name="tiny",
    model="sd15",
    frame={"mode": "squash", "size": 32},
    trajectory={"timesteps": [100]},
    activations=["up_blocks.1", "up_blocks.3", "up_blocks.3.resnets.0"],
)


def source() -> Extractor:
    return Extractor(RECIPE, Backbone.from_pipeline(build("sd15")))


class Detector(nn.Module):
    """The smallest there is: an objectness map on every level."""

    def __init__(self, backbone: FeatureBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in backbone.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [head(level) for head, level in zip(self.heads, self.backbone(images), strict=True)]


def test_levels_are_the_recipe_s_maps() -> None:
    backbone = diffeat.as_module(source())
    images = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    levels = backbone(images)
    features = source().extract(images)
    assert len(levels) == 2  # three maps at two grids
    for info, level in zip(backbone.feature_info, levels, strict=True):
        expected = torch.stack([torch.cat([f[name] for name in info.module.split(" + ")]) for f in features])
        assert torch.equal(level, expected.float())
        assert info.num_chs == level.shape[1]
        assert info.reduction == 32 / level.shape[-1]
    assert backbone.reductions == sorted(backbone.reductions)
    assert list(backbone.parameters()) == []
    assert backbone.state_dict() == {}
    assert not levels[0].requires_grad
    with pytest.raises(InvalidValueError, match=r"\(b, 3, h, w\)"):
        backbone(torch.rand(3, 40, 24))


def test_a_detector_trains_on_it(tmp_path: Path) -> None:
    """LoRA inside the diffusion model and heads outside, in a plain loop; what is trained is saved and comes back."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    detector = Detector(diffeat.as_module(source(), tune="lora", rank=2))
    with torch.no_grad():
        before = detector(images)
    targets = [torch.rand_like(level).round() for level in before]
    optimiser = torch.optim.Adam(detector.parameters(), lr=0.02)
    losses = []
    for _ in range(4):
        found = detector(images)
        loss = torch.stack(
            [nn.functional.binary_cross_entropy_with_logits(f, t) for f, t in zip(found, targets, strict=True)]
        ).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    state = detector.state_dict()
    ups = [k for k in state if k.startswith("backbone.") and k.endswith("up")]
    assert ups
    assert any(state[k].abs().max() > 0 for k in ups)  # the gradient reached the denoiser
    assert not any("conv_in" in k for k in state)  # nothing of the frozen model
    torch.save(state, tmp_path / "state.pt")
    torch.manual_seed(9)
    again = Detector(diffeat.as_module(source(), tune="lora", rank=2))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with torch.no_grad():
        for one, other in zip(detector(images), again(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_padding_is_cut_off_and_the_type_of_other_recipes() -> None:
    padded = Extractor(RECIPE.replace(frame={"mode": "pad", "size": 64}), Backbone.from_pipeline(build("sd15")))
    (level, *_) = diffeat.as_module(padded)(torch.rand(1, 3, 32, 64))
    assert level.shape[-1] == 2 * level.shape[-2]
    colours = diffeat.as_module("baseline:rgb")
    assert colours.to("cpu") is colours
    with pytest.raises(InvalidValueError, match=r"as_module\(…, device='meta'\)"):
        colours.to("meta")
    with pytest.raises(InvalidValueError, match="one diffusion model"):
        diffeat.as_module("baseline:rgb", tune="lora")
    tune: Any = "lorra"
    with pytest.raises(InvalidValueError, match=r"'lorra' cannot be tuned: choose from denoiser, lora"):
        diffeat.as_module("baseline:rgb", tune=tune)


def test_scikit_learn_takes_it_in_a_pipeline() -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from diffeat.interfaces.sklearn import FeatureTransformer

    dark, light = torch.rand(4, 3, 32, 32) * 0.3, torch.rand(4, 3, 32, 32) * 0.3 + 0.7
    images, classes = torch.cat([dark, light]), [0] * 4 + [1] * 4
    model = make_pipeline(clone(FeatureTransformer("baseline:rgb")), LogisticRegression())
    assert model.fit(images, classes).score(images, classes) == 1
    pixels = FeatureTransformer("baseline:rgb", rows="pixels").fit(images).transform(images[:2])
    features = load_source("baseline:rgb").extract(images[:2])
    expected = [f.frame.map_to_original(f.tensor) for f in features]
    assert pixels.shape == (2 * 32 * 32, expected[0].shape[0])
    np.testing.assert_allclose(pixels[32 * 32 + 5 * 32 + 7], expected[1][:, 5, 7].numpy(), rtol=1e-6)
    with pytest.raises(InvalidValueError, match="'pixels'"):
        FeatureTransformer("baseline:rgb", rows="pixel").fit(images)  # pyright: ignore[reportArgumentType]


def test_metrics_add_up() -> None:
    rng = np.random.default_rng(0)
    protocol = get_protocol("spair")
    whole, parts = PckMetric("spair"), [PckMetric("spair"), PckMetric("spair")]
    records = []
    for i in range(6):
        points = rng.uniform(0, 50, (4, 2))
        guess = points + rng.normal(0, 3, (4, 2))
        facts = {"target_size": (60, 60), "target_box": (0, 0, 50, 40), "images": (f"a{i}", f"b{i}")}
        whole.update(guess, points, **facts)
        parts[i % 2].update(guess, points, **facts)
        records.append(record_pair(guess, points, **facts))
    assert whole.compute().value == pytest.approx(pck(records, protocol).value)
    assert parts[0].merge(parts[1]).compute().value == pytest.approx(whole.compute().value)
    whole.reset()
    with pytest.raises(InvalidValueError):
        whole.compute()
    with pytest.raises(InvalidValueError, match="other protocols"):
        parts[0].merge(PckMetric("dift"))

    truth, guess = rng.integers(0, 3, (5, 8, 8)), rng.integers(0, 3, (5, 8, 8))
    truth[:, 0] = 255
    metric, one, two = MeanIoU(3), MeanIoU(3), MeanIoU(3)
    metric.update(torch.from_numpy(guess), torch.from_numpy(truth))
    one.update(guess[:2], truth[:2])
    two.update(guess[2:], truth[2:])
    t, g = truth[truth != 255], guess[truth != 255]
    brute = [((t == k) & (g == k)).sum() / ((t == k) | (g == k)).sum() for k in range(3)]
    result = metric.compute()
    assert result.value == pytest.approx(100 * np.mean(brute))
    assert one.merge(two).compute().value == pytest.approx(result.value)
    low, high = result.interval()
    assert low < result.value < high
    assert result.table()[1][-1] == ["all", f"{result.value:.2f}"]
    many, labels = MeanIoU(300, ignore=-1), np.arange(300).reshape(10, 30)
    many.update(labels, (labels + (labels > 253)) % 300)
    right = 253 + 1 / 2  # 0 is found, and once more where it is not; of 254 on each is taken for the next
    assert many.compute().value == pytest.approx(100 * right / 300)
    with pytest.raises(InvalidValueError, match="predicted label is none of the 3"):
        metric.update(np.full((2, 2), 3), np.zeros((2, 2)))
