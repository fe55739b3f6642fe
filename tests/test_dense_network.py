"""Dense networks against independent implementations and closed forms."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeat.errors import InvalidValueError
from diffeat.extraction import Recipe, join_recipes
from diffeat.features import FeatureMap
from diffeat.geometry import Frame
from diffeat.tasks.dense import (
    DecoderOptions,
    DenseNetwork,
    Layout,
    angular_loss,
    lovasz_softmax,
    maps_apart,
    scale_invariant_loss,
)
from diffeat.tasks.dense.decoders import DECODERS, Linear, UperNet

FRAME = Frame((64, 64), (64, 64), (0, 0, 64, 64))
#: Names and shapes of maps.
MAPS = {"a": (6, 8, 8), "b": (4, 16, 16), "c": (5, 8, 8), "d": (3, 32, 32)}


def example(shapes: dict[str, tuple[int, int, int]] = MAPS, seed: int = 0) -> FeatureMap:
    generator = torch.Generator().manual_seed(seed)
    return FeatureMap({n: torch.randn(*shape, generator=generator) for n, shape in shapes.items()}, FRAME)


def batch(count: int = 2) -> dict[str, Tensor]:
    pictures = [example(seed=k) for k in range(count)]
    return {name: torch.stack([p[name] for p in pictures]) for name in MAPS}


PLAIN = Recipe.load("tiny-unet")
VIEWS = PLAIN.replace(
    views=[{"seed": 1}, {"name": "other", "seed": 2}, {"name": "more", "append": True}], fuse={"kind": "apart"}
)


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) - 0.5 * (tensor.ndim > 1)
    return module.eval()


# ---- levels


def test_levels_are_the_grids_from_fine_to_coarse() -> None:
    layout = Layout.of(PLAIN, example())
    assert [(level.stride, level.channels) for level in layout.levels] == [(2, 3), (4, 4), (8, 11)]
    assert layout.names == ["d", "b", "a", "c"]
    assert str(layout).splitlines()[2] == "level 2: stride 8 (8×8), 11 channels: a (6) + c (5)"
    assert Layout.from_dict(layout.to_dict()) == layout


def test_views_are_mixed_and_appended_ones_stand_beside() -> None:
    shapes = {f"{view}/x": (4, 8, 8) for view in ("1", "other")} | {"more/x": (7, 8, 8), "more/y": (2, 4, 4)}
    layout = Layout.of(VIEWS, example(shapes))
    fine, coarse = layout.levels
    assert fine.groups == (({"1/x": 4}, {"other/x": 4}), ({"more/x": 7},))
    assert (fine.channels, coarse.channels) == (11, 2)
    assert [level.channels for level in Layout.of(VIEWS, example(shapes), mix=False).levels] == [15, 2]
    with pytest.raises(InvalidValueError, match=r"at 8×8 they have \[4, 5\] channels"):
        Layout.of(VIEWS, example({**shapes, "other/x": (5, 8, 8)}))


def test_recipes_give_their_maps_apart() -> None:
    fused = PLAIN.replace(fuse={"kind": "concat"})
    assert maps_apart(fused).fuse is None
    joint = maps_apart(join_recipes([fused, Recipe.load("baseline:rgb")]))
    assert (joint.join, joint.parts[0].fuse) == ("apart", None)
    assert maps_apart(VIEWS.replace(fuse={"kind": "mean"})).fuse.kind == "apart"
    mean = PLAIN.replace(fuse={"kind": "mean"})
    assert maps_apart(mean) == mean  # one map is what this recipe means


def test_weights_of_views_are_learned_per_level_and_sum_to_one() -> None:
    shapes = {f"{view}/x": (4, 8, 8) for view in ("1", "other")}
    network = DenseNetwork(Layout.of(VIEWS, example(shapes)), 3, DecoderOptions()).eval()
    one, other = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    (level,) = network.levels({"1/x": one, "other/x": other})
    share = ((level - other) / (one - other)).detach()
    assert ((share > 0) & (share < 1)).all()
    assert torch.allclose(share, share.mean((2, 3), keepdim=True).expand_as(share), atol=1e-3)  # one per channel


# ---- decoders


@pytest.mark.parametrize("head", DECODERS)
@pytest.mark.parametrize("block", ["none", "constant", "residual"])
def test_every_network_gives_scores_on_the_finest_grid_and_learns(head: Any, block: Any) -> None:
    torch.manual_seed(0)
    options = DecoderOptions(head=head, blocks=block, channels=8)
    network = DenseNetwork(Layout.of(PLAIN, example()), 5, options)
    scores, second = network(batch())
    assert scores.shape == (2, 5, 32, 32)
    (scores.square().sum() + (0 if second is None else second.square().sum())).backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None]
    assert not unused
    assert (second is not None) == (head == "upernet")
    assert network.eval()(batch())[1] is None


@pytest.mark.parametrize("head", DECODERS)
def test_scores_begin_where_they_are_told_to(head: Any) -> None:
    network = DenseNetwork(Layout.of(PLAIN, example()), 1, DecoderOptions(head=head, channels=8)).eval()
    maps = {name: torch.zeros(1, *shape) for name, shape in MAPS.items()}
    first = torch.empty(0)
    for value in (0.0, 3.0):
        network.decoder.begin_at(torch.tensor([value]))
        scores = network(maps)[0]
        first = first if value else scores
    assert torch.allclose(scores, first + 3, atol=1e-4)


def test_the_linear_head_equals_classifying_enlarged_maps_side_by_side() -> None:
    network = randomised(DenseNetwork(Layout.of(PLAIN, example()), 5, DecoderOptions()))
    assert isinstance(network.decoder, Linear)
    wide = torch.cat([F.interpolate(level, size=(32, 32), mode="bilinear") for level in network.levels(batch())], dim=1)
    parts = [(n.weight, n.bias, n.running_mean, n.running_var) for n in network.decoder.norms]
    weight, bias, mean, variance = (torch.cat(p) for p in zip(*parts, strict=True))
    normed = F.batch_norm(wide, mean, variance, weight, bias)
    kernel = torch.cat([c.weight for c in network.decoder.classifiers], dim=1)
    expected = F.conv2d(normed, kernel, network.decoder.classifiers[0].bias)
    assert torch.allclose(network(batch())[0], expected, atol=1e-4)


def test_upernet_equals_that_of_transformers() -> None:
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

    channels, strides = [3, 4, 11], [2.0, 4.0, 8.0]
    config = UperNetConfig(
        backbone_config={"model_type": "resnet"}, hidden_size=16, pool_scales=[1, 2, 3], num_labels=5,
        auxiliary_channels=8, auxiliary_in_channels=4, auxiliary_num_convs=1, auxiliary_concat_input=False,
    )  # fmt: skip
    theirs, second = randomised(UperNetHead(config, channels)), randomised(UperNetFCNHead(config, channels, in_index=1))
    ours = UperNet(channels, strides, 5, DecoderOptions(head="upernet", channels=16)).eval()
    places = {
        r"psp_modules\.(\d)\.1\.": r"pooled.\1.", "fpn_bottleneck": "join", "lateral_convs": "laterals",
        "fpn_convs": "smooth", r"\.conv\.": ".0.", r"\.batch_norm\.": ".1.",
    }  # fmt: skip
    state = {}
    for key, value in theirs.state_dict().items():
        for pattern, place in places.items():
            key = re.sub(pattern, place, key)
        state[key.replace("batch_norm", "1").replace("conv.", "0.")] = value
    for name, value in second.state_dict().items():
        key = name.replace("convs.0.conv", "second.0").replace("convs.0.batch_norm", "second.1")
        state[key.replace("classifier", "second.4")] = value
    ours.load_state_dict(state)
    levels = DenseNetwork(Layout.of(PLAIN, example()), 5, DecoderOptions()).levels(batch())
    assert torch.allclose(ours(levels), theirs(levels), rtol=1e-5, atol=1e-5)
    assert torch.allclose(ours.auxiliary(levels), second(levels), rtol=1e-5, atol=1e-5)


def test_a_pool_of_one_cell_needs_two_pictures() -> None:
    network = DenseNetwork(Layout.of(PLAIN, example()), 5, DecoderOptions(head="upernet", channels=8))
    with pytest.raises(InvalidValueError, match="--batch 2"):
        network(batch(1))


def test_misspelt_options_name_the_field() -> None:
    with pytest.raises(InvalidValueError, match="head"):
        DecoderOptions(head="upernot")


# ---- losses


def slow_lovasz(scores: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """The definition, pixel by pixel: how much the Jaccard loss grows when an error is added to those made so far."""
    known = [(b, y, x) for b, y, x in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist()
             if labels[b, y, x] != ignore]  # fmt: skip
    shares = scores.softmax(1)
    losses = []
    for label in sorted({int(labels[p]) for p in known}):
        members = {p for p in known if labels[p] == label}
        errors = [(1 - shares[b, label, y, x] if (b, y, x) in members else shares[b, label, y, x], (b, y, x))
                  for b, y, x in known]  # fmt: skip
        errors.sort(key=lambda item: -float(item[0]))
        wrong: set[tuple[int, int, int]] = set()
        before, total = 0.0, torch.zeros((), dtype=scores.dtype)
        for error, place in errors:
            wrong.add(place)
            jaccard = 1 - len(members - wrong) / len(members | wrong)
            total, before = total + error * (jaccard - before), jaccard
        losses.append(total)
    return torch.stack(losses).mean()


def test_lovasz_equals_a_slow_direct_version_and_its_gradient_a_numeric_one() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 4, 3, 4, generator=generator)
    labels = torch.randint(0, 3, (2, 3, 4), generator=generator)  # the last class does not occur
    labels[0, 0, :2] = 255
    assert torch.allclose(lovasz_softmax(scores, labels), slow_lovasz(scores, labels, 255), atol=1e-6)
    scores.requires_grad_()
    lovasz_softmax(scores, labels).backward()
    gradient = scores.grad
    assert gradient is not None
    for index in [(0, 0, 1, 1), (1, 2, 2, 3), (0, 3, 2, 0), (1, 1, 0, 0)]:
        moved = torch.zeros_like(scores, dtype=torch.float64)
        moved[index] = 1e-5
        values = scores.detach().double()
        numeric = (slow_lovasz(values + moved, labels, 255) - slow_lovasz(values - moved, labels, 255)) / 2e-5
        assert float(gradient[index]) == pytest.approx(float(numeric), abs=1e-5)


def test_losses_of_nothing_known_are_zero_and_have_gradients() -> None:
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    nothing = torch.full((1, 3, 2, 2), torch.nan)
    for loss in (
        lovasz_softmax(scores, torch.full((1, 2, 2), 255)),
        angular_loss(scores, nothing),
        scale_invariant_loss(scores.exp()[:, :1], nothing[:, :1]),
    ):
        loss.backward()
        assert float(loss.detach()) == 0


def test_the_scale_invariant_loss_by_hand() -> None:
    depth, truth = torch.tensor([[[[1.0, 2.0, 9.0]]]]), torch.tensor([[[[2.0, 2.0, torch.nan]]]])
    d = torch.tensor([0.5, 1.0]).log()
    expected = (d.square().mean() - 0.85 * d.mean().square()).sqrt()
    assert scale_invariant_loss(depth, truth) == pytest.approx(float(expected), abs=1e-5)
