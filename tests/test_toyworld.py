"""The toy world: same index, same picture; labels that agree with what is drawn."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.datasets.toyworld import CLASSES, PARTS, ToySample, Toyworld
from diffeat.datasets.toyworld.captions import vocabulary
from diffeat.datasets.toyworld.classes import build
from diffeat.datasets.toyworld.figure import PART_ID, Figure, turn
from diffeat.datasets.toyworld.raster import Camera, cast
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import InvalidValueError, UnknownNameError


def front_camera(focal: float = 200.0, distance: float = 10.0, centre: tuple[float, float] = (31.5, 31.5)) -> Camera:
    return Camera(np.diag([1.0, -1.0, -1.0]), np.array([0, 0, distance]), focal, centre)


@pytest.fixture(scope="module")
def samples():
    world = Toyworld(3)
    return [world.sample(k, name=name) for k, name in enumerate(CLASSES * 3)]


def test_same_seed_and_index_give_the_same_bits():
    one, two = Toyworld(7).sample(5), Toyworld(7).sample(5)
    assert one.image.tobytes() == two.image.tobytes()
    assert one.caption == two.caption
    assert one.keypoints == two.keypoints
    assert (one.parts == two.parts).all()


def digest(sample: ToySample) -> str:
    image = hashlib.sha256(sample.image.tobytes() + sample.parts.tobytes())
    points = [(name, round(x, 6), round(y, 6), bool(seen)) for name, (x, y, seen) in sample.keypoints.items()]
    image.update(json.dumps([points, sample.caption, sample.label, sample.box]).encode())
    return image.hexdigest()[:16]


def pinned() -> list[str]:
    worlds = [(Toyworld(0, 128), CLASSES), (Toyworld(7, 64), CLASSES[::3]), (Toyworld(21, 33), CLASSES[::5])]
    return [digest(world.sample(k, name=name)) for world, names in worlds for k, name in enumerate(names)]


DIGESTS = """
34ad12d616408c85 ca21fd79fcbe122e 37185997ba984c7d 4f52421ffe6cd20c f13956c1fa78340b f22decf2e0fdae6c
1b40edc3db6ad051 66cb8a3177e0b1b4 c0c7dbda009f56c2 50fc66adfd4ec482 ec0b0b68eecb571f 61618c15316ee678
10fa4fbd83f4f68c 5c39909a6019cf78 96fa0f7f07bbeaef b396f7162f90716a dda1774c42be79c4 dca14a3d51429607
2a39ae6b16926efc 37f14cf84862ae80 77ddb1361dab2740 81df82a21b5d586a ab9e59f6c3dc696f 2d67d47da8176b38
cfb5aae32a248c57 58528b01d4a274ef 4b0ead00d3ff334f 4c3a173381bfea70 36201c334d40e59c beaa6bdd09adab8a
a113096080110649 6cdc3ab736be1875 4c7fe5ae27b76e38
""".split()

#: BLAS kernels of other processors; the first also has numpy, the C library and JPEG take their plainest paths.
OTHER_PROCESSORS = {
    "plain": {
        "OPENBLAS_CORETYPE": "Sandybridge",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX2 FMA3 "
        "AVX512F AVX512CD AVX512_SKX AVX512_CLX",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-AVX_Usable,-AVX2_Usable,-FMA_Usable",
        "JSIMD_FORCENONE": "1",
    },
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
}


def test_pictures_and_labels_are_what_they_always_were():
    assert pinned() == DIGESTS


def written(folder: Path) -> str:
    """A digest of every file of a data set: pictures, masks, annotations, pairs."""
    root = write_toyworld_pairs(folder, size=33, classes=CLASSES[:2], images={"val": 3, "test": 3}, pairs=2)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("processor", OTHER_PROCESSORS)
def test_another_processor_draws_and_writes_the_same_bits(processor: str, tmp_path: Path):
    code = "import sys, pathlib, test_toyworld as t; print(*t.pinned(), t.written(pathlib.Path(sys.argv[1])))"
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "there")],
        env={**os.environ, **OTHER_PROCESSORS[processor], "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split() == [*DIGESTS, written(tmp_path / "here")]


def test_order_of_reading_does_not_matter():
    world = Toyworld(7)
    last = world.sample(4).image
    for k in (2, 0, 3):
        world.sample(k)
    assert (world.sample(4).image == last).all()


def test_other_seed_or_index_gives_another_picture():
    image = Toyworld(7).sample(5).image
    assert (image != Toyworld(8).sample(5).image).any()
    assert (image != Toyworld(7).sample(6).image).any()


def test_shapes_and_ranges(samples):
    for s in samples:
        assert s.image.shape == (128, 128, 3)
        assert s.image.dtype == np.uint8
        assert s.parts.shape == (128, 128)
        assert s.parts.max() < len(PARTS)
        assert s.points.shape == (len(s.names), 2)
        assert 6 <= len(s.names) <= 14
        assert CLASSES[s.label] == s.name


def test_a_visible_keypoint_lies_on_a_part_that_may_show_it(samples):
    rng = np.random.default_rng(0)
    allowed = {name: {k: parts for k, (_, parts) in build(name, rng).keypoints.items()} for name in CLASSES}
    shown = 0
    for s in samples:
        for name, (x, y, visible) in s.keypoints.items():
            if visible:
                assert 0 <= round(x) < 128
                assert 0 <= round(y) < 128
                part = PARTS[s.parts[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]]
                assert part in allowed[s.name].get(name, (part,)), (s.name, name, part)
                shown += 1
    assert shown > 2 * len(samples)


def test_box_encloses_the_parts(samples):
    for s in samples:
        rows, columns = np.nonzero(s.parts)
        if len(rows):
            assert s.box == (columns.min(), rows.min(), columns.max(), rows.max())


def test_captions_use_the_vocabulary_and_name_the_class(samples):
    words = set(vocabulary())
    for s in samples:
        assert set(s.caption.split()) <= words, s.caption
        assert s.name in s.caption.split()


def test_left_and_right_in_the_caption_agree_with_the_picture():
    """Seen from the side, the nose is on the side of the tail that the view says."""
    world = Toyworld(11)
    for k in range(12):
        for view, sign in (("left", -1), ("right", 1)):
            points = world.sample(k, name="horse", view=view, framing="whole").keypoints
            assert sign * (points["withers"][0] - points["tail_base"][0]) > 0


def test_a_sphere_is_drawn_where_the_camera_projects_it():
    """A small sphere at a known place: its centroid, size and depth by the pinhole formula."""
    figure = Figure()
    figure.pen().ellipsoid("head", (0.3, -0.2, 0.1), 0.25)
    camera = front_camera()
    hits = cast(figure.solids, camera, 64, 2)
    rows, columns = np.nonzero(hits.index == 0)
    x, y = 31.5 + 200 * 0.3 / 9.9, 31.5 + 200 * 0.2 / 9.9
    assert np.mean((columns + 0.5) / 2 - 0.5) == pytest.approx(x, abs=0.1)
    assert np.mean((rows + 0.5) / 2 - 0.5) == pytest.approx(y, abs=0.1)
    assert np.sqrt(len(rows) / 4 / np.pi) == pytest.approx(200 * 0.25 / 9.9, rel=0.02)
    assert hits.depth.min() == pytest.approx(9.65, abs=1e-3)
    np.testing.assert_allclose(camera.project(np.array([0.3, -0.2, 0.1])), [x, y, 9.9])


@pytest.mark.parametrize("kind", ["ellipsoid", "box", "frustum"])
def test_hits_lie_on_the_surface_and_normals_point_out(kind):
    """Brute force: each hit point, moved a little along its normal, leaves the solid; against it, enters."""
    figure = Figure()
    pen = figure.pen().at((0.1, 0.2, 0), turn(33, 21, 50))
    if kind == "ellipsoid":
        pen.ellipsoid("head", (0, 0, 0), (0.9, 0.5, 0.7))
    elif kind == "box":
        pen.box("head", (0, 0, 0), (0.9, 0.5, 0.7))
    else:
        pen.frustum("head", (0, -0.8, 0), (0, 0.8, 0), 0.7, 0.3)
    solid, camera = figure.solids[0], front_camera(120.0)
    hits = cast(figure.solids, camera, 64, 1)
    rows, columns = np.nonzero(hits.index == 0)
    assert len(rows) > 100
    t = hits.depth[rows, columns]
    seen = np.stack([(columns - 31.5) / 120 * t, (rows - 31.5) / 120 * t, t], 1)

    def inside(points):
        world = (points - camera.shift) @ camera.rotation
        p = (world - solid.centre) @ np.linalg.inv(solid.axes).T
        if kind == "ellipsoid":
            return (p**2).sum(1) < 1
        if kind == "box":
            return (np.abs(p) < 1).all(1)
        radius = (1 + solid.taper) / 2 + (solid.taper - 1) / 2 * p[:, 1]
        return (np.hypot(p[:, 0], p[:, 2]) < radius) & (np.abs(p[:, 1]) < 1)

    assert np.mean(~inside(seen + 0.01 * hits.normal)) > 0.99
    assert np.mean(inside(seen - 0.01 * hits.normal)) > 0.95


def test_nearer_solids_hide_farther_ones():
    figure = Figure()
    figure.pen().ellipsoid("head", (0, 0, 0), 0.5)
    figure.pen().ellipsoid("tail", (0, 0, 1.0), 0.2)
    hits = cast(figure.solids, front_camera(), 64, 1)
    assert hits.index[32, 32] == 1
    assert figure.solids[1].part == PART_ID["tail"]


def test_pairs_share_class_and_keypoints():
    world = Toyworld(2)
    for k in range(6):
        pair = world.pair(k)
        assert pair.source.name == pair.target.name
        assert len(pair.names) >= 3
        for name in pair.names:
            assert pair.source.keypoints[name][2]
            assert pair.target.keypoints[name][2]
        here, there = pair.matches()
        assert here.shape == there.shape == (len(pair.names), 2)
    assert (world.pair(3).target.image == world.pair(3).target.image).all()


def test_fixed_attributes_and_bad_ones():
    sample = Toyworld(0, size=64).sample(1, name="car", place="road", view="left", light="sunny")
    assert sample.image.shape == (64, 64, 3)
    assert (sample.attributes["place"], sample.attributes["view"], sample.name) == ("road", "left", "car")
    for size, (low, high) in {"small": (30, 66), "large": (107, 125)}.items():
        figure = Toyworld(0).sample(2, name="bottle", framing="whole", calm="yes", size=size)
        assert figure.attributes["size"] == size
        assert low < max(figure.box[2] - figure.box[0], figure.box[3] - figure.box[1]) < high
    with pytest.raises(UnknownNameError, match="horse"):
        Toyworld(0, classes=["hors"])
    with pytest.raises(UnknownNameError, match="view"):
        Toyworld(0).sample(0, vieww="left")
    with pytest.raises(UnknownNameError, match="grass"):
        Toyworld(0).sample(0, place="gras")
    with pytest.raises(InvalidValueError, match="32"):
        Toyworld(0, size=16)
    with pytest.raises(InvalidValueError, match="class"):
        Toyworld(0, classes=[])
    with pytest.raises(IndexError):
        Toyworld(0)[-1]


def test_counts_are_written_as_the_help_shows_them(tmp_path: Path) -> None:
    command = ["toyworld", "write", str(tmp_path / "toy"), "--size", "32", "--pairs", "1", "--class", CLASSES[0]]
    done = CliRunner().invoke(app, [*command, "--images", "4,2,3"])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "toy").glob(f"JPEGImages/{CLASSES[0]}/*"))) == 4 + 2 + 3
    help_text = CliRunner().invoke(app, ["toyworld", "write", "--help"], env={"COLUMNS": "120"}).stdout
    assert "TRAIN,VAL,TEST" in help_text
    assert "8,4,10" in help_text
    for wrong in ("6,3", "6,3,x", "6,0,4", ""):
        done = CliRunner().invoke(app, ["toyworld", "write", str(tmp_path / "no"), "--images", wrong])
        assert "--images takes three numbers" in str(done.exception)
