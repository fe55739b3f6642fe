"""Evaluation, its reports, flips, fusion and vision transformers, on features that know the answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from diffeat.datasets.pairs import PairDataset, PointPair
from diffeat.datasets.registry import open_dataset
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError
from diffeat.evaluation import picture_texts
from diffeat.evaluation.texts import read_policy
from diffeat.extraction import (
    Baseline,
    Daisy,
    Joined,
    JoinedSource,
    Recipe,
    RgbPatches,
    Vision,
    VisionExtractor,
    join_recipes,
)
from diffeat.features import FeatureMap, Source, Streams, raise_error
from diffeat.geometry import FrameSpec
from diffeat.report.correspondence import to_markdown, write_report
from diffeat.tasks.correspondence import Target, get_protocol, match
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.flip import find_pose_aligned, mirrored_points

GOLDEN = Path(__file__).parent / "golden" / "pck"
SPAIR = get_protocol("spair")


class Counting(RgbPatches):
    """RGB patches that count how often each picture is extracted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def stream(self, images, prompts=None, *, on_error=raise_error) -> Iterator[FeatureMap]:
        for found in super().stream(images, prompts, on_error=on_error):
            self.seen.append(found.image)
            yield found


@pytest.fixture
def mini() -> PairDataset:
    return open_dataset("spair", GOLDEN)


def test_each_picture_is_extracted_once_and_a_second_run_needs_none(mini: PairDataset, tmp_path: Path) -> None:
    source = Counting()
    first = evaluate(mini, source, SPAIR, store=tmp_path / "store")
    assert sorted(source.seen) == sorted(p.as_posix() for p in mini.images())
    assert first.pictures == {"extracted": 12, "present": 0}
    again = evaluate(mini, source, SPAIR, store=tmp_path / "store")
    assert len(source.seen) == 12
    assert again.pictures == {"extracted": 0, "present": 12}
    assert str(again.result) == str(first.result)
    assert [p.pair.name for p in first.predictions] == [p.name for p in mini]
    temporary = evaluate(mini, source, SPAIR)
    assert str(temporary.result) == str(first.result)


def test_parts_of_a_dataset_merge_to_the_whole(mini: PairDataset) -> None:
    parts = (replace(mini, pairs=mini.pairs[:15]), replace(mini, pairs=mini.pairs[15:]))
    one, two, whole = (evaluate(part, RgbPatches(), SPAIR, prompts="category") for part in (*parts, mini))
    merged = one.merge(two)
    assert merged.records == whole.records
    assert str(merged) == str(whole)
    assert to_markdown(replace(merged, seconds=whole.seconds, pictures=whole.pictures)) == to_markdown(whole)
    with pytest.raises(InvalidValueError, match="different settings"):
        one.merge(evaluate(parts[1], RgbPatches(), SPAIR, prompts="a thing"))


def test_predictions_are_those_of_match(mini: PairDataset) -> None:
    source = RgbPatches()
    found = evaluate(mini, source, SPAIR)
    prediction = found.predictions[7]
    one, other = source.stream([prediction.pair.source, prediction.pair.target])
    assert torch.equal(match(one, other, prediction.pair.source_points).target, prediction.matches.target)


def test_what_cannot_be_scored_is_counted(mini: PairDataset) -> None:
    a, b, c, d, e, *rest = mini.pairs
    odd = (
        replace(a, source_points=(), target_points=()),
        replace(b, target_box=(5, 5, 5, 9)),
        replace(c, target_points=((math.nan, 1.0), *c.target_points[1:])),
        replace(d, target_box=None),
        replace(e, source_points=((-3.0, 5000.0), *e.source_points[1:])),
        *rest[:3],
    )
    found = evaluate(replace(mini, pairs=odd), RgbPatches(), SPAIR)
    assert len(found.predictions) == 4
    assert sorted(found.left_out.values()) == [
        "a keypoint is not a number", "no keypoint", "no target box", "target box without area",
    ]  # fmt: skip
    text = str(found)
    assert "1 pairs left out: no keypoint" in text
    assert "1 source points outside their picture were moved to its border" in text
    image = evaluate(replace(mini, pairs=odd), RgbPatches(), get_protocol("pf-pascal"))
    assert len(image.predictions) == 6


