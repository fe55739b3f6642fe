"""Frames: sizes, pixels, and the way there and back of points, boxes and maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.errors import InvalidValueError
from diffeat.geometry import Frame, FrameSpec, open_image

settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

sides = st.integers(1, 300)
sizes = st.tuples(sides, sides)
model_sizes = st.tuples(st.integers(1, 24), st.integers(1, 24)).map(lambda s: (8 * s[0], 8 * s[1]))
filters = st.sampled_from(["bicubic", "bilinear", "lanczos"])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    mode = draw(st.sampled_from(["squash", "pad", "keep"]))
    if mode == "keep":
        lengths = {draw(st.sampled_from(["shorter", "longer"])): draw(st.integers(8, 200))}
        spec = FrameSpec("keep", **lengths, multiple=draw(st.sampled_from([1, 8, 16])))
    else:
        spec = FrameSpec(mode, size=draw(model_sizes))
    return spec.frame(draw(sizes), multiple=8)


def noise_image(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


# --- sizes ---------------------------------------------------------------------------------------


def test_squash_takes_the_size_as_it_is() -> None:
    frame = FrameSpec("squash", size=(768, 512)).frame((150, 110), multiple=8)
    assert (frame.model, frame.content, frame.padded) == ((768, 512), (0, 0, 768, 512), False)


def test_one_number_is_a_square() -> None:
    assert FrameSpec("squash", size=64).frame((10, 20)).model == (64, 64)


def test_pad_is_centred_and_keeps_the_aspect_ratio() -> None:
    frame = FrameSpec("pad", size=960, filter="lanczos").frame((500, 375), multiple=8)
    assert frame.content == (0, 120, 960, 720)
    assert FrameSpec("pad", size=(100, 60)).frame((10, 100)).content == (47, 0, 6, 60)


def test_keep_rounds_each_side_as_ditf_does() -> None:
    # s = 640 / max(h, w); H = round(h * s / 16) * 16
    assert FrameSpec("keep", longer=640, multiple=16).frame((500, 333)).model == (640, 432)
    assert FrameSpec("keep", shorter=480).frame((854, 480), multiple=32).model == (864, 480)


@pytest.mark.parametrize(("how", "width"), [("down", 832), ("nearest", 864), ("up", 864)])
def test_keep_rounds_down_as_dift_does_or_up(how: str, width: int) -> None:
    assert FrameSpec("keep", shorter=480, multiple=32, round=how).frame((854, 480)).model == (width, 480)
    assert FrameSpec("keep", longer=96, round=how).frame((96, 3), multiple=32).model == (96, 32)  # never nothing
    assert FrameSpec("keep", shorter=960, multiple=32, round="down").frame((854, 480)).model == (1696, 960)
    assert FrameSpec.from_dict(FrameSpec("keep", round="down").to_dict()).round == "down"


def test_keep_with_no_length_is_the_pictures_own_size() -> None:
    assert FrameSpec("keep").frame((160, 96), multiple=8).model == (160, 96)
    assert FrameSpec("keep").frame((3, 3), multiple=8).model == (8, 8)


def test_the_models_own_size_fills_in() -> None:
    assert FrameSpec("squash").frame((10, 10), default_size=(512, 512)).model == (512, 512)
    with pytest.raises(InvalidValueError, match="needs a size"):
        FrameSpec("squash").frame((10, 10))


@given(sizes, st.integers(8, 300), st.sampled_from([1, 8, 14, 16]), st.sampled_from([8, 16]))
def test_keep_always_fits_the_model(original, longer, own, multiple) -> None:
    frame = FrameSpec("keep", longer=longer, multiple=own).frame(original, multiple)
    assert all(side % multiple == 0 and side % own == 0 and side > 0 for side in frame.model)


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_a_size_off_the_multiple_names_the_nearest(mode) -> None:
    with pytest.raises(InvalidValueError, match=r"multiples of 8, got 500×770.*496×768 or 504×776"):
        FrameSpec(mode, size=(500, 770)).frame((10, 10), multiple=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "squish"}, "Did you mean 'squash'"),
        ({"filter": "bicubik"}, "Did you mean 'bicubic'"),
        ({"mode": "keep", "size": 3}, "takes shorter= or longer="),
        ({"mode": "keep", "shorter": 3, "longer": 3}, "not both"),
        ({"mode": "pad", "shorter": 3}, "belong to mode 'keep'"),
        ({"size": (0, 5)}, "from 1"),
        ({"size": (1, 2, 3)}, "width, height"),
        ({"mode": "keep", "longer": -1}, "longer"),
        ({"multiple": 0}, "multiple"),
        ({"mode": "keep", "round": "dwon"}, "'down'"),
        ({"round": "up"}, "round= belongs to mode 'keep'"),
        ({"fill": 300}, "0 to 255"),
    ],
)
def test_a_wrong_spec_is_refused(fields, message) -> None:
    with pytest.raises(InvalidValueError, match=message):
        FrameSpec(**fields)


def test_specs_and_frames_survive_json() -> None:
    for spec in (FrameSpec("pad", size=[64, 32], fill=128), FrameSpec("keep", longer=99, filter="lanczos")):
        assert FrameSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        frame = spec.frame((123, 45))
        assert Frame.from_dict(json.loads(json.dumps(frame.to_dict()))) == frame
    with pytest.raises(InvalidValueError, match="Did you mean 'size'"):
        FrameSpec.from_dict({"mode": "pad", "sizes": 3})


# --- pixels --------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(sizes, model_sizes, filters)
def test_squash_is_pillows_resize(original, model, name) -> None:
    image = noise_image(original)
    resized = np.array(image.resize(model, getattr(Image.Resampling, name.upper())))
    expected = (torch.from_numpy(resized).permute(2, 0, 1).double() / 255 - 0.5) * 2
    pixels = FrameSpec("squash", size=model, filter=name).frame(original).pixels(image)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert (pixels.double() - expected).abs().max() <= 1e-7


def test_padding_surrounds_the_resized_picture() -> None:
    image = noise_image((40, 20))
    frame = FrameSpec("pad", size=(64, 64), fill=128).frame(image.size)
    inner = FrameSpec("squash", size=(64, 32)).frame(image.size).pixels(image)
    pixels = frame.pixels(image)
    assert torch.equal(pixels[:, 16:48], inner)
    assert (torch.cat([pixels[:, :16], pixels[:, 48:]]) - (128 / 127.5 - 1)).abs().max() < 1e-7


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="10×20 pixels, got one of 20×10"):
        FrameSpec("keep").frame((10, 20)).pixels(noise_image((20, 10)))


def golden_cases(family: str):
    for root in golden_roots():
        cases = root / family / "cases.json"
        if cases.exists():
            for case in json.loads(cases.read_text()):
                if case.get("mode") != "generation" and (root / family / case["file"]).exists():
                    yield pytest.param(root / family, case, id=f"{root.parent.name}-{case['name']}")


@pytest.mark.parametrize(("root", "case"), golden_cases("dift"))
def test_model_images_equal_the_reference_dift(root, case) -> None:
    image = open_image(root / "images" / case["image"])
    spec = FrameSpec("squash", size=case["img_size"]) if case["img_size"] else FrameSpec("keep")
    expected = load_file(root / case["file"])["image_tensor"]
    assert (spec.frame(image.size, 8).pixels(image)[None] - expected).abs().max() <= 1e-7


@pytest.mark.parametrize(("root", "case"), golden_cases("hyperfeatures"))
def test_model_images_equal_the_reference_hyperfeatures(root, case) -> None:
    spec = FrameSpec("squash", size=case["load_size"], filter="bilinear")
    data = load_file(root / case["file"])
    images = [open_image(root / "images" / name) for name in case["images"]]
    for image, expected in zip(images, data["images"], strict=True):
        assert (spec.frame(image.size, 8).pixels(image) - expected).abs().max() <= 1e-7


# --- points and boxes ----------------------------------------------------------------------------


@given(frames(), st.lists(st.floats(-50, 400), min_size=2, max_size=8), st.tuples(sides, sides))
def test_points_come_back(frame, values, grid) -> None:
    points = torch.tensor(values[: len(values) // 2 * 2], dtype=torch.float64).reshape(-1, 2)
    torch.testing.assert_close(frame.points_to_original(frame.points_to_model(points)), points)
    torch.testing.assert_close(frame.points_from_grid(frame.points_to_grid(points, grid), grid), points)


@given(frames(), st.tuples(*[st.floats(-10, 300)] * 4))
def test_boxes_come_back(frame, box) -> None:
    boxes = torch.tensor([box], dtype=torch.float64)
    model = frame.boxes_to_model(boxes)
    torch.testing.assert_close(frame.boxes_to_original(model), boxes)
    width = (boxes[:, 2] - boxes[:, 0]) * frame.scale[0]
    torch.testing.assert_close(model[:, 2] - model[:, 0], width)


@given(frames())
def test_the_pictures_corners_are_the_corners_of_its_content(frame) -> None:
    width, height = frame.original
    left, top, inner_w, inner_h = frame.content
    outline = torch.tensor([-0.5, -0.5, width - 0.5, height - 0.5], dtype=torch.float64)
    expected = torch.tensor([left - 0.5, top - 0.5, left + inner_w - 0.5, top + inner_h - 0.5]).double()
    torch.testing.assert_close(frame.boxes_to_model(outline), expected)


def test_a_point_in_numbers() -> None:
    frame = FrameSpec("squash", size=(512, 256)).frame((256, 256))
    assert frame.points_to_model(torch.tensor([[0, 0], [255, 255]])).tolist() == [[0.5, 0], [510.5, 255]]
    assert frame.points_to_grid(torch.tensor([0.0, 0.0]), (16, 32)).tolist() == [-0.4375, -0.46875]


@settings(max_examples=20)
@given(frames(), st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_content_cells_are_those_that_the_picture_touches(frame, grid) -> None:
    left, top, width, height = frame.content
    pixels = torch.zeros(frame.model[::-1])
    pixels[top : top + height, left : left + width] = 1
    # every model pixel split so finely that each piece lies in one cell
    fine = pixels.repeat_interleave(grid[0], 0).repeat_interleave(grid[1], 1)
    touched = F.max_pool2d(fine[None], frame.model[::-1])[0] > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    expected = (rows[0], columns[0], len(rows), len(columns))
    assert frame.content_cells(grid) == tuple(map(int, expected))


# --- maps ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(sizes, model_sizes, st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_a_whole_map_goes_back_as_interpolate_does(original, model, grid) -> None:
    frame = FrameSpec("squash", size=model).frame(original)
    values = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values, size=original[::-1], mode="bilinear", align_corners=False)
    torch.testing.assert_close(frame.map_to_original(values), expected, rtol=1e-5, atol=1e-6)


def test_labels_go_back_as_nearest_exact_does() -> None:
    frame = FrameSpec("squash", size=(64, 64)).frame((101, 37))
    labels = torch.randint(9, (3, 7, 12), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(labels[None].double(), size=(37, 101), mode="nearest-exact")[0].long()
    assert torch.equal(frame.map_to_original(labels, "nearest"), expected)


@given(frames(), st.tuples(st.integers(2, 24), st.integers(2, 24)))
def test_a_ramp_stays_a_ramp(frame, grid) -> None:
    """A map that holds each cell's own original coordinates gives every pixel its own back."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    cells = frame.points_from_grid(torch.stack([columns, rows], -1), grid).permute(2, 0, 1)
    back = frame.map_to_original(cells)
    width, height = frame.original
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    low, high = cells[:, 0, 0], cells[:, -1, -1]
    expected = torch.stack([x.clamp(low[0], high[0]), y.clamp(low[1], high[1])])  # outer half cells repeat
    torch.testing.assert_close(back, expected, rtol=1e-6, atol=1e-6)


