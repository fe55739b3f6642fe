"""Training of the embedded transformer survives a kill and ends in a stock pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.datasets.toyworld.captions import vocabulary
from diffeat.errors import InvalidValueError
from diffeat.training.loop import STATE
from tools.zoo.build_dit import DitWidths, make_t5_tokenizer
from tools.zoo.train_tiny_dit import DitSettings, train

_WIDTHS = DitWidths(channels=16, heads=2, blocks=2, text=8, text_layers=1)


def _settings(steps: int) -> DitSettings:
    return DitSettings(0, steps, batch=2, pictures=4, calm=2, size=32, save_every=2, widths=_WIDTHS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("dit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.zoo.train_tiny_dit.sample", lambda *_: None)
        train(_settings(4), run)
    return run


def test_a_continued_run_equals_an_uninterrupted_one(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.zoo.train_tiny_dit.sample", lambda *_: None)

    class KilledError(Exception):
        pass

    exported = iter([None])

    def kill(*_):
        if next(exported, KilledError) is KilledError:
            raise KilledError

    with monkeypatch.context() as patch:  # dies after the checkpoint of step 2, in the next
        patch.setattr("tools.zoo.train_tiny_dit.export", kill)
        with pytest.raises(KilledError):
            train(_settings(4), tmp_path)
    with pytest.raises(InvalidValueError, match="steps"):
        train(_settings(6), tmp_path)
    train(_settings(4), tmp_path)
    one, two = (load_file(run / f"dit-{STATE}") for run in (whole, tmp_path))
    assert one.keys() == two.keys()
    assert len(one["losses"]) == 4
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_exported_folder_is_a_stock_pipeline_with_adaln_in_every_block(whole: Path) -> None:
    folder = whole / "tiny_dit"
    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    assert type(pipeline).__name__ == "PixArtSigmaPipeline"
    assert "_name_or_path" not in (folder / "vae" / "config.json").read_text()
    backbone = Backbone.from_pretrained(str(folder))
    assert backbone.prediction_type == "v_prediction"
    assert [a.id for a in Catalogue.of(backbone).find("ditf:*")] == [f"transformer_blocks.{k}.adaln" for k in range(2)]


def test_each_caption_word_is_one_token_and_other_text_survives() -> None:
    tokenizer = make_t5_tokenizer(vocabulary())
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 2, word  # the word and the end
    ids = tokenizer("a photo of a quite striped zebra", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "a photo of a quite striped zebra"
    assert tokenizer.unk_token_id not in ids
