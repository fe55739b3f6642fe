"""Pairs of AP-10K: the rules by which lists are drawn, what each picture shows, and the two protocols."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.datasets import read_ap10k
from diffeat.datasets.ap10k_pairs import write_ap10k_pairs
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation import picture_texts
from diffeat.tasks.correspondence import get_protocol
from stand_ins import picture

FAMILIES = {"Bovidae": {"antelope": 56, "bison": 13}, "Canidae": {"dog": 9}}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three species of two families; a tenth of the animals hides all but two points, one picture shows two animals."""
    root = tmp_path_factory.mktemp("ap-10k")
    rng = np.random.default_rng(0)
    parts = {part: {"images": [], "annotations": [], "categories": []} for part in ("train", "val", "test")}
    number = 0
    for family, species in FAMILIES.items():
        for kind, count in species.items():
            category = {"id": kind, "name": kind, "supercategory": family}
            for part in parts.values():
                part["categories"].append(category)
            for k in range(count):
                number += 1
                part = parts[("train", "val", "test")[k % 3]]
                name = f"{number:012d}.jpg"
                picture(root / "data" / name, seed=number)
                part["images"].append({"id": number, "file_name": name, "width": 40, "height": 30})
                shown = [2, 2] + ([0] * 15 if k % 10 == 0 else [2] * 15)
                points = [v for s in shown for v in (*rng.integers(1, 29, 2).tolist(), s)]
                row = {
                    "id": number,
                    "image_id": number,
                    "category_id": kind,
                    "keypoints": points,
                    "bbox": [1, 2, 20, 10],
                }
                part["annotations"] += [row, row] if (kind, k) == ("dog", 1) else [row]
    for part, data in parts.items():
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"ap10k-{part}-split1.json").write_text(json.dumps(data))
    return root


@pytest.fixture(scope="module")
def folder(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "ap10k"
    done = CliRunner().invoke(app, ["ap10k-pairs", str(raw), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_the_rules(folder: Path) -> None:
    usable = {"antelope": 50, "bison": 11, "dog": 7}  # 56 - 6 hidden, 13 - 2, 9 - 1 and one of two animals
    tested = {kind: min(30, n) for kind, n in usable.items()}
    pairs = {split: read_ap10k(folder, split) for split in ("val", "test", "test_cross_species", "test_cross_family")}
    expected = {kind: n * (n - 1) // 2 for kind, n in tested.items()}
    assert Counter(p.category for p in pairs["test"]) == expected
    assert Counter(p.category for p in pairs["val"]) == {"antelope": 20 * 19 // 2}
    across = pairs["test_cross_species"]
    assert Counter(p.category for p in across) == {"Bovidae": 30 * 11}
    assert {p.shows for p in across} == {("antelope", "bison")}
    assert Counter(p.category for p in pairs["test_cross_family"]) == {"all": 30}
    assert {p.shows for p in pairs["test_cross_family"]} <= {("antelope", "dog"), ("bison", "dog")}
    assert not (folder / "PairAnnotation" / "trn").exists()  # 50 pictures of antelopes: 30 tested, 20 validated
    assert all(len(p.keypoints) >= 3 for split in pairs.values() for p in split)
    tests = {path for p in pairs["test"] for path in (p.source, p.target)}
    assert not tests & {path for p in pairs["val"] for path in (p.source, p.target)}


def test_every_picture_is_told_its_own_species(folder: Path) -> None:
    for split in ("test_cross_species", "test_cross_family"):
        texts = picture_texts(read_ap10k(folder, split), "category")
        assert {path.parent.name: text for path, text in texts.items()} == {
            path.parent.name: f"a photo of a {path.parent.name}" for path in texts
        }


def test_a_list_of_pictures_to_leave_out_and_what_is_wrong(raw: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "crowd.txt").write_text("\n".join(p.name for p in (raw / "data").iterdir() if int(p.stem) <= 56))
    counts = write_ap10k_pairs(raw, tmp_path / "some", leave_out=tmp_path / "crowd.txt")
    assert counts == {"test": 11 * 10 // 2 + 8 * 7 // 2, "test_cross_family": 30}  # the dogs of two are in
    with pytest.raises(InvalidValueError, match="PairAnnotation"):
        write_ap10k_pairs(raw, folder)
    with pytest.raises(DatasetError, match="ap10k-train-split1"):
        write_ap10k_pairs(tmp_path, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_soft_protocol_and_an_exact_one() -> None:
    soft, exact = get_protocol("ap10k"), get_protocol("ap10k-argmax")
    assert (soft.matching.readout, exact.matching.readout) == ("window", "argmax")
    assert soft.replace(name="", source="", matching=exact.matching) == exact.replace(name="", source="")
    assert not exact.inclusive