@given(frames())
def test_original_maps_reach_the_model_and_come_back(frame) -> None:
    width, height = frame.original
    ramp = torch.arange(height, dtype=torch.float64)[:, None] * 2 - torch.arange(width, dtype=torch.float64)
    there = frame.map_from_original(ramp)
    assert there.shape == frame.model[::-1]
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in there.shape), indexing="ij")
    points = frame.points_to_original(torch.stack([columns, rows], -1))
    x, y = points.unbind(-1)
    expected = y.clamp(0, height - 1) * 2 - x.clamp(0, width - 1)
    left, top, inner_w, inner_h = frame.content
    inside = torch.zeros_like(there, dtype=torch.bool)
    inside[top : top + inner_h, left : left + inner_w] = True
    torch.testing.assert_close(there, torch.where(inside, expected, 0.0), rtol=1e-6, atol=1e-6)


def test_padding_never_leaks_labels() -> None:
    frame = FrameSpec("pad", size=(64, 64)).frame((40, 20))
    mask = torch.arange(1, 9).reshape(2, 4).repeat_interleave(10, 0).repeat_interleave(10, 1)
    there = frame.map_from_original(mask, grid=(8, 8), mode="nearest", fill=-1)
    assert there[:2].eq(-1).all()
    assert there[6:].eq(-1).all()
    assert there[2:6].min() == 1
    assert torch.equal(frame.map_to_original(there, "nearest"), mask)


def test_wrong_maps_are_refused() -> None:
    frame = FrameSpec("keep").frame((8, 6))
    with pytest.raises(InvalidValueError, match="8×6 pixels is wanted, got 6×8"):
        frame.map_from_original(torch.zeros(8, 6))
    with pytest.raises(InvalidValueError, match="mode='nearest'"):
        frame.map_to_original(torch.zeros(8, 6, dtype=torch.long))
    with pytest.raises(InvalidValueError, match="No map mode"):
        frame.map_to_original(torch.zeros(8, 6), "cubic")  # type: ignore[arg-type]