def test_what_a_protocol_cannot_score_is_refused_before_anything_is_extracted(
    mini: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxless = replace(mini, pairs=tuple(replace(pair, target_box=None) for pair in mini.pairs[:2]))
    source = RgbPatches()
    monkeypatch.setattr(source, "read", lambda pictures: pytest.fail("extracted"))
    with pytest.raises(DatasetError, match=r"No pair .* by protocol 'spair' .*no target box.*such as 'picture'"):
        evaluate(boxless, source, SPAIR)
    pointless = replace(mini, pairs=(replace(mini.pairs[0], source_points=(), target_points=()),))
    with pytest.raises(DatasetError, match=r"no keypoint\)\.$"):
        evaluate(pointless, source, get_protocol("picture"))


def test_pictures_of_another_size_than_annotated_are_refused(mini: PairDataset) -> None:
    wrong = replace(mini.pairs[0], target_size=(999, 10))
    with pytest.raises(DatasetError, match="annotated at 999×10"):
        evaluate(replace(mini, pairs=(wrong,)), RgbPatches(), SPAIR)


def test_a_picture_that_cannot_be_read_stops_the_evaluation(mini: PairDataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    pair = replace(mini.pairs[0], target=broken, target_size=None)
    with pytest.raises(DatasetError, match=r"1 of 13 pictures cannot be used.*broken\.jpg"):
        evaluate(replace(mini, pairs=(pair, *mini.pairs[1:])), RgbPatches(), SPAIR)


def test_texts_of_pictures(mini: PairDataset) -> None:
    assert set(picture_texts(mini, None).values()) == {None}
    assert set(picture_texts(mini, "category").values()) == {f"a photo of a {c}" for c in ("bus", "cat", "chair")}
    assert set(picture_texts(mini, "category", "a photo of a {}").values()) == {"bus", "cat", "chair"}
    assert "one cat" in picture_texts(mini, "one {category}").values()
    assert set(picture_texts(mini, "hello").values()) == {"hello"}
    with pytest.raises(UnknownNameError, match="no text for category 'bus'"):
        picture_texts(mini, {"cat": "a cat", "chair": "a chair"})
    nameless = replace(mini, pairs=tuple(replace(p, category="") for p in mini))
    with pytest.raises(InvalidValueError, match="no categories"):
        picture_texts(nameless, "category")
    shared = replace(mini, pairs=(mini.pairs[0], replace(mini.pairs[0], category="dog")))
    with pytest.raises(InvalidValueError, match="two categories"):
        picture_texts(shared, "category")


def test_captions_of_pictures_go_to_the_model_whole(mini: PairDataset, tmp_path: Path) -> None:
    paths = mini.images()
    categories = {path: pair.category for pair in mini for path in (pair.source, pair.target)}
    spellings = {
        "as released": lambda p: categories[p] + p.name,
        "with folder": lambda p: "/".join(p.parts[-2:]),
        "whole": lambda p: p.as_posix(),
        "name": lambda p: p.name,
        "stem": lambda p: p.stem,
    }
    recipe = Recipe.load("dift-sd21")
    for spelling in spellings.values():
        captions = {spelling(path): f"caption {i}" for i, path in enumerate(paths)}
        texts = picture_texts(mini, captions, recipe.template)
        assert texts == {path: f"caption {i}" for i, path in enumerate(paths)}
        assert recipe.text_for(texts[paths[0]]) == "caption 0"
        assert Vision(model="m").text_for(texts[paths[0]]) == ""
    mixed = {
        "cat": "big cat",
        "bus": "bus",
        "chair": "chair",
        next(p.name for p in paths if categories[p] == "cat"): "one",
    }
    told = {recipe.text_for(text) for path, text in picture_texts(mini, mixed).items() if categories[path] == "cat"}
    assert told == {"a photo of a big cat", "one"}
    assert recipe.text_for(picture_texts(mini, "one {category} alone")[paths[0]]) == f"one {categories[paths[0]]} alone"
    with pytest.raises(UnknownNameError, match=f"nor one for {paths[0].name}"):
        picture_texts(mini, {paths[1].name: "a"})
    (tmp_path / "other").mkdir()
    twin = replace(mini.pairs[0], target=tmp_path / "other" / mini.pairs[0].source.name)
    with pytest.raises(InvalidValueError, match="stands for two pictures"):
        picture_texts(replace(mini, pairs=(twin,)), {twin.source.name: "a"})


def test_captions_from_files(tmp_path: Path) -> None:
    file = tmp_path / "captions.csv"
    file.write_text('image,prompt\na.png,"one, two"\nb.png,three\n')
    assert read_policy(str(file)) == {"a.png": "one, two", "b.png": "three"}
    file.write_text("image,prompt\na.png,x\na.png,y\n")
    with pytest.raises(InvalidValueError, match="line 3: 'a.png' has two texts"):
        read_policy(str(file))
    named = tmp_path / "captions.json"
    named.write_text('\ufeff{"a.png": "x", "b.png": "z", "a.png": "x"}')
    assert read_policy(str(named)) == {"a.png": "x", "b.png": "z"}
    named.write_text('{"a.png": "x", "b.png": "z", "a.png": "y"}')
    with pytest.raises(InvalidValueError, match="'a.png' has two texts"):
        read_policy(str(named))
    file.write_text("name,caption\na.png,x\n")
    with pytest.raises(InvalidValueError, match="needs one column 'image'"):
        read_policy(str(file))


class Texts(Streams):
    """A source that reads a template, and remembers the texts that came."""

    fingerprint, precision = "", "bfloat16 (published in float32)"

    def __init__(self, template: str) -> None:
        self.recipe = Recipe.load("dift-sd21").replace(template=template)
        self.texts: set[str] = set()

    def stream(self, images, prompts=None, *, on_error=None):
        for picture in images:
            self.texts.add(picture.text or "")
            frame = FrameSpec("squash", 32, filter="bicubic").frame(picture.image.size)
            yield FeatureMap({"map": frame.pixels(picture.image)}, frame, picture.name, picture.digest, {})


@pytest.mark.parametrize(
    ("protocol", "template", "prompts", "texts", "note"),
    [
        ("dift", "a photo of a {}", None, {f"a photo of a {c}" for c in ("bus", "cat", "chair")}, "true category"),
        ("dift", "a photo of a {}", "", {""}, "published procedure tells the model the true category"),
        ("dift", "{}", None, {""}, "published procedure tells the model the true category"),
        ("spair", "a photo of a {}", None, {""}, "the recipe's template 'a photo of a {}' was not used"),
        ("dift-point", "a photo of a {}", "thing", {"a photo of a thing"}, "published procedure tells"),
    ],
)
def test_texts_that_a_protocol_gives(
    mini: PairDataset, tmp_path: Path, protocol: str, template: str, prompts: str | None, texts: set[str], note: str
) -> None:
    source = Texts(template)
    result = evaluate(mini, source, get_protocol(protocol), prompts=prompts, store=tmp_path / "store")
    assert source.texts == texts
    assert any(note in line for line in result.notes)
    assert "features computed in bfloat16 (published in float32)" in result.notes
    text = to_markdown(result)
    for words in ("bfloat16", "per image", "per point", result.result.counts):
        assert words in text


@pytest.mark.parametrize("named", [True, False])
def test_categories_are_offered_where_there_are_some(mini: PairDataset, tmp_path: Path, named: bool) -> None:
    pairs = mini.pairs if named else tuple(replace(pair, category="") for pair in mini.pairs)
    data = replace(mini, pairs=pairs)
    (line,) = [n for n in evaluate(data, Texts("a photo of a {}"), SPAIR).notes if "was not used" in n]
    assert ("--prompts category" in line) is named


def test_report_is_whole_and_self_contained(mini: PairDataset, tmp_path: Path) -> None:
    found = evaluate(mini, RgbPatches(), SPAIR)
    page = write_report(found, tmp_path / "report").read_text()
    assert page.count("data:image/jpeg;base64,") == 9
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)|url\((?!#)|@import|<script""", page)
    for text in ("spair: distance", "Best pairs", "Worst pairs", "<svg", "chair"):
        assert text in page
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    assert data["result"]["pck"]["0.1"] == found.result[0.1]
    assert len(data["pairs"]) == 36
    assert data["result"]["protocol"]["rule"] == "<="
    markdown = to_markdown(found)
    assert "| **all** | 36 | 230 |" in markdown
    assert str(SPAIR) in markdown


def noise_picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    small = torch.rand(3, 9, 12, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(small[None], size=size[::-1], mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray(pixels.mul(255).byte().permute(1, 2, 0).numpy())


def test_the_mirrored_source_is_used_exactly_when_the_target_is_mirrored() -> None:
    picture = noise_picture(1)
    turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    source = RgbPatches()
    one, mirrored = source.stream([picture, turned])
    points = torch.tensor([[20.0, 30.0], [60.0, 50.0]])
    for target, flipped in ((one, False), (mirrored, True)):
        matches, used = find_pose_aligned(one, mirrored, Target(target), points)
        assert used is flipped
        expected = mirrored_points(points.double(), 96) if flipped else points.double()
        assert torch.equal(matches.source, points.double())
        assert (matches.target - expected).abs().max() <= 1
    matches, _ = find_pose_aligned(one, mirrored, Target(mirrored), points, swap=[1, 0])
    assert (matches.target - mirrored_points(points.double(), 96).flip(0)).abs().max() <= 1


def test_evaluation_with_flips(tmp_path: Path) -> None:
    picture = noise_picture(2)
    picture.save(tmp_path / "a.png")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    points = ((20.0, 30.0), (60.0, 50.0), (40.0, 15.0))
    goals = tuple((95 - x, y) for x, y in points)
    pair = PointPair("p", tmp_path / "a.png", tmp_path / "b.png", points, goals, "c", (5, 5, 90, 65), (5, 5, 90, 65))
    data = PairDataset("d", "", tmp_path, (pair,))
    assert evaluate(data, RgbPatches(), SPAIR).result.value < 100
    found = evaluate(data, RgbPatches(), SPAIR, flip=True, store=tmp_path / "out" / "store")
    assert found.result.value == 100
    assert "mirrored source was used for 1 pairs" in str(found)


def joined(sources: list[Source[FeatureMap]], weights: list[float] | None = None) -> JoinedSource:
    recipe = join_recipes([s.recipe for s in sources], weights)  # pyright: ignore[reportArgumentType]
    assert isinstance(recipe, Joined)
    return JoinedSource(recipe, sources)


def test_fusion_gives_the_weighted_mean_of_the_cosines() -> None:
    picture, other = noise_picture(3), noise_picture(4)
    fusion = joined([RgbPatches(), Daisy()], [1, 3])
    one, two = fusion.extract([picture, other])
    assert one.tensor.shape[0] == 192 + 136
    a, b = one.tensor[:, 4, 5], two.tensor[:, 9, 2]
    parts = [torch.dot(a[s], b[s]) for s in (slice(0, 192), slice(192, None))]
    norms = [a[:192].norm(), a[192:].norm()]
    assert norms == pytest.approx([0.5, 0.75**0.5], rel=1e-4)
    assert torch.dot(a, b) == pytest.approx(float(sum(parts)), rel=1e-5)
    rgb = [f.tensor for f in RgbPatches().stream([picture, other])]
    cosine = torch.nn.functional.cosine_similarity(rgb[0][:, 4, 5], rgb[1][:, 9, 2], dim=0)
    assert parts[0] == pytest.approx(0.25 * float(cosine), rel=1e-4)
    with pytest.raises(InvalidValueError, match="two parts"):
        Joined.from_dict({"parts": [Baseline()]})
    with pytest.raises(InvalidValueError, match="greater than 0"):
        joined([RgbPatches(), Daisy()], [1, 0])


@pytest.fixture(scope="module")
def dino():
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=70, mlp_ratio=2
    )
    return Dinov2Model(config).eval()


def test_a_vision_transformer_is_a_source_of_features(dino, mini: PairDataset, tmp_path: Path) -> None:
    dino.save_pretrained(tmp_path / "dino")
    (tmp_path / "dino" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]})
    )
    extractor = VisionExtractor.from_pretrained(Vision(model=str(tmp_path / "dino"), size=84, layer=1))
    path = mini.images()[0]
    (found,) = extractor.extract([path])
    assert found.tensor.shape == (24, 6, 6)
    pixels = FrameSpec("squash", 84).frame(Image.open(path).size).pixels(Image.open(path).convert("RGB"))
    pixels = (pixels.add(1).div(2) - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(
        3, 1, 1
    )
    with torch.no_grad():
        hidden = dino(pixels[None], output_hidden_states=True).hidden_states[1][0, 1:]
    torch.testing.assert_close(found.tensor[:, 2, 5], hidden[2 * 6 + 5])
    result = evaluate(mini.limited(4), joined([RgbPatches(), extractor]), SPAIR)
    assert result.recipe == "RGB patches + dino"
    with pytest.raises(InvalidValueError, match="multiple of the patch size 14, got 80.* 84"):
        VisionExtractor(Vision(model="x", size=80), dino)
    with pytest.raises(InvalidValueError, match="hidden states 0 to 2"):
        VisionExtractor(Vision(model="x", layer=7), dino)


def test_models_without_patches_and_missing_models_are_named(tmp_path: Path) -> None:
    from diffeat.errors import ModelError

    with pytest.raises(ModelError, match="no patch grid"):
        VisionExtractor(Vision(model="resnet"), SimpleNamespace(config=SimpleNamespace()))
    with pytest.raises(ModelError, match="is not there"):
        VisionExtractor.from_pretrained(tmp_path)
