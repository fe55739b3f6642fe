"""Marks of the page: found as Python finds them, and kept in layouts that the readers of the library read."""

from __future__ import annotations

import io
import json
import shlex
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra 'app'")
from starlette.testclient import TestClient

from diffeat.app.gallery import Gallery
from diffeat.app.routes.match import Painted
from diffeat.app.server import application
from diffeat.app.session import Session
from diffeat.app.shelf import Shelf
from diffeat.datasets import read_csv_pairs, read_folder
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.extraction import Reading, load_source
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec, open_image
from diffeat.storage import FeatureStore
from diffeat.tasks.correspondence import heat_map, match, strongest_matches
from diffeat.tasks.transfer import Annotation, Marked, marked_files, read_annotation, transfer
from test_app_server import picture, unpacked

RGB = {"recipe": "RGB patches"}  # no model is needed: what is tested is the page
SIZES = [(60, 44), (48, 64), (40, 40)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate(SIZES):
        picture(number, size).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def features(photos: Path) -> list[FeatureMap]:
    return load_source("baseline:rgb").extract([photos / f"{n}.png" for n in range(3)])


@pytest.fixture(scope="module")
def store(features: list[FeatureMap], tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The pictures by their names below the folder, and one that is nowhere."""
    folder = tmp_path_factory.mktemp("stores") / "shelf"
    source = load_source("baseline:rgb")
    for number, feature in enumerate(features):
        feature.image = f"{number}.png"
    (name, values), *_ = features[0].activations.items()
    far = FeatureMap(
        {name: torch.rand(len(values), 5, 4)}, FrameSpec("squash", size=16).frame((40, 30)), "gone/far.png", "far"
    )
    with FeatureStore.of(folder, source) as made:
        made.write_shard([*features, far])
    return FeatureStore.open(folder)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out") / "marks"


@pytest.fixture(scope="module")
def client(photos: Path, store: FeatureStore, out: Path) -> Iterator[TestClient]:
    gallery = Gallery([str(photos)])
    app = application(Session(Reading.load("tiny-dift"), gallery), shelves=[Shelf(store, gallery)], out=out)
    with TestClient(app, base_url="http://127.0.0.1:1234") as client:
        yield client


@pytest.fixture(scope="module")
def ids(client: TestClient) -> list[str]:
    listed = client.get("/api/pictures").json()["pictures"]
    return [told["id"] for told in sorted(listed, key=lambda told: told["name"])]


# What is found


def test_points_boxes_and_masks_are_found_where_python_finds_them(
    client: TestClient, ids: list[str], features: list[FeatureMap]
) -> None:
    points, boxes = {"eye": [10.5, 20.0], "nose": [30, 7]}, {"head": [5, 5, 40, 35]}
    mask = {"width": 6, "height": 4, "runs": [0, 7, 1, 4, 2, 5, 0, 8]}
    marks = {"picture": ids[0], "points": points, "boxes": boxes, "mask": mask}
    answer = client.post("/api/transfer", json={"asked": RGB, "source": marks, "target": ids[1]})
    header, (labels, sure) = unpacked(answer.content)
    small = np.array([0] * 7 + [1] * 4 + [2] * 5 + [0] * 8, np.uint8).reshape(4, 6)
    whole = small[np.arange(44) * 4 // 44][:, np.arange(60) * 6 // 60]
    right = transfer(features[0], features[1], Annotation(points, boxes, whole))
    for name, point in right.points.items():
        told = header["points"][name]
        assert (told["x"], told["y"]) == pytest.approx(point.at)
        assert (told["similarity"], told["confidence"]) == pytest.approx((point.similarity, point.confidence))
        assert told["mutual"] == point.mutual
    assert header["boxes"]["head"]["at"] == (
        None if right.boxes["head"].at is None else pytest.approx(right.boxes["head"].at)
    )
    assert (labels == right.mask).all()
    assert right.confidence is not None
    assert np.abs(sure / 255 - right.confidence).max() < 0.01


def test_suggested_points_are_the_strongest_that_choose_each_other(
    client: TestClient, ids: list[str], features: list[FeatureMap]
) -> None:
    answer = client.post("/api/suggest", json={"asked": RGB, "source": ids[0], "target": ids[1], "count": 5}).json()
    right = strongest_matches(features[0], features[1], 5)
    assert answer["source"] == right.source.tolist()
    assert answer["target"] == right.target.tolist()


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ({}, "Nothing is marked"),
        ({"points": {"a": [99, 1]}}, "outside the picture"),
        ({"boxes": {"b": [9, 9, 9, 9]}}, "no area"),
        ({"mask": {"width": 2, "height": 2, "runs": [1, 3]}}, "not whole"),
        ({"mask": {"width": 2, "height": 2, "runs": [1, 4, 2]}}, "not whole"),
        ({"mask": {"width": 2, "height": 2, "runs": [255, 4]}}, "not whole"),
        ({"mask": {"width": 2, "height": 2, "runs": [0, 4]}}, "empty"),
        ({"mask": {"width": 2, "height": 2, "runs": [1, 10**9]}}, "cannot be asked"),
        ({"points": {"a" * 99: [1, 1]}}, "cannot be asked"),
    ],
)
def test_marks_that_are_none_are_refused_in_words(client: TestClient, ids: list[str], marks: dict, words: str) -> None:
    for address, body in (
        ("transfer", {"asked": RGB, "source": {"picture": ids[0], **marks}, "target": ids[1]}),
        ("marks", {"pictures": [{"picture": ids[0], **marks}]}),
    ):
        answer = client.post(f"/api/{address}", json=body)
        assert answer.status_code in (400, 422)
        assert words in answer.json()["error"]


def test_the_lines_that_one_leaves_with_find_the_same(
    client: TestClient,
    ids: list[str],
    features: list[FeatureMap],
    store: FeatureStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    points, boxes = {"'eye'": [10.5, 20.0]}, {"head": [5, 5, 40, 35]}
    body = {"asked": RGB, "of": "transfer", "pictures": ids[:2], "source": ids[0], "points": points, "boxes": boxes}
    told, space = client.post("/api/leave", json=body).json(), {}
    exec(told["python"], space)
    assert space["found"] == transfer(features[0], features[1], Annotation(points, boxes))
    first, second = told["command"].splitlines()
    echo, marks, *rest = shlex.split(first)
    assert [echo, *rest] == ["echo", ">", "marks.json"]
    assert json.loads(marks) == {"points": points, "boxes": boxes}
    assert second.startswith("diffeat transfer ")
    capsys.readouterr()
    told = client.post("/api/stores/0/leave", json={"picture": "0.png", "count": 2}).json()
    exec(told["python"].replace("pooled()", "pooled(keep=False)"), {})  # others look at what is in the folder
    assert capsys.readouterr().out.splitlines() == [str(s) for s in store.pooled(keep=False).nearest("0.png", 2)]
    assert shlex.split(told["command"]) == ["diffeat", "store", "nearest", str(store.path), "0.png", "-k", "2"]


# What is kept


def _collection(ids: list[str]) -> dict:
    mask = {"width": 60, "height": 44, "runs": [0, 1320, 2, 660, 1, 660]}
    return {
        "pictures": [
            {"picture": ids[0], "points": {"left eye": [10.25, 20], "näse, rot": [30, 7.125]}, "mask": mask},
            {"picture": ids[1], "points": {"näse, rot": [5, 6], "left eye": [0, 63]}, "boxes": {"1": [0, 1, 40, 50]}},
            {"picture": ids[2], "points": {"left eye": [39, 0]}},
        ],
        "pairs": [[0, 1], [0, 2]],
        "classes": ["ear", "paw, left"],
    }


def _check(folder: Path, photos: Path) -> None:
    """Read what was kept as the commands read it."""
    pairs = list(read_csv_pairs(folder / "pairs.csv"))
    assert [p.source.name for p in pairs] == ["0.png", "0.png"]
    assert [tuple(map(tuple, p.source_points)) for p in pairs] == [((10.25, 20), (30, 7.125)), ((10.25, 20),)]
    assert [tuple(map(tuple, p.target_points)) for p in pairs] == [((0, 63), (5, 6)), ((39, 0),)]
    data = read_folder(folder, "train")
    assert data.classes == ("background", "ear", "paw, left")
    (sample,) = data
    labels = sample.labels(3)
    assert (labels[:22] == 0).all() & (labels[22:33] == 2).all() & (labels[33:] == 1).all()
    for number in range(3):
        assert (
            open_image(folder / "images" / f"{number}.png").tobytes() == open_image(photos / f"{number}.png").tobytes()
        )
    marks = read_annotation(str(folder / "marks" / "1.json"), folder / "images" / "1.png")
    assert marks == Annotation({"näse, rot": (5, 6), "left eye": (0, 63)}, {"1": (0, 1, 40, 50)})
    mask = read_annotation(str(folder / "masks" / "0.png"), folder / "images" / "0.png").mask
    assert mask is not None
    assert (mask == labels).all()


def test_what_is_saved_is_read_by_eval_train_and_transfer(
    client: TestClient, ids: list[str], photos: Path, tmp_path: Path
) -> None:
    answer = client.post("/api/marks", json=_collection(ids))
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as kept:
        assert kept.testzip() is None
        kept.extractall(tmp_path)
    _check(tmp_path, photos)


def test_what_is_written_lies_in_a_new_folder_each_time_beside_what_is_there(
    client: TestClient, ids: list[str], photos: Path, out: Path
) -> None:
    assert client.get("/api/marks").json() == {"folder": str(out)}
    assert not out.exists()
    (out / "marked-002").mkdir(parents=True)
    (out / "marked-002" / "mine.txt").write_text("mine")
    told = [client.post("/api/marks/keep", json=_collection(ids)).json()["folder"] for _ in range(2)]
    assert told == [str(out / "marked-001"), str(out / "marked-003")]
    _check(out / "marked-003", photos)
    assert [p.name for p in (out / "marked-002").iterdir()] == ["mine.txt"]


def test_without_a_folder_nothing_is_written(photos: Path, ids: list[str]) -> None:
    client = TestClient(application(Session(Reading.load("tiny-dift"), Gallery([str(photos)]))))
    client.base_url = "http://127.0.0.1:1"
    assert client.get("/api/marks").json() == {"folder": None}
    answer = client.post("/api/marks/keep", json=_collection(ids))
    assert answer.status_code == 400
    assert "--out FOLDER" in answer.json()["error"]


def test_a_set_that_no_reader_could_read_is_refused(client: TestClient, ids: list[str]) -> None:
    def refused(**changes: object) -> str:
        answer = client.post("/api/marks", json={**_collection(ids), **changes})
        assert answer.status_code in (400, 404)
        return answer.json()["error"]

    assert "not there" in refused(pairs=[[0, 3]])
    assert "share no point" in refused(pairs=[[1, 1]], pictures=[{"picture": ids[0], "boxes": {"b": [1, 1, 5, 5]}}] * 2)
    assert "only 1 classes" in refused(classes=["ear"])
    assert "name of its own" in refused(classes=["ear", "background"])
    assert "no picture" in refused(pictures=[{"picture": "nowhere", "points": {"a": [1, 1]}}], pairs=[])


def test_pictures_of_one_name_have_files_of_their_own() -> None:
    image = Image.new("RGB", (4, 4))
    names = ["a/cat.jpg", "b/Cat.PNG", "../..", "ca\nt?.png", "cat-2.png"]
    files = marked_files([Marked(name, image, Annotation({"p": (1, 1)})) for name in names])
    assert [n for n in files if n.startswith("images/")] == [
        f"images/{stem}.png" for stem in ("cat", "Cat-2", "picture", "ca_t", "cat-2-2")
    ]


def test_a_painted_mask_is_of_the_size_of_its_picture() -> None:
    painted = Painted(width=2, height=1, runs=[1, 1, 0, 1])
    assert painted.mask((4, 3)).tolist() == [[1, 1, 0, 0]] * 3
    with pytest.raises(InvalidValueError, match="not whole"):
        Painted(width=2, height=1, runs=[]).mask((4, 3))


# Stores


def test_a_store_is_browsed_searched_and_clicked(
    client: TestClient, store: FeatureStore, features: list[FeatureMap], photos: Path
) -> None:
    before = sorted(str(p) for p in Path(str(store.path)).rglob("*"))
    (told,) = client.get("/api/stores").json()["stores"]
    assert (told["name"], told["pictures"], told["maps"]) == ("shelf", 4, store.activations())
    assert client.get("/api/stores/0/names?find=*.png&start=1&most=2").json() == {
        "names": ["1.png", "2.png"],
        "total": 4,
    }
    found = client.post("/api/stores/0/nearest", json={"picture": "0.png", "count": 2}).json()
    right = store.pooled(keep=False).nearest("0.png", 2)
    assert [(p["name"], p["cosine"]) for p in found["pictures"]] == [tuple(s) for s in right]
    body = {"source": "0.png", "point": [12, 9], "pictures": ["1.png", "gone/far.png"]}
    header, heats = unpacked(client.post("/api/stores/0/click", json=body).content)
    best = match(features[0], features[1], [[12, 9]])
    assert [header["matches"][0][k] for k in ("x", "y")] == best.target[0].tolist()
    heat = heat_map(features[0], features[1], (12, 9)).numpy()
    assert np.abs(heats[0] / 255 * (header["high"] - header["low"]) + header["low"] - heat).max() < 0.01
    info = client.get("/api/stores/0/picture", params={"name": "gone/far.png"}).json()
    assert (info["width"], info["height"], info["seen"]) == (40, 30, False)
    assert sorted(str(p) for p in Path(str(store.path)).rglob("*")) == before  # nothing is left by looking


def test_stored_pictures_are_shown_where_they_are_there_and_else_in_colours(client: TestClient, photos: Path) -> None:
    own = client.get("/api/stores/0/image", params={"name": "2.png"})
    assert Image.open(io.BytesIO(own.content)).convert("RGB").tobytes() == open_image(photos / "2.png").tobytes()
    far = client.get("/api/stores/0/image", params={"name": "gone/far.png", "side": 80})
    assert Image.open(io.BytesIO(far.content)).size == (80, 60)
    assert client.get("/api/stores/0/picture", params={"name": "2.png"}).json()["seen"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "nothing.png", "", "/etc/passwd", "0.png\0"])
def test_only_names_of_the_store_are_read(client: TestClient, name: str) -> None:
    for address in ("image", "picture"):
        assert client.get(f"/api/stores/0/{address}", params={"name": name}).status_code == 404
    assert client.post("/api/stores/0/nearest", json={"picture": name}).status_code == 404
    assert client.get("/api/stores/7/names").status_code == 404


# In a notebook


def test_the_page_opens_in_a_cell_and_is_gone_when_that_is_closed(photos: Path) -> None:
    from diffeat.viz import click

    with pytest.raises(UnknownNameError, match="has no view 'explorer'.*'explore'"):
        click([photos / "0.png"], view="explorer")
    cell = click([photos / "0.png", np.zeros((9, 8, 3), np.uint8), torch.zeros(2, 3, 6, 5)], view="match")
    address = cell.address.split("#")[0]
    assert f'<iframe src="{cell.address}"' in cell._repr_html_()
    assert cell.address.endswith("#view=match")
    with urllib.request.urlopen(address, timeout=30) as page:
        policy = page.headers["Content-Security-Policy"]
    assert "frame-ancestors http://localhost:* " in policy
    with urllib.request.urlopen(f"{address}api/pictures", timeout=30) as listed:
        assert listed.read().count(b'"id"') == 3  # two tensors are the same
    root = address.rsplit("/", 2)[0]
    for told, headers, status in (
        ("/", {}, 401), ("/api/pictures", {}, 401), ("/wrong/api/pictures", {}, 401), ("//", {}, 401),
        (f"{address[len(root):]}api/pictures", {"Origin": "http://localhost:8888"}, 403),
        (f"{address[len(root):]}api/pictures", {"Host": "evil.com"}, 403),
    ):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(root + told, headers=headers), timeout=30)
        assert refused.value.code == status, told
    cell.close()
    with pytest.raises(URLError):
        urllib.request.urlopen(address, timeout=5)
