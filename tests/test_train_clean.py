"""Training of clean features: what is learned, that it goes on where it was stopped, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffeat.activations import Catalogue, Taps
from diffeat.ambient import seeded
from diffeat.backbones import Backbone
from diffeat.cli.main import app
from diffeat.errors import DatasetError, DiffeatError, InvalidValueError, ModelError
from diffeat.extraction import Extractor, Reading
from diffeat.extraction.contained import contained
from diffeat.features import Picture
from diffeat.refinement import CleanDiftAdapters
from diffeat.training import CleanSettings, clean_recipe, train_clean
from diffeat.training.clean import _check_trainable, _Training
from diffeat.training.clean_examples import Examples
from diffeat.training.loop import Loop, read_log
from tiny.pipelines import FAMILIES, build

FEW: dict[str, Any] = {"steps": 4, "batch": 2, "levels": 2, "rate": 1e-3, "every": 2}


def picture(seed: int = 0, width: int = 48, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


PICTURE = picture()


def recipe(**changes: Any) -> Reading:
    return Reading.from_dict(
        {
            "model": "tiny",
            "frame": {"mode": "keep"},
            "trajectory": {"timesteps": [100], "draws": 8},
            "activations": ["transformer_blocks.0", "transformer_blocks.1"],
        }
    ).replace(**changes)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(build("pixart_sigma"))


@pytest.fixture(scope="module")
def run(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on pictures of two sizes."""
    folder = tmp_path_factory.mktemp("clean") / "run"
    pictures = [picture(0), picture(1), picture(2, 64)]
    train_clean(Extractor(recipe(), backbone), pictures, folder, CleanSettings(**FEW), prompts=["a cat", None, "a dog"])
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {
        **load_file(folder / "weights" / "denoiser.safetensors"),
        **load_file(folder / "weights/adapters.safetensors"),
    }


