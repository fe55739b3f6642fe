"""The contract of everything that gives features, and what a run of it costs."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone, LatentPosterior
from diffeat.errors import DiffeatError, ImageError, InvalidValueError, NonFiniteError, StoreError
from diffeat.extraction import (
    Baseline,
    Daisy,
    Extractor,
    JoinedSource,
    Reading,
    Recipe,
    RgbPatches,
    Views,
    Vision,
    VisionExtractor,
    extract_to_store,
    generate,
    join_recipes,
    save_generated,
)  # fmt: skip
from diffeat.extraction.baselines import BASELINES
from diffeat.extraction.join import JOINS
from diffeat.extraction.joined import _JOINS
from diffeat.extraction.joins.convolution import new_convolution, save_convolution
from diffeat.extraction.kinds import Joined
from diffeat.extraction.reading import Fuse
from diffeat.features import FeatureMap, Picture, Source
from diffeat.geometry import file_digest
from diffeat.storage import FeatureStore
from diffeat.techniques import ControlNet, LoRA, Prompt
from diffeat.trajectories import keyed_normal
from support.techniques import backbone, files, picture, recipe  # noqa: F401 (fixtures)
from tiny.pipelines import build

WHITE = Image.new("RGB", (64, 64), "white")  # what `poisoned` makes NaN of
ON_ERROR = Callable[[str, DiffeatError], None]


@cache
def model(name: str, seed: int = 0) -> Backbone:
    return Backbone.from_pipeline(build(name, seed), name=name)


def reading(activations: Sequence[Any], **fields: Any) -> Reading:
    base = {"model": "x", "frame": {"mode": "squash", "size": 64}, "trajectory": {"timesteps": [200], "draws": 2}}
    return Reading.from_dict({**base, "prompt": "a cat", "activations": list(activations), **fields})


@cache
def dino() -> Any:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=56, mlp_ratio=2
    )).eval()  # fmt: skip


def joined(parts: Sequence[Source[FeatureMap]], **fields: Any) -> JoinedSource:
    recipe = Joined.from_dict({"name": "both", "parts": [p.recipe for p in parts], **fields})
    return JoinedSource(recipe, parts)


UP = ["up_blocks.1", "up_blocks.2.attentions.0.transformer_blocks.0.attn2.q"]
WALK = {"kind": "inversion", "steps": 4, "save": [3, 1]}


@dataclass(frozen=True)
class Case:
    """A kind of source: how it is made for a number of rows per call, and what it can meet."""

    make: Callable[[Any, int | None], Source[Any]]
    reads_text: bool = True
    can_fail: bool = True  # whether NaN can arise in it
    generated: bool = False


def _lora(files: Any, scale: float = 0.7) -> LoRA:
    return LoRA(path=str(files / "lora.safetensors"), scale=scale)


def _extractor(name: str, *arguments: Any, **fields: Any) -> Callable[[Any, int | None], Extractor]:
    return lambda files, rows: Extractor(reading(*arguments, **fields), model(name), batch_size=rows)


def _techniques(files: Any, rows: int | None) -> Extractor:
    control = ControlNet(model=str(files / "control"), condition="soft-edges")
    return Extractor(recipe(control, _lora(files)), model("sd15"), batch_size=rows)


def _views(files: Any, rows: int | None) -> Extractor:
    views = [{}, {"techniques": [_lora(files)]}, {"prompt": "a dog", "timesteps": [100]}]
    return Extractor(recipe(views=views, fuse={"kind": "concat"}), model("sd15"), batch_size=rows)


def _concat(files: Any, rows: int | None) -> JoinedSource:
    return joined(
        [Extractor(recipe(*t, fuse={"kind": "concat"}), model("sd15"), batch_size=rows) for t in ((), (_lora(files),))]
    )


def _views_apart(files: Any, rows: int | None) -> Extractor:
    views = [{}, {"name": "lora", "techniques": [_lora(files)]}]
    return Extractor(recipe(views=views, fuse={"kind": "apart"}), model("sd15"), batch_size=rows)


def _apart(files: Any, rows: int | None) -> JoinedSource:
    return joined([_views_apart(files, rows), _vision(files, rows)], join="apart")


def _weighted(files: Any, rows: int | None) -> JoinedSource:
    unet = Extractor(recipe(fuse={"kind": "mean"}, activations=["up_blocks.1"]), model("sd15"), batch_size=rows)
    return joined([_vision(files, rows), unet], join="weighted", weights=(1, 3))


def _convolution(files: Any, rows: int | None) -> JoinedSource:
    known, file = Catalogue.of(model("sd15")), files / "convolution.safetensors"
    save_convolution(new_convolution(sum(known[name].channels for name in UP), 1), file)
    weights = {"source": str(file.resolve()), "sha256": file_digest(file)}
    part = Extractor(reading(UP, fuse={"kind": "concat"}), model("sd15"), batch_size=rows)
    return joined([part], join="convolution", network=weights)


def _vision(files: Any, rows: int | None) -> VisionExtractor:
    return VisionExtractor(Vision(model="tiny-dino"), dino())


CASES = {
    "unet": Case(_extractor("sd15", UP)),
    "transformer": Case(_extractor("flux", ["transformer_blocks.0"])),
    "fused": Case(_extractor("sd15", ["up_blocks.0", "up_blocks.1"], fuse={"kind": "concat"})),
    "techniques": Case(_techniques),
    "views": Case(_views),
    "inversion": Case(_extractor("sd15", UP, trajectory=WALK)),
    "generation": Case(
        _extractor("sd15", UP, trajectory={**WALK, "kind": "generation"}), can_fail=False, generated=True
    ),
    "refined": Case(_extractor("flux", ["ditf:1"], refine={"discard": "pre", "ratio": 5})),
    "views apart": Case(_views_apart),
    "joined": Case(_concat),
    "apart": Case(_apart),
    "weighted": Case(_weighted),
    "convolution": Case(_convolution),
    "vision": Case(_vision, reads_text=False),
    "rgb": Case(lambda files, rows: RgbPatches(), reads_text=False, can_fail=False),
    "daisy": Case(lambda files, rows: Daisy(), reads_text=False, can_fail=False),
    "several": Case(
        lambda files, rows: Views([recipe(), recipe(_lora(files)), recipe(seed=3)], model("sd15"), batch_size=rows)
    ),
}  # fmt: skip


def but(*slow: str, values: Sequence[Any] = ()) -> list[Any]:
    """All cases; those that go a way that another one goes too are slow."""
    return [pytest.param(name, *values, marks=pytest.mark.slow if name in slow else ()) for name in CASES]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of pictures that the tiny model generated."""
    folder = tmp_path_factory.mktemp("generated")
    source = reading(UP, trajectory={**WALK, "kind": "generation"})
    paths = []
    for i, (image, _) in enumerate(generate(source, model("sd15"), ["a cat", "a dog", "a bus"])):
        paths.append(folder / f"{i}.png")
        save_generated(image, paths[-1])
    return paths


