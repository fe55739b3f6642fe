"""Homographies of pictures of planes: from features to corner errors, and what is said where there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.datasets import open_dataset, read_hpatches
from diffeat.datasets.geometric import warp
from diffeat.errors import DatasetError, InvalidValueError, ModelError
from diffeat.extraction import Reading, load_source
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec, open_image
from diffeat.report.results import write_result
from diffeat.tasks.homography import (
    HomographyOptions,
    corner_error,
    describe,
    detect,
    evaluate_homographies,
    find_homography,
    mutual_neighbours,
    propagate_edit,
)
from diffeat.tasks.registry import TASKS, options_for
from support.stores import FakeSource

SIZE = (80, 60)
TRUTH = np.array([[0.9, 0.05, 3.0], [-0.04, 0.95, 2.0], [1e-4, -2e-4, 1.0]])


class Colours(FakeSource):
    """The picture's own pixels as features."""

    def read(self, pictures):
        for picture in pictures:
            frame = FrameSpec("squash", size=SIZE).frame(picture.image.size)
            yield FeatureMap({"x": frame.pixels(picture.image)}, frame, picture.name, picture.digest, {})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plane whose colour tells the place, seen straight and under a homography, and key points of it."""
    root = tmp_path_factory.mktemp("hpatches")
    points = np.random.default_rng(0).uniform(8, 50, (40, 2))
    (root / "points").mkdir()
    pixels = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), -1).reshape(-1, 2)
    for name in ("i_one", "v_two"):
        (root / name).mkdir()
        for k in range(1, 7):
            matrix = np.eye(3) if k == 1 else TRUTH
            colours = np.pad(warp(pixels, np.linalg.inv(matrix)) * 3, ((0, 0), (0, 1)))
            image = colours.clip(0, 255).round().astype(np.uint8).reshape(SIZE[1], SIZE[0], 3)
            Image.fromarray(image).save(root / name / f"{k}.ppm")
            np.savetxt(root / "points" / f"{name}-{k}.kp", np.repeat(warp(points, matrix), 2, 0))
            np.savetxt(root / name / f"H_1_{k}", matrix if name[0] == "v" else matrix + [[0, 0, 4], [0] * 3, [0] * 3])
    return root


def test_accuracy_over_a_dataset(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    data = open_dataset("hpatches", scene, kind="homographies", keypoints=str(scene / "points"))
    assert len(data[0].source_points or ()) == 80
    with pytest.raises(InvalidValueError, match="most_points would be ignored"):
        evaluate_homographies(data, Colours(), HomographyOptions(most_points=9))
    result = evaluate_homographies(data, Colours(), HomographyOptions(similarity="l2"))
    assert [result.accuracy(t, "v") for t in (1, 3, 5)] == [100, 100, 100]
    assert [result.accuracy(t, "i") for t in (1, 3, 5)] == [0, 0, 100]  # the truth was moved by 4 pixels
    assert result.value == 50
    assert {s.matches for s in result.scores} <= set(range(30, 41))  # every point once
    header, rows = result.table()
    assert [row[0] for row in rows] == ["light (i)", "viewpoint (v)", "all"]
    assert len(header) == len(rows[0])
    assert "homography accuracy" in str(result)
    assert result.merge(result) == result
    assert "within 3 px 50.0" in write_result(result, tmp_path / "report").read_text()
    with pytest.raises(InvalidValueError, match="options"):
        result.merge(evaluate_homographies(data.limited(1), Colours()))


def test_detected_points_and_pairs_that_fail(scene: Path) -> None:
    pytest.importorskip("cv2")
    assert len(detect(open_image(scene / "v_two" / "1.ppm"), 10)) <= 10
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    points = detect(photo, 5)
    assert len(points) == 5
    assert ((points >= -0.5) & (points <= 63.5)).all()
    result = evaluate_homographies(read_hpatches(scene, "v"), Colours(), HomographyOptions(most_points=4))
    assert any("SIFT" in note for note in result.notes)
    failed = [s for s in result.scores if s.matches < 4]
    assert all(s.error == float("inf") for s in failed)
    assert failed == [] or any("count as wrong" in note for note in result.notes)


def test_too_few_points_and_corners() -> None:
    pytest.importorskip("cv2")
    points = np.array([[0, 0], [9, 0], [9, 9]])
    matrix, agree = find_homography(points, points)
    assert matrix is None
    assert not agree.any()
    assert corner_error(None, np.eye(3), (10, 10)) == float("inf")
    moved = np.eye(3) + [[0, 0, 3], [0, 0, 4], [0, 0, 0]]
    assert corner_error(moved, np.eye(3), (10, 10)) == pytest.approx(5)
    scaled = np.diag([2.0, 1.0, 1.0])  # two corners move by the width less one
    assert corner_error(scaled, np.eye(3), (11, 10)) == pytest.approx(5)
    for estimator in ("lmeds", "ransac"):
        many = np.random.default_rng(0).uniform(0, 100, (30, 2))
        other = warp(many, TRUTH)
        other[:5] += 40
        matrix, agree = find_homography(many, other, estimator)
        assert corner_error(matrix, TRUTH, (100, 100)) < 0.01
        assert agree.tolist() == [False] * 5 + [True] * 25


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="No estimator 'median'.*lmeds"):
        find_homography(np.eye(4, 2), np.eye(4, 2), "median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidValueError, match="5 points and 4 others"):
        find_homography(np.eye(5, 2), np.eye(4, 2))


def test_neighbours_by_cosine_and_by_distance() -> None:
    a, b = torch.tensor([[1.0, 0], [0, 3], [5, 5]]), torch.tensor([[0, 1.0], [9, 0], [4, 4], [4, 4]])
    assert mutual_neighbours(a, b).tolist() == [[0, 1], [1, 0], [2, 2]]  # length is nothing
    assert mutual_neighbours(a, b, "l2").tolist() == [[0, 0], [2, 2]]
    assert mutual_neighbours(a, b[:0]).tolist() == []


def test_sampling() -> None:
    ramp = torch.arange(4.0)[None, None].expand(1, 4, 4)  # value = column
    frame = FrameSpec("squash", size=64).frame((16, 16))
    features = FeatureMap({"x": ramp}, frame, "", "", {})
    middle = np.array([[7.5, 7.5]])
    assert describe(features, middle).item() == describe(features, middle, "released").item() == pytest.approx(1.5)
    # pixel 5.5 is the centre of column 1; as released it is read at 5.5 * 4 / 15 - 0.5 of a column
    assert describe(features, np.array([[5.5, 7.5]])).item() == pytest.approx(1)
    assert describe(features, np.array([[5.5, 7.5]]), "released").item() == pytest.approx(5.5 * 4 / 15 - 0.5)
    assert describe(features, np.array([[15.0, 7.5]]), "released").item() == pytest.approx(1.5)  # half of it is zeros
    padded = FeatureMap({"x": ramp}, FrameSpec("pad", size=64).frame((16, 8)), "", "", {})
    with pytest.raises(InvalidValueError, match="padding"):
        describe(padded, middle, "released")


def test_without_opencv(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModelError, match=r"pip install 'diffeat\[opencv\]'"):
        evaluate_homographies(read_hpatches(scene), Colours())


def test_key_points_that_are_missing_or_damaged(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"i_one-1\.kp"):
        read_hpatches(scene, keypoints=tmp_path)
    (tmp_path / "i_one-1.kp").write_text("1 2\nthree 4\n")
    with pytest.raises(DatasetError, match="line 2"):
        read_hpatches(scene, keypoints=tmp_path)


def test_presets_say_how_they_were_scored() -> None:
    options = options_for(TASKS["homography"], Reading.load("dift-sd21-hpatches"))
    assert options == HomographyOptions(similarity="cosine", estimator="lmeds", sampling="released")


def test_on_the_command_line(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    base = ["eval", "hpatches", "--root", str(scene), "-r", "baseline:rgb", "--limit", "2"]
    out = ["--keypoints", str(scene / "points"), "--estimator", "ransac", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*base, *out])
    assert done.exit_code == 0, done.output
    assert "homography accuracy (mutual neighbours by cosine, ransac, exact sampling)" in " ".join(done.stdout.split())
    assert "Note: only 2 of" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    refused = CliRunner().invoke(app, [*base, "--radius", "3"])
    assert "--radius belongs to videos, but hpatches holds homographies" in str(refused.exception)


def test_an_edit_is_carried_over(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    files = [scene / "v_two" / f"{k}.ppm" for k in (1, 2)]
    layer = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    layer[15:40, 12:45] = (255, 0, 0, 255)
    Image.fromarray(layer).save(tmp_path / "layer.png")
    out = tmp_path / "edited.png"
    command = ["edit", str(files[0]), str(tmp_path / "layer.png"), str(files[1]), "-r", "baseline:rgb"]
    done = CliRunner().invoke(app, [*command, "--set", "stride=2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "agree with the homography" in done.stdout
    result, plain = (np.asarray(open_image(file)).astype(int) for file in (out, files[1]))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    back = warp(np.stack((x, y), -1).reshape(-1, 2), np.linalg.inv(TRUTH)).reshape(*x.shape, 2)
    edge = np.stack((back[..., 0] - 11.5, 44.5 - back[..., 0], back[..., 1] - 14.5, 39.5 - back[..., 1])).min(0)
    red = (result == [255, 0, 0]).all(-1)
    assert red[edge > 2.5].all()
    assert (result == plain).all(-1)[edge < -2.5].all()
    again = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert "edited.png" in str(again.exception)
    features = Colours().extract([files[0]])[0]
    with pytest.raises(InvalidValueError, match="transparent everywhere"):
        propagate_edit(features, features, Image.new("RGBA", SIZE))
    with pytest.raises(InvalidValueError, match="40×30 pixels"):
        propagate_edit(features, features, Image.new("RGBA", (40, 30)))
    with pytest.raises(InvalidValueError, match="opaque everywhere"):
        propagate_edit(features, features, Image.new("RGB", SIZE))
    layer[:] = 0
    layer[20, 20] = 255
    with pytest.raises(InvalidValueError, match="1 places of the edit.*larger layer"):
        propagate_edit(features, features, Image.fromarray(layer))


def test_a_recipe_has_options_for_tasks_which_given_ones_override(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "{kind: baseline, name: RGB patches, tasks: {homography: {similarity: l2, estimator: ransac, most_points: 50}}}"
    )
    command = ["eval", "hpatches", "--root", str(scene), "--limit", "1", "-r", str(recipe)]
    done = CliRunner().invoke(app, [*command, "--estimator", "lmeds"])
    assert done.exit_code == 0, done.output
    assert "neighbours by l2, lmeds, exact sampling" in " ".join(done.stdout.split())
    assert "--similarity 'l2', --most-points 50" in done.stderr
    assert "--estimator" not in done.stderr
    source = load_source(str(recipe))
    assert evaluate_homographies(read_hpatches(scene).limited(1), source).options.estimator == "ransac"
    recipe.write_text("{kind: baseline, name: RGB patches, tasks: {homografy: {}}}")
    assert "Did you mean 'homography'" in str(CliRunner().invoke(app, command).exception)