QUICK = ("sd15", "dit", "pixart_sigma", "sd3", "flux", "ddpm")  # a kind of denoiser each


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_every_family_learns_in_its_copy(family: str) -> None:
    backbone = Backbone.from_pipeline(build(family))
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    maps = [a.id for a in Catalogue.of(backbone) if a.grid and a.kind not in ("input", "map", "modulation")]
    chosen = maps[len(maps) // 4]
    one = recipe(activations=[chosen], frame={"mode": "squash", "size": 2 * backbone.multiple})
    settings = CleanSettings(steps=2, batch=1, levels=1, rate=1e-3)
    with backbone.ready():
        training = _Training(Extractor(one, backbone), clean_recipe(one), [chosen], [Picture.of(PICTURE)], settings)
        training.run(None)
    assert all(0 <= loss <= 2 for loss in training.losses)
    learned = training.student.state_dict()
    assert learned.keys() == before.keys()
    assert any(not torch.equal(value, before[name]) for name, value in learned.items())
    assert all(torch.equal(value, before[name]) for name, value in backbone.denoiser.state_dict().items())


def test_the_loss_is_one_minus_the_cosine_to_the_frozen_noisy_features(backbone: Backbone, tmp_path: Path) -> None:
    """Before the first step, by hand: the adapters are the identity then, and copy and original are equal."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    noise, inputs = backbone.noise, backbone.denoiser_inputs
    try:
        backbone.noise = lambda x, t, e: seen.append((t, noise(x, t, e))) or seen[-1][1]  # type: ignore[method-assign]
        one = recipe(activations=["transformer_blocks.0"], **{"trajectory.latent": "mean"})
        outcome = train_clean(Extractor(one, backbone), [PICTURE], tmp_path, CleanSettings(steps=1, batch=1, levels=3))
    finally:
        del backbone.noise
    ((times, noisy),) = seen
    assert [int(t) * 3 // 999 for t in times - 1] == [0, 1, 2]
    with backbone.ready(), torch.no_grad(), Taps(backbone.denoiser, ["transformer_blocks.0"]) as taps:
        pixels = torch.from_numpy(np.asarray(picture()) / 127.5 - 1).permute(2, 0, 1)[None].float()
        clean = backbone.encode_images(pixels).mean
        told = backbone.condition([""] * 3, (48, 48))
        target = taps.run(**inputs(noisy, times, told))["transformer_blocks.0"]
        feature = taps.run(**inputs(clean, 100, told.take([0])))["transformer_blocks.0"]
    dots = (target * feature).sum(1) / (target.norm(dim=1) * feature.norm(dim=1))
    assert outcome.losses[0] == pytest.approx(1 - float(dots.mean()), rel=1e-4)


def test_it_learns(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture with noise that stays, by heart: the loss falls to almost nothing (0.04 of the first, of random
    weights)."""
    extractor = Extractor(recipe(), backbone)
    settings = CleanSettings(steps=20, batch=1, levels=2, rate=3e-3)
    with backbone.ready():
        training = _Training(extractor, clean_recipe(recipe()), extractor.names, [Picture.of(PICTURE)], settings)
        with seeded(0):
            example = training._examples[0]
        monkeypatch.setattr(Examples, "__getitem__", lambda *_: example)
        training.run(None)
    assert training.losses[-1] < 0.3 * training.losses[0]


def test_the_recipe_is_used_at_once_and_elsewhere(run: Path, backbone: Backbone, tmp_path: Path) -> None:
    trained = Reading.load(run / "recipe.yaml")
    assert (trained.trajectory.kind, trained.trajectory.draws, trained.trajectory.timesteps) == ("clean", 1, (100,))
    moved = tmp_path / "moved"
    run.rename(moved)
    try:
        there = Reading.load(moved / "recipe.yaml")
        assert there.hash == trained.hash
        assert there.denoiser is not None
        assert Path(there.denoiser.source).is_file()
        portable, copies = contained(there)
        assert portable.hash == trained.hash
        assert list(copies.values()) == [Path(there.denoiser.source)]
        build("pixart_sigma").save_pretrained(tmp_path / "model")
        source = Extractor.from_recipe(there, tmp_path / "model", device="cpu")
        own = source.backbone.denoiser.state_dict()
        assert all(torch.equal(own[name], value) for name, value in weights(moved).items() if name in own)
        assert not torch.equal(own["pos_embed.proj.weight"], backbone.denoiser.state_dict()["pos_embed.proj.weight"])
        wrong = there.replace(**{"denoiser.sha256": "0" * 64})
        with pytest.raises(ModelError, match=r"not the file that the recipe was written with.*denoiser\.sha256"):
            Extractor.from_recipe(wrong, tmp_path / "model", device="cpu")
    finally:
        moved.rename(run)


def test_adapters_are_read_as_those_that_are_published(run: Path) -> None:
    adapters = CleanDiftAdapters.load(str(run / "weights" / "adapters.safetensors"))
    assert adapters.names == ["transformer_blocks.0", "transformer_blocks.1"]
    assert adapters.timestep == 100
    feature = torch.randn(2, 16, 3, 3)
    both = adapters("transformer_blocks.0", feature, torch.tensor([20.0, 900.0]))
    for row, t in enumerate((20.0, 900.0)):
        torch.testing.assert_close(both[row], adapters("transformer_blocks.0", feature[row], t))
    assert not torch.allclose(adapters("transformer_blocks.0", feature, 20.0), feature)


def test_stopped_and_gone_on_with_it_ends_in_the_same_weights(
    run: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [picture(0), picture(1), picture(2, 64)]
    told = ["a cat", None, "a dog"]
    one = Loop._one

    def dies(loop: Loop, number: int, gradients: Any) -> Any:
        if number == 3:
            raise OSError("killed")
        return one(loop, number, gradients)

    monkeypatch.setattr(Loop, "_one", dies)
    extractor = Extractor(recipe(), backbone, batch_size=2)  # a picture and its two levels a call
    with pytest.raises(OSError, match="killed"):
        train_clean(Extractor(recipe(), backbone), pictures, tmp_path, CleanSettings(**FEW), prompts=told)
    monkeypatch.undo()
    train_clean(Extractor(recipe(), backbone), pictures, tmp_path, CleanSettings(**FEW), prompts=told)
    whole, again = weights(run), weights(tmp_path)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert [row["loss"] for row in read_log(run / "log.csv")] == [row["loss"] for row in read_log(tmp_path / "log.csv")]
    small = train_clean(extractor, pictures, tmp_path / "small", CleanSettings(**{**FEW, "steps": 1}), prompts=told)
    assert small.losses[0] == pytest.approx(float(read_log(run / "log.csv")[0]["loss"]), rel=1e-5)
    with pytest.raises(InvalidValueError, match="other settings: rate"):
        train_clean(extractor, pictures, tmp_path, CleanSettings(**{**FEW, "rate": 1.0}), prompts=told, force=True)


def test_a_picture_that_cannot_be_read_costs_no_other(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    picture().save(tmp_path / "good.png")
    both = [tmp_path / "bad.png", tmp_path / "good.png"]
    told: list[str] = []
    settings = CleanSettings(steps=2, batch=2, levels=1)
    train_clean(
        Extractor(recipe(), backbone), both, tmp_path / "run", settings, on_error=lambda n, _: told.append(Path(n).name)
    )
    assert told == ["bad.png"]
    with pytest.raises(DatasetError, match="None of the 1 pictures"):
        train_clean(Extractor(recipe(), backbone), both[:1], tmp_path / "no", settings, on_error=lambda *_: None)


def test_a_refined_recipe_matches_its_raw_stream(backbone: Backbone, tmp_path: Path) -> None:
    base = recipe(activations=["ditf:1"], refine={"discard": "none"})
    outcome = train_clean(Extractor(base, backbone), [PICTURE], tmp_path, CleanSettings(steps=1, batch=1, levels=1))
    assert outcome.activations == ("transformer_blocks.1.norm1.in",)
    assert Reading.load(outcome.recipe).refine == base.refine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trajectory": {"kind": "inversion", "steps": 4}}, r"walks \(inversion\).*kind 'noise'"),
        ({"views": [{}, {"seed": 1}], "fuse": {"kind": "mean"}}, r"has views.*--set views=null"),
        ({"techniques": [{"kind": "prompt", "text": "a"}]}, r"has techniques.*--set techniques=null"),
        ({"trajectory.timesteps": [20, 100]}, r"reads at 2 timesteps.*--timestep"),
        (
            {"fuse": {"kind": "hyperfeatures", "weights": {"source": "w"}}},
            r"trained on noisy features: --set fuse=null",
        ),
    ],
)
def test_recipes_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        clean_recipe(recipe(**changes))


def test_what_else_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    def tried(images: Any = (PICTURE,), **changes: Any) -> None:
        train_clean(Extractor(recipe(**changes), backbone), images, tmp_path / "run", CleanSettings(steps=1))

    cases: list[tuple[dict[str, Any], type[DiffeatError], str]] = [
        ({"images": []}, DatasetError, "no picture to learn from"),
        ({"activations": ["vae-out"]}, InvalidValueError, "vae-out has no channels that could be matched"),
        (
            {"activations": [{"id": "transformer_blocks.0.attn1.map"}]},
            InvalidValueError,
            "no ch",
        ),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            tried(**arguments)
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_trained_are_refused() -> None:
    def backbone_of(weight: torch.Tensor, dtype: torch.dtype = torch.float32, **attributes: Any) -> Any:
        network = torch.nn.Linear(1, 1)
        network.weight = torch.nn.Parameter(weight, requires_grad=False)
        vars(network).update(attributes)
        return type("Stand-in", (), {"denoiser": network, "dtype": dtype, "name": "m"})()

    whole = torch.zeros(1, 1)
    _check_trainable(backbone_of(whole))
    for refused, message in [
        (backbone_of(whole.to(torch.uint8)), "m are quantised"),
        (backbone_of(whole.to(torch.float8_e4m3fn)), "m are quantised"),
        (backbone_of(whole, torch.float16), "not in float16: --dtype bfloat16"),
        (backbone_of(whole, _hf_hook=object()), "m are offloaded"),
    ]:
        with pytest.raises(InvalidValueError, match=message):
            _check_trainable(refused)


def test_command_line(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    run = tmp_path / "run"
    small = ["--size", "64", "-a", "down_blocks.0", "--steps", "1", "--batch", "1", "--levels", "1", "--prompt", "cat"]

    def called(*arguments: str) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    made = called("train", "clean", str(tmp_path / "a.png"), "--out", str(run), *small)
    assert made.exit_code == 0, made.output
    trained = Reading.load(run / "recipe.yaml")
    assert (trained.prompt, trained.activations) == ("a photo of a cat", ("down_blocks.0",))
    used = called("extract", str(tmp_path / "a.png"), "-r", str(run / "recipe.yaml"), "--out", str(tmp_path / "store"))
    assert used.exit_code == 0, used.output
    for arguments, message in [
        ([str(tmp_path / "a.png"), "--out", str(run)], "is there already"),
        ([str(tmp_path / "none.png"), "--out", str(tmp_path / "new")], "none.png"),
        ([str(tmp_path / "none.png"), "--out", str(tmp_path / "new"), "-r", "tiny-unet", "-t", "1", "-t", "2"], "one"),
        ([str(tmp_path / "a.png"), "-r", "vision:dinov2", "--out", str(tmp_path / "new")], "is a vision recipe"),
        ([str(tmp_path / "a.png"), "-r", "gate-tiny", "--out", str(tmp_path / "new")], "has views"),
    ]:
        refused = called("train", "clean", *arguments)
        assert refused.exit_code == 1
        assert isinstance(refused.exception, DiffeatError)
        assert message in str(refused.exception)
