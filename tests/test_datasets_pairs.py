"""Readers of correspondence datasets, on folders made here in the real layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.datasets.geometric import planar_pair, read_motorcycle, stereo_pair, warp
from diffeat.datasets.hpatches import read_hpatches, read_hpatches_points
from diffeat.datasets.pairs import PairDataset, PointPair
from diffeat.datasets.registry import open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError
from stand_ins import GOLDEN, picture


def test_spair_reads_the_original_folder_in_its_order() -> None:
    for root in (GOLDEN, GOLDEN / "SPair-71k"):
        test = open_dataset("spair", root, "test")
        assert (len(test), len(test.images()), test.categories) == (36, 12, ["bus", "cat", "chair"])
    names = (GOLDEN / "SPair-71k" / "Layout" / "large" / "test.txt").read_text().split()
    assert [p.name for p in test] == names
    pair = next(p for p in test if p.name.startswith("000022"))
    assert pair.target_box == (25, 25, 79, 124)
    assert pair.source_points[0] == (52, 21)
    assert pair.target_points[-1] == (76, 120)
    assert pair.attributes["occlusion"] == 3
    assert (pair.source_size, pair.target_size) == ((150, 100), (100, 140))
    assert [len(open_dataset("spair", GOLDEN, s)) for s in ("train", "trn", "val")] == [6, 6, 6]


def test_spair_as_a_flat_list_holds_the_same_pairs() -> None:
    folder = open_dataset("spair", GOLDEN, "test")
    images = GOLDEN / "SPair-71k" / "JPEGImages"
    flat = open_dataset("spair-json", GOLDEN / "annotations" / "test.json", images=images)
    key = lambda p: (p.source, p.target, p.source_points, p.target_points, p.target_box, p.category)  # noqa: E731
    assert [key(p) for p in flat] == [key(p) for p in folder]


def test_half_unpacked_spair_names_the_file_and_the_page(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere, which does not exist.*cvlab\.postech\.ac\.kr"):
        open_dataset("spair", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"neither PairAnnotation nor Layout.*cvlab"):
        open_dataset("spair", tmp_path)
    copy = tmp_path / "SPair-71k"
    shutil.copytree(GOLDEN / "SPair-71k", copy)
    (copy / "JPEGImages" / "bus" / "2030_000018.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 12 pictures are missing, the first is .*2030_000018\.jpg"):
        open_dataset("spair", copy)
    shutil.rmtree(copy / "JPEGImages" / "cat")
    with pytest.raises(DatasetError, match="5 of 12 pictures are missing"):
        open_dataset("spair", copy)
    victim = next((copy / "PairAnnotation" / "test").iterdir())
    victim.write_text('{"pair_id": 1,')
    with pytest.raises(DatasetError, match="half unpacked"):
        open_dataset("spair", copy)
    victim.unlink()
    with pytest.raises(DatasetError, match=r"\.json, which does not exist"):
        open_dataset("spair", copy)
    (copy / "Layout" / "large" / "test.txt").unlink()
    with pytest.raises(DatasetError, match=r"test\.txt \(the list of test pairs\)"):
        open_dataset("spair", copy)


def test_names_and_splits() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'spair'"):
        open_dataset("spairs", GOLDEN)
    with pytest.raises(UnknownNameError, match="Did you mean 'test'"):
        open_dataset("spair", GOLDEN, "tests")
    with pytest.raises(InvalidValueError, match="--root"):
        open_dataset("spair", None)


def test_ap10k_pairs(tmp_path: Path) -> None:
    def animal(name: str, seen: list[int], box: list[float]) -> str:
        path = tmp_path / "ImageAnnotation" / "Bovidae" / "antelope" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        points = [v for k in range(17) for v in (10 * k, 5 * k, 2 if k in seen else 0)]
        path.write_text(json.dumps({"keypoints": points, "bbox": box, "width": 200, "height": 100}))
        picture(tmp_path / "JPEGImages" / "Bovidae" / "antelope" / f"{name}.jpg")
        return f"/elsewhere/ap-10k/ImageAnnotation/Bovidae/antelope/{name}.json"

    one, other = animal("1", [0, 2, 4, 16], [1, 2, 30, 40]), animal("2", [2, 3, 4, 16], [5, 6, 70, 80])
    pairs = tmp_path / "PairAnnotation" / "test"
    pairs.mkdir(parents=True)
    (pairs / "000001-1-2:antelope.json").write_text(json.dumps({"src_json_path": one, "trg_json_path": other}))
    (pair,) = open_dataset("ap10k", tmp_path)
    assert pair.keypoints == ("2", "4", "16")
    assert pair.source_points == ((20, 10), (40, 20), (160, 80))
    assert (pair.category, pair.target_box) == ("antelope", (5, 6, 75, 86))
    with pytest.raises(DatasetError, match="test_cross_family"):
        open_dataset("ap10k", tmp_path, "test_cross_family")


def test_pf_pascal_from_coordinates_and_from_annotations(tmp_path: Path) -> None:
    from scipy.io import savemat

    for name in ("a", "b"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        points = np.array([[1.0, 2.0], [np.nan, np.nan], [5.0, 6.0]]) + (name == "b")
        (tmp_path / "Annotations" / "cat").mkdir(parents=True, exist_ok=True)
        savemat(tmp_path / "Annotations" / "cat" / f"{name}.mat", {"kps": points, "bbox": np.array([[0, 1, 20, 25]])})
    head = "PF-dataset-PASCAL/JPEGImages/a.jpg,PF-dataset-PASCAL/JPEGImages/b.jpg,8"
    (tmp_path / "test_pairs.csv").write_text(f"source_image,target_image,class,XA,YA,XB,YB\n{head},1.5;2,3;4,5;6,7;8\n")
    (pair,) = open_dataset("pf-pascal", tmp_path)
    assert pair.category == "cat"
    assert (pair.source_points, pair.target_points) == (((1.5, 3), (2, 4)), ((5, 7), (6, 8)))
    (tmp_path / "val_pairs.csv").write_text(f"source_image,target_image,class\n{head}\n")
    (pair,) = open_dataset("pf-pascal", tmp_path, "val")
    assert (pair.source_points, pair.target_points) == (((1, 2), (5, 6)), ((2, 3), (6, 7)))
    assert pair.target_box == (0, 1, 20, 25)
    with pytest.raises(DatasetError, match=r"trn_pairs\.csv.*willow"):
        open_dataset("pf-pascal", tmp_path, "train")


def test_cub_draws_pairs_of_one_species_and_says_so(tmp_path: Path) -> None:
    root = tmp_path / "CUB_200_2011"
    names = [f"{s}/{s}_{k}.jpg" for s in ("001.Black", "002.Red") for k in range(4)]
    for name in names:
        picture(root / "images" / name)

    def lines(rows) -> str:
        return "\n".join(rows) + "\n"

    (root / "parts").mkdir()
    (root / "images.txt").write_text(lines(f"{i + 1} {n}" for i, n in enumerate(names)))
    (root / "train_test_split.txt").write_text(lines(f"{i + 1} {int(i % 4 == 3)}" for i in range(8)))
    (root / "bounding_boxes.txt").write_text(lines(f"{i + 1} 1.0 2.0 10.0 20.0" for i in range(8)))
    parts = [f"{i + 1} {p} {p}.0 {i}.0 {int(p != 2 or i != 0)}" for i in range(8) for p in range(1, 6)]
    (root / "parts" / "part_locs.txt").write_text(lines(parts))
    found = open_dataset("cub", tmp_path)
    assert len(found) == 12  # 3 test pictures of each species, 6 ordered pairs
    assert all(p.source.parent == p.target.parent and p.source != p.target for p in found)
    assert {len(p.source_points) for p in found} == {4, 5}
    assert found.pairs[0].target_box == (1, 2, 11, 22)
    assert "drawn here" in found.notes[0]
    assert found.pairs == open_dataset("cub", tmp_path).pairs


def test_csv_of_points(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    file = tmp_path / "mine.csv"
    head = "source,target,source_x,source_y,target_x,target_y,category,left,top,right,bottom\n"
    file.write_text(head + "a.png,b.png,1,2,3,4,cat,0,0,20,20\na.png,b.png,5,6.5,7,8,cat,0,0,20,20\n")
    (pair,) = open_dataset("csv", file)
    assert pair.source_points == ((1, 2), (5, 6.5))
    assert (pair.category, pair.target_box) == ("cat", (0, 0, 20, 20))
    file.write_text(head + "a.png,b.png,1,two,3,4,,,,,\n")
    with pytest.raises(DatasetError, match="line 2: source_y is 'two'"):
        open_dataset("csv", file)
    file.write_text("source,target,sourcex\n")
    with pytest.raises(DatasetError, match="needs one column 'source_x'.*Did you mean 'sourcex'"):
        open_dataset("csv", file)


def test_geometry_agrees_with_the_pictures(tmp_path: Path) -> None:
    """Where the truth says a pixel goes, the picture looks alike; six pixels aside it does not."""
    (pair,) = read_motorcycle(tmp_path, points=400)
    left, right = (np.asarray(Image.open(p).convert("L"), dtype=float) for p in (pair.source, pair.target))
    s, t = (np.rint(np.array(p)).astype(int) for p in (pair.source_points, pair.target_points))

    def agreement(shift: int) -> float:
        x = np.clip(t[:, 0] + shift, 0, right.shape[1] - 1)
        return float(np.corrcoef(left[s[:, 1], s[:, 0]], right[t[:, 1], x])[0, 1])

    assert agreement(0) > 0.93
    assert agreement(0) > agreement(6) + 0.1


def test_planar_and_stereo_points_follow_the_given_geometry(tmp_path: Path) -> None:
    one, other = picture(tmp_path / "1.ppm", (60, 50)), picture(tmp_path / "2.ppm", (50, 60))
    matrix = np.array([[0.8, 0.1, 3], [-0.05, 0.9, 2], [1e-4, 0, 1]])
    pair = planar_pair("p", one, other, matrix, 100, 0)
    np.testing.assert_allclose(warp(np.array(pair.source_points), matrix), pair.target_points)
    assert (np.array(pair.target_points) >= 0).all()
    assert (np.array(pair.target_points) <= [49, 59]).all()
    disparity = np.full((50, 60), np.inf)
    disparity[10:20, 30:40] = 7.5
    pair = stereo_pair("s", one, other, disparity, 1000, 0)
    assert {(x - u, y - v) for (x, y), (u, v) in zip(pair.source_points, pair.target_points, strict=True)} == {(7.5, 0)}
    assert len(pair.source_points) == 100


def test_hpatches_layout(tmp_path: Path) -> None:
    for name in ("i_one", "v_two"):
        for k in range(1, 7):
            picture(tmp_path / name / f"{k}.ppm", seed=k)
            if k > 1:
                np.savetxt(tmp_path / name / f"H_1_{k}", np.diag([1, 1, 1.0]))
    found = read_hpatches_points(tmp_path, points=10)
    assert len(found) == 10
    assert all(p.source_points == p.target_points for p in found)
    assert len(open_dataset("hpatches-points", tmp_path, "v")) == len(open_dataset("hpatches", tmp_path, "v")) == 5
    (tmp_path / "v_two" / "H_1_4").unlink()
    with pytest.raises(DatasetError, match=r"v_two/H_1_4.*hpatches-dataset"):
        read_hpatches(tmp_path)


def test_toyworld_in_spair_layout(tmp_path: Path) -> None:
    counts = {"trn": 2, "val": 2, "test": 4}
    write_toyworld_pairs(tmp_path / "toy", classes=["horse", "car"], images=counts, pairs=5)
    test = open_dataset("toyworld", tmp_path / "toy")
    assert len(test) <= 10
    assert test.categories == ["car", "horse"]
    assert not set(test.images()) & set(open_dataset("toyworld", tmp_path / "toy", "val").images())
    for pair in test:
        assert len(pair.source_points) >= 3
        assert pair.target_box is not None
        points = np.array(pair.target_points)
        assert (points >= -0.5).all()
        assert (points <= 127.5).all()
        assert set(pair.attributes) == {"viewpoint_variation", "scale_variation", "truncation", "occlusion"}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "toy").rglob("*.json")}
    write_toyworld_pairs(tmp_path / "toy", classes=["horse", "car"], images=counts, pairs=5)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "toy").rglob("*.json")}
    with pytest.raises(InvalidValueError, match="other settings"):
        write_toyworld_pairs(tmp_path / "toy", classes=["horse"], images=counts, pairs=5)


def test_limits_keep_all_categories_and_are_noted() -> None:
    some = open_dataset("spair", GOLDEN).limited(6)
    assert (len(some), len(some.categories)) == (6, 3)
    assert "only 6 of 36 pairs" in some.notes[0]


def test_points_belong_together(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 source points but 2 target points"):
        PointPair("p", tmp_path, tmp_path, ((1, 1),), ((1, 1), (2, 2)))
    assert len(PairDataset("d", "", tmp_path, ())) == 0