@pytest.fixture
def pictures(case: Case, generated: list[Path], tmp_path: Path) -> list[Path]:
    if case.generated:
        return generated
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    return paths


def tensors(result: FeatureMap | list[FeatureMap]) -> dict[str, Tensor]:
    """All maps of one picture."""
    each = result if isinstance(result, list) else [result]
    return {f"{i} {name}": tensor for i, one in enumerate(each) for name, tensor in one.activations.items()}


def assert_same(one: Any, other: Any, relative: float = 1e-5) -> None:
    assert tensors(one).keys() == tensors(other).keys()
    for name, expected in tensors(one).items():
        difference = (tensors(other)[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
        assert difference <= relative, (name, float(difference))


# ---- one picture, however it comes


@pytest.mark.parametrize("case", but("fused", "apart", "several", "views apart", "weighted"), indirect=True)
def test_a_picture_gives_the_same_whatever_is_read_beside_it(case: Case, pictures: list[Path], files: Any) -> None:
    source = case.make(files, 3)
    together = source.extract(pictures)
    again = source.extract(pictures)
    for one, other in zip(together, again, strict=True):
        assert_same(one, other, 0)
    order = [2, 0, 1]
    mixed = case.make(files, None).extract([pictures[i] for i in order])
    for i, path in enumerate(pictures):
        (alone,) = case.make(files, 1).extract(path)
        assert_same(alone, together[i])
        assert_same(alone, mixed[order.index(i)])
    first, second = (next(iter(tensors(t).values())) for t in together[:2])
    assert not torch.allclose(first, second)


def test_provenance_frame_and_finite_maps(case: Case, pictures: list[Path], files: Any) -> None:
    source = case.make(files, None)
    for path, result in zip(pictures, source.extract(pictures, "a bus"), strict=True):
        for one in result if isinstance(result, list) else [result]:
            assert one.image == path.as_posix()
            assert one.frame.original == Image.open(path).size
            recipes = [r.recipe for r in source.plan.readers] if isinstance(source, Views) else [source.recipe]
            assert one.provenance["recipe_hash"] in {r.hash for r in recipes}
            assert one.provenance["recipe"] in {r.name for r in recipes}
            if not case.generated:
                assert one.provenance["prompt"] == ("a bus" if case.reads_text else "")
            for tensor in one.activations.values():
                assert tensor.ndim == 3
                assert torch.isfinite(tensor).all()


def test_the_prompt_of_provenance_is_what_the_model_read(files: Any) -> None:
    one = Extractor(recipe(Prompt(text="a dog")), model("sd15")).extract(picture(0))[0]
    assert one.provenance["prompt"] == "a dog"
    image = picture(0)
    name = Picture.of(image).name
    one = Extractor(recipe(Prompt(captions={name: "two birds"})), model("sd15")).extract(image, "a cat")[0]
    assert one.provenance["prompt"] == "two birds"
    both = Views([recipe(), recipe(Prompt(text="a dog"))], model("sd15")).extract(image)[0]
    assert [b.provenance["prompt"] for b in both] == ["a cat", "a dog"]


def test_parts_read_the_text_of_the_first_that_reads_any(files: Any) -> None:
    unet = recipe(fuse={"kind": "concat"}, template="a photo of {}")
    source = joined([_vision(files, None), Extractor(unet, model("sd15"))])
    told = source.extract(picture(0), "a bus")[0]
    assert told.provenance["prompt"] == "a photo of a bus"
    assert [p["prompt"] for p in told.provenance["parts"]] == ["", "a photo of a bus"]
    untold = source.extract(picture(0))[0]
    assert untold.provenance["prompt"] == "a cat"
    assert not torch.equal(told.tensor, untold.tensor)
    own = joined(source.sources, prompt="a tree")
    assert own.extract(picture(0))[0].provenance["prompt"] == "a tree"


# ---- what pictures may be


@pytest.mark.parametrize("case", ["unet", "transformer", "vision", "rgb", "daisy"], indirect=True)
def test_forms_of_pictures(case: Case, pictures: list[Path], files: Any) -> None:
    source = case.make(files, None)
    path, image = pictures[0], Image.open(pictures[0])
    (expected,) = source.extract(path)
    data = path.read_bytes()
    forms: list[Any] = [str(path), [path], data, io.BytesIO(data), Picture("x", lambda: Image.open(path))]
    if not case.generated:  # their note is in the file
        pixels = np.asarray(image)
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
        forms += [image, pixels, pixels / np.float32(255), tensor, tensor.double(), tensor[None], (i for i in [image])]
    results = [r for form in forms if not _listable(form) for r in source.extract(form)]
    for result in [*results, *source.extract([form for form in forms if _listable(form)])]:
        assert_same(expected, result)


def _listable(form: Any) -> bool:
    return not isinstance(form, (list, Iterator))


def test_globs_are_sorted_and_batches_are_several(files: Any, tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    names = ["b/c/1.png", "a.png", "b/0.png"]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / name)
    source = RgbPatches()
    found = source.extract(f"{tmp_path}/**/*.png")
    assert [f.image for f in found] == [f"{tmp_path}/{n}" for n in sorted(names)]
    assert [f.image for f in source.extract([f"{tmp_path}/*.png", tmp_path / "b/0.png"])] == [
        f"{tmp_path}/a.png", f"{tmp_path}/b/0.png"
    ]  # fmt: skip
    (tmp_path / "odd[1].png").write_bytes((tmp_path / "a.png").read_bytes())
    assert source.extract(f"{tmp_path}/odd[1].png")[0].image.endswith("odd[1].png")
    batch = torch.rand(2, 3, 32, 32)
    assert len(source.extract(batch)) == 2
    assert len(source.extract([batch, batch[0]], ["a", "b", "c"])) == 3
    with pytest.raises(ImageError, match=r"pattern '.*none\*'"):
        source.extract(f"{tmp_path}/none*")


@pytest.mark.parametrize(
    "wrong",
    [
        torch.rand(3, 8, 8) * 2, torch.rand(3, 8, 8) - 1, torch.zeros(3, 8, 8, dtype=torch.uint8), torch.rand(8, 8),
        torch.rand(8, 8, 3), torch.full((3, 8, 8), torch.nan), torch.rand(1, 1, 3, 8, 8), torch.rand(2, 4, 8, 8),
        np.zeros((3, 8, 8), np.uint8), np.ones((8, 8, 3)) * 255, np.full((8, 8, 3), np.nan), np.zeros((8, 8, 5)), 5,
        None, b"", b"no picture",
    ],
    ids=lambda w: f"{type(w).__name__}{getattr(w, 'shape', '')}",
)  # fmt: skip
def test_what_is_no_picture_is_one_line(wrong: Any) -> None:
    with pytest.raises(ImageError) as caught:
        RgbPatches().extract([wrong])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_reader_of_ones_own_may_give_any_mode_and_fail_in_any_way() -> None:
    turned = Image.new("RGB", (8, 4), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    (result,) = RgbPatches().extract(Picture("x", lambda: turned))
    assert result.frame.original == (4, 8)
    assert RgbPatches().extract(Picture("x", lambda: Image.new("LA", (8, 4))))[0].frame.original == (8, 4)
    with pytest.raises(ImageError, match=r"^member 7: cannot be opened \(KeyError: 'gone'\)\.$"):
        RgbPatches().extract(Picture("member 7", lambda: {}["gone"]))


# ---- texts


def test_as_many_prompts_as_pictures(case: Case, files: Any) -> None:
    opened = []
    images = [Picture(f"p{i}", lambda i=i: opened.append(i) or picture(i)) for i in range(2)]
    source = case.make(files, None)
    for texts in ([], ["a"], ["a", "b", "c"]):
        with pytest.raises(InvalidValueError, match=rf"2 images and {len(texts)} prompts"):
            source.extract(images, texts)
        assert opened == []


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b", "c"]], ids=len)
def test_prompts_of_a_generator_of_pictures(texts: list[str]) -> None:
    with pytest.raises(InvalidValueError, match=rf"images and {len(texts)} prompts"):
        RgbPatches().extract((picture(i) for i in range(2)), texts)


def test_prompts_are_counted_for_every_form(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    for images in ([picture(0), picture(1)], [np.zeros((8, 8), np.uint8)] * 2, torch.rand(2, 3, 8, 8), f"{tmp_path}/*"):
        with pytest.raises(InvalidValueError, match="and 3 prompts"):
            RgbPatches().extract(images, ("a", "b", "c"))


# ---- errors of single pictures


def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """White pictures give NaN, in diffusion models and in vision transformers."""
    encode = Backbone.encode_images

    def encoded(self: Backbone, pixels: Tensor) -> LatentPosterior:
        posterior = encode(self, pixels)
        mean = posterior.mean.clone()
        mean[(pixels > 0.99).flatten(1).all(1)] = torch.nan
        return LatentPosterior(mean, posterior.std)

    def seen(module: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
        (values,) = arguments
        flat = values.flatten(2).amax(2) - values.flatten(2).amin(2)
        return (values.masked_fill((flat == 0).all(1)[:, None, None, None], torch.nan),)

    monkeypatch.setattr(Backbone, "encode_images", encoded)
    handle = dino().register_forward_pre_hook(seen)
    monkeypatch.setattr(dino(), "_handle_of_the_test", handle, raising=False)


@pytest.fixture(autouse=True)
def _no_hooks_left() -> Iterator[None]:
    yield
    dino()._forward_pre_hooks.clear()


@pytest.mark.parametrize(
    ("case", "first"),
    but("fused", "techniques", "views apart", "apart", "weighted", values=["NaN"])
    + [(case, "unreadable") for case in ("unet", "joined", "vision", "rgb")],
    indirect=["case"],
)
def test_pictures_that_fail_cost_no_other(
    case: Case, first: str, pictures: list[Path], files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every kind, as the first of a call and as any other."""
    (tmp_path / "corrupt").write_bytes(b"nothing")
    expected = case.make(files, 16).extract(pictures)
    poisoned(monkeypatch)
    one, two, three = pictures
    nan = [WHITE] if case.can_fail else []
    broken = [np.zeros((3, 8, 8)), tmp_path / "corrupt", Picture("reader", lambda: {}["gone"])]
    head = nan if first == "NaN" else broken
    images: list[Any] = [*head, one, tmp_path / "absent", *nan, two, f"{tmp_path}/absent*", *broken, three, *nan]
    source = case.make(files, 16)
    failed: list[tuple[str, DiffeatError]] = []
    good = list(source.stream(images, on_error=lambda *a: failed.append(a)))
    assert len(good) == 3
    for result, reference in zip(good, expected, strict=True):
        assert_same(reference, result)
    errors = [type(e) for _, e in failed]
    assert len(errors) == len(images) - 3
    assert all(name for name, _ in failed)
    assert errors.count(NonFiniteError) == sum(i is WHITE for i in images)
    assert set(errors) <= {NonFiniteError, ImageError}
    for bad, error in [(broken[0], ImageError), *((n, NonFiniteError) for n in nan)]:
        with pytest.raises(error):
            source.extract([bad, one])


@pytest.mark.parametrize("position", [0, 2])
def test_a_frame_that_is_refused_costs_no_other(position: int) -> None:
    source = Extractor(
        reading(["transformer_blocks.0"], frame={"mode": "keep", "longer": 64}, prompt=""), model("dit"), batch_size=4
    )
    pictures: list[Any] = [picture(i) for i in range(3)]
    images = [*pictures[:position], Image.new("RGB", (64, 32)), *pictures[position:]]
    failed: list[DiffeatError] = []
    assert len(list(source.stream(images, on_error=lambda _, error: failed.append(error)))) == 3
    assert [type(e) for e in failed] == [InvalidValueError]
    with pytest.raises(InvalidValueError):
        source.extract(images)


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("kind", ["one", "views", "joined"])
def test_a_missing_caption_costs_no_other(kind: str, position: int) -> None:
    images = [Picture(f"p{i}", lambda i=i: picture(i)) for i in range(4)]
    captions = Prompt(captions={f"p{i}": f"a {w}" for i, w in enumerate("cat dog bus car".split()) if i != position})
    one = recipe(captions, fuse={"kind": "concat"})
    source: Source[Any] = Extractor(one, model("sd15"), batch_size=8)
    if kind == "views":
        source = Views([recipe(), one], model("sd15"), batch_size=8)
    elif kind == "joined":
        source = joined([RgbPatches(), source])
    failed: list[tuple[str, DiffeatError]] = []
    good = list(source.stream(images, on_error=lambda *a: failed.append(a)))
    assert len(good) == 3
    assert [(name, type(e)) for name, e in failed] == [(f"p{position}", InvalidValueError)]
    with pytest.raises(InvalidValueError, match=f"no caption for 'p{position}'"):
        source.extract(images)


def test_nan_weights_with_views_name_the_picture(files: Any) -> None:
    broken = Backbone.from_pipeline(build("sd15"))
    with torch.no_grad():
        broken.denoiser.get_submodule("up_blocks.1.resnets.0.conv2").weight.fill_(torch.nan)
    views = [{}, {"techniques": [_lora(files)]}]
    source = Extractor(recipe(views=views, fuse={"kind": "concat"}, activations=["up_blocks.1"]), broken)
    failed: list[tuple[str, DiffeatError]] = []
    assert list(source.stream(Picture("here", lambda: picture(0)), on_error=lambda *a: failed.append(a))) == []
    assert [(name, type(error)) for name, error in failed] == [("here", NonFiniteError)]
    with pytest.raises(NonFiniteError, match="up_blocks.1 of here"):
        source.extract(Picture("here", lambda: picture(0)))


# ---- identity


def test_fingerprints(case: Case, files: Any) -> None:
    one, same = case.make(files, None), case.make(files, 1)
    assert one.fingerprint == same.fingerprint
    assert one.recipe.hash == same.recipe.hash


def test_fingerprints_tell_weights_files_and_noise(files: Any, tmp_path: Path) -> None:
    plain = Extractor(recipe(), model("sd15"))
    lora = tmp_path / "l.safetensors"
    lora.write_bytes((files / "lora.safetensors").read_bytes())
    steered = recipe(LoRA(path=str(lora)))
    with_lora = Extractor(steered, model("sd15")).fingerprint
    lora.write_bytes(lora.read_bytes()[:-1] + b"\x01")
    noise = torch.randn(4, 8, 8)
    several = {
        plain.fingerprint,
        Extractor(recipe(), model("sd15", 1)).fingerprint,
        with_lora,
        Extractor(steered, model("sd15")).fingerprint,
        Extractor(recipe(), model("sd15"), noise=noise).fingerprint,
        Extractor(recipe(), model("sd15"), noise=noise + 1).fingerprint,
        Extractor(recipe(), model("sd15"), noise=noise.bfloat16()).fingerprint,
        Extractor(recipe(), model("sd15"), noise=keyed_normal).fingerprint,
        joined([plain_part(0), plain_part(1)]).fingerprint,
        joined([plain_part(1), plain_part(0)]).fingerprint,
    }
    assert len(several) == 10
    assert plain.fingerprint == Extractor(recipe(), model("sd15")).fingerprint


def plain_part(seed: int) -> Extractor:
    return Extractor(recipe(), model("sd15", seed))


def test_recipes_survive_a_file(case: Case, files: Any, tmp_path: Path) -> None:
    recipe = case.make(files, None).recipe
    assert isinstance(recipe, Recipe)
    recipe.save(tmp_path / "r.yaml")
    again = Recipe.load(tmp_path / "r.yaml")
    assert again == recipe
    assert again.hash == recipe.hash


def test_a_part_is_found_beside_the_file(tmp_path: Path) -> None:
    Baseline(stride=7).save(tmp_path / "colours.yaml")
    (tmp_path / "both.yaml").write_text("parts: [colours.yaml, 'baseline:daisy']")
    loaded = Recipe.load(tmp_path / "both.yaml")
    assert isinstance(loaded, Joined)
    assert [p.name for p in loaded.parts] == ["RGB patches", "DAISY"]
    assert loaded.name == "both"


def test_every_kind_has_its_case(files: Any) -> None:
    recipes = [c.make(files, None).recipe for c in CASES.values()]
    assert {r.kind for r in recipes} == set(Recipe.KINDS)
    assert {r.name for r in recipes if isinstance(r, Baseline)} == set(BASELINES)
    assert {r.join for r in recipes if isinstance(r, Joined)} == set(_JOINS)
    assert set(get_args(Fuse.model_fields["kind"].annotation)) == {*JOINS, "apart"}  # which joins nothing
    assert set(get_args(Joined.model_fields["join"].annotation)) == set(_JOINS)
    assert set(get_args(Baseline.model_fields["name"].annotation)) == set(BASELINES)


def test_maps_apart_are_those_of_each_view_and_part(files: Any) -> None:
    source = _apart(files, None)
    (whole,) = source.extract(picture(0))
    views, vision = source.sources
    (of_views,), (of_vision,) = views.extract(picture(0), source.recipe.prompt), vision.extract(picture(0))
    plain, lora = (Extractor(r, model("sd15")) for r in views.recipe.view_recipes())
    (one,), (other,) = plain.extract(picture(0)), lora.extract(picture(0))
    label = source.recipe.part_labels[0]
    expected = {f"{label}/1/{n}": m for n, m in one.activations.items()}
    expected |= {f"{label}/lora/{n}": m for n, m in other.activations.items()}
    expected |= {f"{source.recipe.part_labels[1]}/{n}": m for n, m in of_vision.activations.items()}
    assert list(whole.activations) == list(expected)
    assert len(source.map_names) == len(expected)
    assert tuple(of_views.activations) == views.map_names
    for name, values in expected.items():
        assert torch.allclose(whole[name], values, rtol=1e-4, atol=1e-5)


def test_options_for_tasks_that_all_parts_have_are_those_of_the_whole() -> None:
    one, other, plain = (Recipe.load(name) for name in ("gdf-sd15-spair", "gdf-sdxl-spair", "gdf-sd15"))
    assert join_recipes([one, other]).tasks == {"correspondence": {"protocol": "gdf"}}
    assert join_recipes([one, plain]).tasks == {}


def test_weighted_cosines_are_the_weighted_mean() -> None:
    sources = [RgbPatches(), Daisy(Baseline(name="DAISY", stride=3))]
    recipe = join_recipes([s.recipe for s in sources], [1, 3])
    assert isinstance(recipe, Joined)
    one, two = JoinedSource(recipe, sources).extract([picture(0), picture(1)])
    rgb = [f.tensor for f in RgbPatches().extract([picture(0), picture(1)])]
    a, b = one.tensor[:, 3, 4], two.tensor[:, 8, 2]
    cosine = torch.nn.functional.cosine_similarity(rgb[0][:, 3, 4], rgb[1][:, 8, 2], dim=0)
    assert torch.dot(a[:192], b[:192]) == pytest.approx(0.25 * float(cosine), rel=1e-4)
    assert a[192:].norm() == pytest.approx(0.75**0.5, rel=1e-4)


# ---- what a run costs


@dataclass
class Counted:
    """How often files of LoRAs were read, and rows of each call of the networks."""

    loras: int
    denoiser: list[int]
    vae: list[int]
    texts: list[int]


@pytest.fixture
def counted(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted(0, [], [], [])
    from diffeat.techniques import lora

    read = lora._read

    def reads(*arguments: Any) -> Any:
        counted.loras += 1
        return read(*arguments)

    monkeypatch.setattr(lora, "_read", reads)
    pipeline, encode = backbone.pipeline, backbone.pipeline.vae.encode

    def encodes(pixels: Tensor) -> Any:
        counted.vae.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(pipeline.vae, "encode", encodes)
    for network, calls in ((pipeline.unet, counted.denoiser), (pipeline.text_encoder, counted.texts)):
        forward = network.forward

        @wraps(forward)
        def runs(*arguments: Any, forward: Any = forward, calls: list[int] = calls, **options: Any) -> Any:
            calls.append(len(arguments[0] if arguments else next(iter(options.values()))))
            return forward(*arguments, **options)

        monkeypatch.setattr(network, "forward", runs)
    return counted


def test_a_plain_stream(backbone: Backbone, counted: Counted, files: Any) -> None:
    Extractor(recipe(_lora(files)), backbone, batch_size=24).extract([picture(i) for i in range(12)], "a horse")
    assert counted.loras == 1
    assert counted.denoiser == [24]
    assert sum(counted.vae) == 12
    assert sum(counted.texts) == 1


def test_two_parts_over_twelve_pictures(backbone: Backbone, counted: Counted, files: Any) -> None:
    parts = [
        Extractor(recipe(*t, fuse={"kind": "concat"}), backbone, batch_size=24)
        for t in ((_lora(files),), (_lora(files, 0.2),))
    ]
    joined(parts).extract([picture(i) for i in range(12)], "a cow")
    assert counted.loras == 2
    assert counted.denoiser == [24, 24]
    assert sum(counted.vae) == 12  # both parts read the latents of one encoding
    assert sum(counted.texts) == 2  # the LoRA changes the text encoder: a text for each strength


def test_views_over_twelve_pictures(backbone: Backbone, counted: Counted, files: Any) -> None:
    views = [{}, {"techniques": [_lora(files)]}, {"prompt": "a sheep"}]
    source = Extractor(recipe(views=views, fuse={"kind": "concat"}), backbone, batch_size=48)
    source.extract([picture(i) for i in range(12)])
    assert counted.loras == 1
    assert sorted(counted.denoiser) == [24, 48]
    assert sum(counted.vae) == 12


def test_shards_of_a_store(backbone: Backbone, counted: Counted, files: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    source = Extractor(recipe(_lora(files)), backbone, batch_size=24)
    with FeatureStore.of(tmp_path / "store", source) as store:
        summary = extract_to_store(source, paths, store, shard_size=3)
    assert len(summary.extracted) == 12
    assert counted.loras == 1
    assert counted.denoiser == [6] * 4


def test_a_store_takes_features_of_its_own_recipe_alone(backbone: Backbone, tmp_path: Path) -> None:
    """Whichever way they come, made or not yet made; the model is the same, so its fingerprint does not tell."""
    photo = tmp_path / "0.png"
    picture(0).save(photo)
    one, other = (Extractor(recipe(seed=seed), backbone) for seed in (0, 1))
    assert one.fingerprint == other.fingerprint
    with FeatureStore.of(tmp_path / "store", one) as store:
        for _ in range(2):
            with pytest.raises(StoreError, match="made by another recipe: seed is .* there, 1 here"):
                extract_to_store(other, [photo], store)
            with pytest.raises(StoreError, match="was extracted by another recipe"):
                store.write_shard(other.extract(photo))
            extract_to_store(one, [photo], store)
    stored = FeatureStore.open(tmp_path / "store").load(str(photo))
    assert torch.equal(stored["up_blocks.1"], one.extract(photo)[0]["up_blocks.1"])


def test_massive_channels_are_found_before_anything_runs_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffeat.extraction import detect

    found, detected = [], detect.detect
    monkeypatch.setattr(detect, "detect", lambda *a, **k: found.append("detected") or detected(*a, **k))
    monkeypatch.setattr(detect, "_REMEMBERED", {})
    one = reading(["ditf:1"], refine={"discard": "pre", "ratio": 5})
    images = [Picture(f"{i}", lambda i=i: found.append("opened") or picture(i)) for i in range(2)]
    Extractor(one, model("flux")).extract(images)
    assert found == ["detected", "opened", "opened"]
    Extractor(one, model("flux")).extract(images)
    assert found.count("detected") == 1
    Extractor(one.replace(**{"trajectory.timesteps": [300]}), model("flux")).extract(images)
    Extractor(one, model("flux", 1)).extract(images)
    assert found.count("detected") == 3


@pytest.mark.parametrize(
    ("case", "lazy"),
    [("unet", False), ("unet", True), ("inversion", False), ("joined", True), ("rgb", False)],
    indirect=["case"],
)
def test_only_the_pictures_of_two_calls_are_held(
    case: Case,
    lazy: bool,
    pictures: list[Path],
    files: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diffeat.features.ahead.THREADS", 1)
    source = case.make(files, 4)
    group, seen, most = source.group, {}, 0

    def watched(picture: Picture) -> Any:
        nonlocal most
        seen[picture.name] = weakref.ref(picture.image)
        if sum(ref() is not None for ref in list(seen.values())) > most:
            gc.collect()
        most = max(most, sum(ref() is not None for ref in list(seen.values())))
        return group(picture)

    source.group = watched  # pyright: ignore[reportAttributeAccessIssue]
    request.addfinalizer(gc.unfreeze)
    gc.freeze()  # what other tests left is not gone through again and again
    images = [Picture(f"{i}", lambda i=i: Image.open(pictures[i % 3])) for i in range(12)]
    size = group(Picture.of(pictures[0])).most
    features = source.stream((i for i in images) if lazy else images)
    assert sum(1 for _ in features) == 12
    if size < 4:
        assert most <= 2 * size + 3
    assert sum(ref() is not None for ref in seen.values()) == 0


# ---- noise of one's own


def _latents(noise: Any, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Tensor:
    """What the denoiser was given."""
    seen: list[Tensor] = []
    one = model("sd15")

    def see(_: object, __: object, named: dict[str, Tensor]) -> None:
        if "sample" in named:  # a pipeline whose text is recorded gives it by place
            seen.append(named["sample"])

    handle = one.denoiser.register_forward_pre_hook(see, with_kwargs=True)
    path = {"timesteps": [50, 200], "draws": 2, "latent": "mean"}
    try:
        Extractor(reading(UP, trajectory=path, **fields), one, noise=noise).extract(picture(0))
    finally:
        handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("form", ["one", "rows", "function"])
def test_noise_gives_the_latents_of_the_formula(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    if form == "one":
        rows = rows[:1].expand(4, 4, 8, 8)

    def given(shape: Any, *, timestep: float = 0.0, draw: int = 0, **_: Any) -> Tensor:
        return rows[[50, 200].index(int(timestep)) * 2 + draw]

    noise = {"one": rows[0], "rows": rows, "function": given}[form]
    latents = _latents(noise, monkeypatch)
    one = model("sd15")
    pixels = torch.from_numpy(np.asarray(picture(0)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mean = one.pipeline.vae.encode(pixels).latent_dist.mean * one.pipeline.vae.config.scaling_factor
    alphas = one.pipeline.scheduler.alphas_cumprod
    for i, t in enumerate((50, 50, 200, 200)):
        expected = alphas[t].sqrt() * mean[0] + (1 - alphas[t]).sqrt() * rows[i]
        torch.testing.assert_close(latents[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("noise", "trajectory"),
    [
        (torch.zeros(8, 8), {}), (torch.zeros(3, 4, 8, 8), {}), (torch.zeros(4, 8, 9), {}), (torch.zeros(3, 8, 8), {}),
        (lambda shape, **_: torch.zeros(1, *shape), {}), (torch.zeros(4, 8, 8), WALK),
        (torch.zeros(4, 8, 8), {"kind": "clean", "timesteps": [10]}),
    ],
    ids=["two axes", "three rows", "wider", "three channels", "a function with a batch axis", "a walk", "clean"],
)  # fmt: skip
def test_noise_that_does_not_fit_is_one_line(noise: Any, trajectory: dict[str, Any]) -> None:
    path = trajectory or {"timesteps": [50, 200], "draws": 2}
    with pytest.raises(InvalidValueError) as caught:
        Extractor(reading(UP, trajectory=path), model("sd15"), noise=noise).extract(picture(0))
    assert "\n" not in str(caught.value)
