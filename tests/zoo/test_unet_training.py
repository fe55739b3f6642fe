"""Training of the embedded U-Net: pictures, tokenizer, stages, and runs that can be continued exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffeat.datasets.toyworld.captions import vocabulary
from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.training.checkpoint import within
from diffeat.training.loop import LOG, STATE
from tools.zoo import cache
from tools.zoo.build import Widths
from tools.zoo.pictures import loss_curves
from tools.zoo.runs import run_command, threads
from tools.zoo.tokenizer import learn_merges, make_tokenizer
from tools.zoo.train_tiny_unet import Settings, train
from tools.zoo.train_unet import Examples, draw_timesteps


def test_merges_make_words_whole_whatever_they_share():
    words = ["shoes", "shoe", "hoe", "ashore", "a", "aa", "aaa"]
    tokenizer = make_tokenizer(words)
    assert all(len(tokenizer(w, add_special_tokens=False).input_ids) == 1 for w in words)
    assert learn_merges(["ab", "ab"]) == [("a", "b</w>")]


def tiny_settings(steps: int) -> Settings:
    widths = Widths(vae=(8, 8, 8), unet=(16, 16, 16, 16), text=16, text_layers=1)
    return Settings(
        0, steps, batch=2, vae_steps=2, vae_batch=2, pictures=4, calm=2, size=32, save_every=2, widths=widths
    )


@pytest.mark.slow
def test_a_continued_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.zoo.train_tiny_unet.sample_grid", lambda *_: None)
    train(tiny_settings(4), tmp_path / "whole")

    class KilledError(Exception):
        pass

    exported = iter([None])

    def kill(*_):
        if next(exported, KilledError) is KilledError:
            raise KilledError

    with monkeypatch.context() as patch:  # dies after the checkpoint of step 2, in the next
        patch.setattr("tools.zoo.train_tiny_unet.export", kill)
        with pytest.raises(KilledError):
            train(tiny_settings(4), tmp_path / "broken")
    with pytest.raises(InvalidValueError, match="steps"):
        train(tiny_settings(6), tmp_path / "broken")
    train(tiny_settings(4), tmp_path / "broken")
    one, two = (load_file(tmp_path / run / f"unet-{STATE}") for run in ("whole", "broken"))
    assert one.keys() == two.keys()
    assert len(one["losses"]) == 4
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [
        [row.split(",")[:2] for row in (tmp_path / run / f"unet-{LOG}").read_text().split()]
        for run in ("whole", "broken")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 5


@pytest.mark.slow
def test_a_stage_can_follow_another_with_parts_frozen_and_the_rest_on_a_grid(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.zoo.train_tiny_unet.sample_grid", lambda *_: None)
    train(tiny_settings(2), tmp_path)
    before = within(load_file(tmp_path / f"unet-{STATE}"), "average")
    freeze = ("text", "unet.conv_in", "unet.time_embedding", "unet.down_blocks.0", "unet.down_blocks.1")
    folder = train(replace(tiny_settings(2), stage="more", after="unet", studio=4, freeze=freeze, grid=8), tmp_path)
    after = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for name, weight in after.items():
        old, new = before[f"unet.{name}"].half().float(), weight.float()
        if any(f"unet.{name}".startswith(f"{part}.") for part in freeze):
            assert torch.equal(old, new), name
        elif weight.ndim > 1:
            assert not torch.equal(old, new), name
    moved = after["up_blocks.1.resnets.0.conv1.weight"].float()
    steps = moved / (2.0 ** torch.floor(torch.log2(moved.std() / 8)) * 0.5)  # the spread moves a little by rounding
    assert torch.equal(steps, steps.round())
    assert moved.unique().numel() > 16


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"freeze": ("unet.down_block.0",)}, r"'unet.down_block.0' to freeze. Did you mean 'unet.down_blocks.0'"),
        ({"after": "unett"}, "holds no stage 'unett'"),
        ({"hide": 1.5}, "hide = 1.5 is not from 0 to 1"),
        ({"lean": -1.0}, "lean = -1.0 is not from 0"),
        ({"share": 0.5}, "ask for some with studio or large"),
    ],
)
def test_what_a_stage_cannot_do_is_said_before_anything_is_written(tmp_path, asked, said):
    with pytest.raises(DiffeatError, match=said):
        train(replace(tiny_settings(2), **asked), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_command_says_its_errors_in_one_line():
    from tools.zoo.train_tiny_unet import main

    with pytest.raises(SystemExit, match=r"^Error: .*nowhere holds no stage 'unet' to go on from"):
        run_command(lambda: main(["--out", "nowhere", "--after", "unet", "--stage", "more"]))


def test_studio_pictures_are_calm_and_have_a_plain_background(tmp_path):
    cache.draw(tmp_path, cache.Counts(4, 4, 4), seed=0, size=32, workers=1)
    studio = cache.captions_of(cache.shards(tmp_path)[2])
    said = [caption for caption in studio if " on " in caption or " in front" in caption]
    assert said
    assert all("on a plain background" in caption for caption in said)
    assert not all("on a plain background" in c for c in cache.captions_of(cache.shards(tmp_path)[0]))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_each_batch_comes_from_the_late_pictures(tmp_path, share):
    cache.draw(tmp_path, cache.Counts(4, 4, 4), seed=0, size=32, workers=1)
    for k in range(3):  # latents tell which picture they are of
        numbers = np.arange(4 * k, 4 * k + 4, dtype=np.float16)
        latents = (
            np.broadcast_to(numbers[:, None, None, None, None], (4, 2, 1, 2, 2)) * np.array([1, 0])[:, None, None, None]
        )
        np.save(tmp_path / f"latents-{k:03d}.npy", latents)
    examples = Examples(tmp_path, tmp_path, make_tokenizer(vocabulary()), 1.0, late=(cache.Counts(4, 4, 4).last, share))
    latents, *_ = examples.batch(3000, torch.Generator().manual_seed(0))
    taken = latents[:, 0, 0, 0].int()
    assert abs((taken >= 8).float().mean() - share) < 0.03
    expected = {0.0: 8, 0.3: 12, 1.0: 4}[share]
    assert len(taken.unique()) == expected


@pytest.mark.parametrize(("lean", "mean"), [(0.0, 500), (1.0, 667), (3.0, 800)])
def test_timesteps_can_lean_to_the_noisy_end(lean, mean):
    t = draw_timesteps(20_000, lean, torch.Generator().manual_seed(0))
    assert 0 <= int(t.min()) < int(t.max()) <= 999
    assert abs(t.float().mean() - mean) < 8


def test_training_threads_have_ended_after_the_block():
    with threads(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
        workers = list(pool._pool)  # type: ignore[attr-defined]
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_loss_curves_draw_any_number_of_stages(tmp_path, stages):
    for k in range(stages):
        (tmp_path / f"s{k}-{LOG}").write_text("step,loss,rate,seconds\n0,1.0,0.1,1.0\n1,0.5,0.1,2.0\n")
    loss_curves(tmp_path, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
