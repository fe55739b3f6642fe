"""The server of the page: who may speak to it, what it reads, and that it says what Python says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shlex
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
import typer
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra 'app'")
from starlette.testclient import TestClient

import diffeat
from diffeat.app import gallery as gallery_module
from diffeat.app.bounds import load_of
from diffeat.app.gallery import Gallery
from diffeat.app.line import Busy, Line, Stopped, stopped_by, while_wanted
from diffeat.app.server import application
from diffeat.app.session import Session
from diffeat.cli.command import given
from diffeat.cli.main import app as commands
from diffeat.cli.main import main
from diffeat.errors import DiffeatError, ImageError, InvalidValueError
from diffeat.extraction import Reading, Recipe
from diffeat.refinement.stats import ChannelStatistics
from diffeat.tasks.correspondence import heat_map
from diffeat.viz import pca_colours

ASKED = {"timesteps": [50], "draws": 1}


def picture(seed: int, size: tuple[int, int] = (60, 44)) -> Image.Image:
    """Smooth blobs, so that neighbouring cells differ a little."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def unpacked(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    (length,) = struct.unpack("<I", data[:4])
    header, at, arrays = json.loads(data[4 : 4 + length]), 4 + length, []
    for told in header["arrays"]:
        count = int(np.prod(told["shape"]))
        array = np.frombuffer(data, np.dtype(told["type"]).newbyteorder("<"), count, at).reshape(told["shape"])
        arrays.append(array)
        at += -(-array.nbytes // 8) * 8
    return header, arrays


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        picture(i).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="module")
def session(photos: Path) -> Session:
    reading = Reading.load("tiny-dift").replace(**{"frame.longer": 64, "trajectory.draws": 1})
    return Session(reading, Gallery([str(photos)]))


@pytest.fixture(scope="module")
def client(session: Session) -> Iterator[TestClient]:
    with TestClient(application(session), base_url="http://127.0.0.1:1234") as client:
        yield client


@pytest.fixture(scope="module")
def ids(client: TestClient) -> list[str]:
    listed = client.get("/api/pictures").json()["pictures"]
    return [told["id"] for told in listed if "error" not in told]


def features(session: Session, ids: list[str], **changes: Any) -> list[diffeat.FeatureMap]:
    """What Python gives for the pictures, by the recipe of the session."""
    recipe = next(iter(session.offered.values())).replace(**changes)
    source = session.source(recipe)
    return [source.extract(session.gallery[id].picture())[0] for id in ids]


# Who may speak


@pytest.mark.parametrize(
    "host", ["evil.com", "127.0.0.1.evil.com:1234", "localhost.evil.com", "", "[::2]:1234", "0.0.0.0"]
)
def test_another_name_is_refused(client: TestClient, host: str) -> None:
    """A site whose name points to this machine would otherwise read answers."""
    answer = client.get("/api/session", headers={"Host": host})
    assert answer.status_code == 403
    assert "error" in answer.json()


@pytest.mark.parametrize("host", ["127.0.0.1:1234", "localhost:1", "[::1]:80", "LOCALHOST"])
def test_its_own_names_are_taken(client: TestClient, host: str) -> None:
    assert client.get("/api/pictures", headers={"Host": host}).status_code == 200


def test_a_known_port_is_asked_for(session: Session) -> None:
    client = TestClient(application(session, port=7860))
    assert client.get("/api/pictures", headers={"Host": "127.0.0.1:7860"}).status_code == 200
    assert client.get("/api/pictures", headers={"Host": "127.0.0.1:7861"}).status_code == 403


@pytest.mark.parametrize("method", ["get", "post", "delete", "put", "options"])
@pytest.mark.parametrize("origin", ["http://evil.com", "null", "http://127.0.0.1:99", "https://127.0.0.1:1234"])
def test_pages_of_other_sites_are_refused(client: TestClient, method: str, origin: str) -> None:
    assert getattr(client, method)("/api/pictures", headers={"Origin": origin}).status_code == 403


def test_the_page_itself_is_taken(client: TestClient) -> None:
    own = {"Origin": "http://127.0.0.1:1234", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/pictures", headers=own).status_code == 200


def test_another_site_may_link_to_the_page_and_no_more(client: TestClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/api/session", headers=link).status_code == 403
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/", headers=image).status_code == 403


def test_other_machines_need_the_token(session: Session) -> None:
    app = application(session, host="0.0.0.0", port=80, token="s3cret")
    client = TestClient(app, base_url="http://192.168.1.7", follow_redirects=False)
    assert client.get("/").status_code == client.get("/api/pictures").status_code == 401
    assert client.get("/?token=wrong").status_code == client.get("/?token=").status_code == 401
    assert client.get("/api/pictures?token=s3cret").status_code == 401, "an address of the API would lie in logs"
    assert client.get("/api/pictures", headers={"Cookie": "diffeat-token=; a=\x7f"}).status_code == 401
    opened = client.get("/?token=s3cret")
    assert opened.status_code == 303
    assert "s3cret" not in opened.headers["location"]
    assert {"HttpOnly", "SameSite=strict"} <= set(opened.headers["set-cookie"].split("; "))
    assert client.get("/api/pictures").status_code == 200
    fresh = TestClient(app, base_url="http://192.168.1.7")
    assert fresh.get("/api/pictures", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert fresh.get("/?token=s3cret", headers={"Host": "evil.com"}).status_code == 403


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/session", "/api/nothing", "/api/pictures/x/image"])
def test_every_answer_binds_the_page(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_the_page_holds_no_code_of_its_own_and_names_no_other_server() -> None:
    static = Path(gallery_module.__file__).parent / "static"
    page = (static / "index.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count('<script type="module" src="main.js"></script>') == 1
    assert "style=" not in page
    assert " on" not in page.replace(" one", "")
    for file in static.rglob("*"):
        if file.suffix in (".js", ".html", ".css"):
            text = file.read_text(encoding="utf-8")
            assert "https://" not in text, file
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), file
            assert not [w for w in ("innerHTML", "eval(", "outerHTML", "insertAdjacentHTML") if w in text], file


# What it reads


@pytest.mark.parametrize(
    "path", ["..%2f..%2fetc%2fpasswd", "....//etc/passwd", "%2e%2e/server.py", "../server.py", "%00"]
)
def test_nothing_is_read_outside(client: TestClient, path: str) -> None:
    for before in ("/", "/api/pictures/", "/views/"):
        answer = client.get(before + path)
        assert answer.status_code in (400, 404, 405, 422)
        assert "root:" not in answer.text
        assert "import" not in answer.text


def test_links_out_of_the_given_folders_are_refused(tmp_path: Path) -> None:
    given, outside = tmp_path / "given", tmp_path / "outside"
    given.mkdir()
    outside.mkdir()
    picture(1).save(outside / "secret.png")
    picture(2).save(given / "own.png")
    os.symlink(outside / "secret.png", given / "file.png")
    os.symlink(given / "own.png", given / "inside.png")
    pictures = Gallery([str(given)])
    assert sorted(Path(entry.name).name for entry in pictures.entries()) == ["inside.png", "own.png"]
    assert "file.png" in " ".join(pictures.passed)
    both = Gallery([str(given), str(outside)])
    assert len(both) == 4, "a link may lead to another folder that was given"
    alone = Gallery([str(given / "file.png")])
    assert len(alone) == 1, "a link that is given itself was meant"


def test_a_link_that_is_made_later_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    picture(1).save(tmp_path / "secret.png")
    picture(2).save(given / "own.png")
    (entry,) = Gallery([str(given)]).entries()
    (given / "own.png").unlink()
    os.symlink(tmp_path / "secret.png", given / "own.png")
    samples = Gallery()
    for read in (lambda: entry.picture().image, lambda: entry.picture().digest, lambda: samples.size(entry)):
        with pytest.raises(ImageError, match="folders that were given"):
            read()


def test_a_glob_reads_where_its_folder_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture(1).save(tmp_path / "a" / "x.png")
    picture(1).save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", tmp_path / "a" / "y.png")
    assert [e.name for e in Gallery([str(tmp_path / "a" / "*.png")]).entries()] == [str(tmp_path / "a" / "x.png")]


def test_no_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="no pictures"):
        Gallery([str(tmp_path)])
    with pytest.raises(InvalidValueError, match=r"gone\.png"):
        Gallery([str(tmp_path / "gone.png")])


def test_the_list(client: TestClient) -> None:
    told = client.get("/api/pictures").json()
    assert told["total"] == 4
    by_name = {Path(each["name"]).name: each for each in told["pictures"]}
    assert (by_name["0.png"]["width"], by_name["0.png"]["height"]) == (60, 44)
    assert "broken.png" in by_name["broken.png"]["error"]
    assert [Path(p["name"]).name for p in client.get("/api/pictures?find=1.PNG").json()["pictures"]] == ["1.png"]
    assert len(client.get("/api/pictures?offset=1&limit=2").json()["pictures"]) == 2


def test_a_picture_is_seen_upright(client: TestClient, session: Session) -> None:
    turned = picture(3, (60, 40))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(file, "JPEG", exif=exif)
    told = client.post("/api/pictures?name=turned.jpg", content=file.getvalue()).json()
    assert (told["width"], told["height"]) == (40, 60)
    seen = Image.open(io.BytesIO(client.get(f"/api/pictures/{told['id']}/image").content))
    assert seen.size == (40, 60)
    assert max(Image.open(io.BytesIO(client.get(f"/api/pictures/{told['id']}/image?side=32").content)).size) == 32
    assert client.delete(f"/api/pictures/{told['id']}").status_code == 204


def test_uploads(client: TestClient, session: Session) -> None:
    first = client.post("/api/pictures?name=../../x%00%0a.png", content=encoded(picture(9)))
    assert first.status_code == 200
    told = first.json()
    assert "/" not in told["name"]
    assert "\n" not in told["name"]
    again = client.post("/api/pictures?name=y.png", content=encoded(picture(9))).json()
    assert again["id"] == told["id"]
    assert client.get("/api/pictures").json()["pictures"][0]["id"] == told["id"]
    assert client.post("/api/features", json={"asked": ASKED, "picture": told["id"]}).status_code == 200
    assert client.delete(f"/api/pictures/{told['id']}").status_code == 204
    gone = client.post("/api/features", json={"asked": ASKED, "picture": told["id"]})
    assert gone.status_code == 404
    assert "drop it again" in gone.json()["error"]


def test_a_given_picture_is_not_taken_away(client: TestClient, ids: list[str]) -> None:
    client.delete(f"/api/pictures/{ids[0]}")
    assert client.get(f"/api/pictures/{ids[0]}").status_code == 200


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", encoded(picture(1))[:80], encoded(picture(1), "JPEG")[:300], b"GIF89a" + bytes(20), b"%!PS-Adobe"],
    ids=["empty", "text", "cut png", "cut jpeg", "header only", "postscript"],
)
def test_what_is_no_picture_is_refused_in_words(client: TestClient, data: bytes) -> None:
    answer = client.post("/api/pictures?name=holiday.png", content=data)
    assert answer.status_code == 400
    assert "holiday.png" in answer.json()["error"]


def test_too_large_files_are_refused_and_not_kept(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffeat.app.routes.pictures as route

    monkeypatch.setattr(route, "MOST_BYTES", 1000)
    answer = client.post("/api/pictures?name=huge.png", content=bytes(5000))
    assert answer.status_code == 413
    assert "huge.png is larger than" in answer.json()["error"]


def test_too_many_pixels_are_refused_before_they_are_decoded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = encoded(Image.new("1", (12_000, 12_000)))
    assert len(bomb) < 100_000
    opened = []
    monkeypatch.setattr(gallery_module.Fetched, "open", lambda self: opened.append(self))
    answer = client.post("/api/pictures?name=bomb.png", content=bomb)
    assert answer.status_code == 400
    assert "144 million pixels" in answer.json()["error"]
    assert opened == []


def test_the_number_and_the_sum_of_uploads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "MOST_UPLOADS", 2)
    pictures = Gallery()
    for seed in (1, 2, 2):
        pictures.upload("x.png", encoded(picture(seed)))
    with pytest.raises(InvalidValueError, match="Take some away"):
        pictures.upload("x.png", encoded(picture(3)))
    monkeypatch.setattr(gallery_module, "MOST_UPLOADS", 99)
    monkeypatch.setattr(gallery_module, "MOST_TOGETHER", 2 * len(encoded(picture(1))))
    with pytest.raises(InvalidValueError, match="Take some away"):
        pictures.upload("x.png", encoded(picture(4)))


# What it says


def test_a_click_is_what_match_gives(client: TestClient, session: Session, ids: list[str]) -> None:
    asked = {"asked": ASKED, "source": ids[0], "point": [17.3, 30.0], "pictures": ids}
    header, heats = unpacked(client.post("/api/click", json=asked).content)
    maps = features(session, ids, **{"trajectory.timesteps": (50,)})
    low, high = header["low"], header["high"]
    for told, heat, target in zip(header["matches"], heats, maps, strict=True):
        found = diffeat.match(maps[0], target, [[17.3, 30.0]])
        assert [told["x"], told["y"]] == found.target[0].tolist()
        assert told["similarity"] == pytest.approx(found.similarity[0].item(), abs=1e-6)
        exact = heat_map(maps[0], target, [17.3, 30.0]).numpy()
        assert heat.shape == exact.shape == (44, 60)
        np.testing.assert_allclose(heat / 255 * (high - low) + low, exact, atol=(high - low) / 500)


def test_features_go_out_in_half_precision(client: TestClient, session: Session, ids: list[str]) -> None:
    body = {"asked": ASKED, "picture": ids[1]}
    header, (sent,) = unpacked(client.post("/api/features", json=body).content)
    exact = features(session, ids[1:2], **{"trajectory.timesteps": (50,)})[0]
    scale = float(exact.tensor.abs().max())
    np.testing.assert_allclose(sent.astype(np.float32) * scale, exact.tensor.numpy(), atol=scale * 2**-11)
    assert header["frame"]["original"] == [60, 44]
    assert header["rows"] == 1
    assert unpacked(client.post("/api/features", json=body).content)[0]["cached"]


def test_large_features_stay(client: TestClient, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import diffeat.app.routes.features as route

    monkeypatch.setattr(route, "MOST_SENT", 10)
    header, arrays = unpacked(client.post("/api/features", json={"asked": ASKED, "picture": ids[0]}).content)
    assert arrays == []
    assert header["maps"][0]["shape"][0] == 96


def test_colours_channels_and_statistics(client: TestClient, session: Session, ids: list[str]) -> None:
    body = {"asked": ASKED, "pictures": ids}
    maps = [f.tensor for f in features(session, ids, **{"trajectory.timesteps": (50,)})]
    _, colours = unpacked(client.post("/api/pca", json=body).content)
    for got, wanted in zip(colours, pca_colours(maps, shared=True), strict=True):
        np.testing.assert_array_equal(got, wanted)
    header, channels = unpacked(client.post("/api/channel", json={**body, "channel": 5}).content)
    for got, wanted in zip(channels, maps, strict=True):
        value = got / 255 * (header["high"] - header["low"]) + header["low"]
        np.testing.assert_allclose(value, wanted[5].numpy(), atol=(header["high"] - header["low"]) / 500)
    wrong = client.post("/api/channel", json={**body, "channel": 96})
    assert wrong.status_code == 400
    assert "0 to 95" in wrong.json()["error"]
    statistics = ChannelStatistics(96)
    for each in maps:
        statistics.update(each.flatten(1).T)
    told = client.post("/api/statistics", json=body).json()
    assert told["gini"] == pytest.approx(statistics.gini)
    assert [each["channel"] for each in told["top"]] == statistics.top(8)


def test_a_strip_is_its_single_maps(client: TestClient, session: Session, ids: list[str]) -> None:
    asked = {**ASKED, "timesteps": [10, 300]}
    body = {"asked": asked, "picture": ids[1], "source": ids[0], "point": [20, 20]}
    header, heats = unpacked(client.post("/api/strip", json=body).content)
    assert len(header["maps"]) == len(heats) == 2
    for t, told in zip((10, 300), header["matches"], strict=True):
        one, other = features(session, ids[:2], **{"trajectory.timesteps": (t,)})
        found = diffeat.match(one, other, [[20, 20]])
        assert told["similarity"] == pytest.approx(found.similarity[0].item(), abs=1e-5)
    _, colours = unpacked(client.post("/api/strip", json={"asked": asked, "picture": ids[1]}).content)
    for half in ({"source": ids[0]}, {"point": [3, 4]}):
        refused = client.post("/api/strip", json={"asked": asked, "picture": ids[1], **half})
        assert refused.status_code == 422
        assert "source and point go together" in refused.text
    assert [c.shape[-1] for c in colours] == [3, 3]


def test_words_and_parts(client: TestClient, session: Session, ids: list[str]) -> None:
    body = {"asked": ASKED, "picture": ids[0], "words": ["circle", "sky"]}
    header, (labels, heights) = unpacked(client.post("/api/words", json=body).content)
    assert labels.shape == (44, 60)
    assert heights.shape == (2, 44, 60)
    assert header["pictures"][0]["names"] == ["circle", "sky"]
    best = np.where(heights.max(0) > 128, heights.argmax(0) + 1, 0)
    assert (best == labels).mean() > 0.95
    split = {"asked": ASKED, "pictures": ids, "method": "kmeans", "parts": 3}
    header, masks = unpacked(client.post("/api/parts", json=split).content)
    assert [len(told["names"]) for told in header["pictures"]] == [3, 3, 3]
    assert {int(v) for mask in masks for v in np.unique(mask)} <= {1, 2, 3}
    assert client.post("/api/parts", json={**split, "method": "merging"}).status_code == 400


def test_the_map_is_the_catalogue(client: TestClient, session: Session) -> None:
    catalogue = diffeat.Catalogue.of(session.extractor.backbone)
    every = client.get("/api/activations").json()["activations"]
    assert [a["id"] for a in every] == [a.id for a in catalogue]
    globbed = client.get("/api/activations", params={"find": "up_blocks.*.resnets.*"}).json()["activations"]
    assert [a["id"] for a in globbed] == [a.id for a in catalogue.find("up_blocks.*.resnets.*")]
    words = client.get("/api/activations", params={"find": "UP attn1 attention-q"}).json()["activations"]
    assert words
    assert all("attn1" in a["id"] and a["kind"] == "attention-q" for a in words)
    nothing = client.get("/api/activations", params={"find": "up_block.*"})
    assert nothing.status_code == 404
    assert nothing.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"asked": {"activations": ["up_block.1"]}}, 404, "up_blocks.1"),
        ({"asked": {"timesteps": [2000]}}, 400, "2000"),
        ({"asked": {"recipe": "/etc/passwd"}}, 404, "not offered"),
        ({"asked": {"recipe": "RGB patches", "timesteps": [5]}}, 400, "as it is"),
        ({"asked": {"model": "other"}}, 422, "model"),
        ({"asked": {"draws": 10**9}}, 422, "draws"),
        ({"asked": {"activations": ["x"] * 99}}, 422, "activations"),
        ({"asked": {"size": 7}}, 422, "size"),
        ({"asked": {"prompt": "x" * 5000}}, 422, "prompt"),
        ({"picture": "0" * 12}, 404, "no picture"),
    ],
)
def test_wrong_wishes_are_answered_in_words(
    client: TestClient, ids: list[str], body: dict[str, Any], status: int, word: str
) -> None:
    answer = client.post("/api/features", json={"picture": ids[0], **body})
    assert answer.status_code == status, answer.text
    assert word in answer.json()["error"]


def test_points_outside_are_told(client: TestClient, ids: list[str]) -> None:
    for point, status in (([900, 3], 400), ([-5, 3], 400), (["NaN", 1], 422), ([1], 422), ([1e300, 0], 422)):
        body = {"asked": ASKED, "source": ids[0], "point": point, "pictures": ids[:1]}
        answer = client.post("/api/click", json=body)
        assert answer.status_code == status
        assert answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("features", {"asked": {"size": 256, "draws": 64, "timesteps": [*range(24)]}}, "forward passes"),
        ("features", {"asked": {"size": 2048, "draws": 2}}, "forward passes"),
        ("words", {"asked": {"size": 2048, "draws": 2}, "words": ["a"]}, "forward passes"),
        ("parts", {"asked": {"size": 2048, "draws": 2}, "method": "merging"}, "forward passes"),
        (
            "features",
            {"asked": {"size": 1024, "activations": ["up_blocks.2.**.attn1.map"], "draws": 1, "timesteps": [1, 2, 3]}},
            "GB of features",
        ),
    ],
)
def test_what_would_take_hours_or_all_memory_is_refused(
    client: TestClient, session: Session, ids: list[str], body: dict[str, Any], path: str, word: str
) -> None:
    place = {"pictures": ids} if path == "parts" else {"picture": ids[0]}
    answer = client.post(f"/api/{path}", json={**place, **body})
    assert answer.status_code == 400, answer.text
    assert word in answer.json()["error"]


def test_the_load_of_a_picture_is_counted(session: Session) -> None:
    """Own size 128×128: at 256 pixels four times as many, each eight times as long; up_blocks.1 has 128×16×16 there."""
    recipe = session.extractor.recipe.replace(
        **{"frame": {"mode": "squash", "size": 256}, "trajectory.timesteps": (5, 50), "trajectory.draws": 3},
        activations=("up_blocks.1",),
        fuse=None,
    )
    assert load_of(session.source(recipe), (60, 44)) == (2 * 3 * 8, 2 * 128 * 32 * 32)
    assert load_of(session.source(Recipe.load("baseline:rgb")), (60, 44)) == (0, 0)


def test_searches_are_bounded_by_pixels_and_pairs(
    client: TestClient, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {"asked": ASKED, "source": ids[0], "target": ids[1]}
    with monkeypatch.context() as patch:
        patch.setattr("diffeat.app.bounds.PIXELS", 60 * 44 * 2)
        click = {"asked": ASKED, "source": ids[0], "point": [5, 5]}
        assert client.post("/api/click", json={**click, "pictures": ids[:2]}).status_code == 200
        answer = client.post("/api/click", json={**click, "pictures": ids})
        assert answer.status_code == 400
        assert "million pixels" in answer.json()["error"]
        marks = {"pictures": [{"picture": id, "points": {"a": [1, 2]}} for id in ids]}
        assert "million pixels" in client.post("/api/marks", json=marks).json()["error"]
    with monkeypatch.context() as patch:
        patch.setattr("diffeat.app.bounds.PRODUCTS", 100)
        patch.setattr("diffeat.app.bounds.SPLIT", 100)
        patch.setattr("diffeat.app.bounds.SEARCHED", 2 * 60 * 44)
        points = {"picture": ids[0], "points": {"a": [1, 2]}}
        assert client.post("/api/transfer", json={**pair, "source": points}).status_code == 200
        boxed = {**points, "boxes": {"b": [1, 2, 30, 30]}}
        assert "looked for" in client.post("/api/transfer", json={**pair, "source": boxed}).json()["error"]
        assert "compared" in client.post("/api/suggest", json=pair).json()["error"]
        mask = {"width": 2, "height": 1, "runs": [0, 1, 1, 1]}
        carried = {**pair, "source": {"picture": ids[0], "mask": mask}}
        assert "compared" in client.post("/api/transfer", json=carried).json()["error"]
        split = client.post("/api/parts", json={"asked": ASKED, "pictures": ids, "parts": 3})
        assert "splits" in split.json()["error"]


def test_a_body_is_bounded(client: TestClient) -> None:
    answer = client.post("/api/features", content=b" " * (3 << 20), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_recipes_on_offer_keep_their_names_apart() -> None:
    reading = Reading.load("tiny-dift").replace(seed=5)
    mine = reading.replace(name="mine")
    offered = Session(reading, Gallery(), [mine, mine.replace(seed=6), Recipe.load("baseline:rgb")]).offered
    assert list(offered)[:4] == ["tiny-dift", "mine", "mine #2", "RGB patches"]
    assert offered["tiny-dift"] is reading
    assert offered["mine #2"].content()["seed"] == 6
    assert {"hyperfeatures-tiny", "ditf-tiny", "DAISY"} <= set(offered)
    assert not {"dift-sd21", "gate-tiny"} & set(offered)


# What one leaves with


def test_the_python_lines_give_the_clicked_point(
    client: TestClient,
    session: Session,
    ids: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diffeat.load_source", session.source)
    point = {"source": ids[0], "point": [17.3, 30.0]}
    told = client.post("/api/leave", json={"asked": ASKED, "of": "similarity", "pictures": ids[:2], **point}).json()
    exec(told["python"], {})
    printed = capsys.readouterr().out.splitlines()
    header, _ = unpacked(client.post("/api/click", json={"asked": ASKED, "pictures": ids[:2], **point}).content)
    for line, match in zip(printed, header["matches"], strict=True):
        assert f"[{match['x']}, {match['y']}]" in line


@pytest.mark.parametrize(
    "view",
    [
        {"of": "similarity", "point": [17, 30]},
        {"of": "pca"},
        {"of": "strip", "asked": {"timesteps": [5, 50], "draws": 1}, "point": [17, 30]},
        {"of": "strip", "asked": {"timesteps": [5, 50], "draws": 1}},
        {"of": "words", "words": ["sky", "a circle"], "asked": {**ASKED, "prompt": "a circle in the sky"}},
        {"of": "parts", "parts": 3},
        {"of": "parts", "method": "merging"},
    ],
    ids=lambda view: "-".join([view["of"], *sorted(view)]),
)
def test_every_view_leaves_lines_that_run_and_a_command_that_is_taken(
    client: TestClient, session: Session, ids: list[str], view: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    point = {"source": ids[1]} if "point" in view else {}
    answer = client.post("/api/leave", json={"asked": ASKED, "pictures": ids[:2], **point, **view})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    recipe = Recipe.from_yaml(told["yaml"])
    monkeypatch.setattr("diffeat.load_source", lambda given: session.source(given) if given == recipe else None)
    exec(told["python"], {})
    root = typer.main.get_command(commands)
    for line in told["command"].splitlines():
        words = shlex.split(line)
        command = root.commands[words[1]]
        context = command.make_context(words[1], words[2:], resilient_parsing=False)
        assert given(context)["recipe"] == ["recipe.yaml"]


def test_what_is_not_there_yet_cannot_be_taken(client: TestClient, ids: list[str]) -> None:
    for view, word in (({"of": "similarity"}, "click"), ({"of": "words"}, "words")):
        answer = client.post("/api/leave", json={"pictures": ids[:1], **view})
        assert answer.status_code == 400
        assert word in answer.json()["error"]


# One at a time


class Asks:
    """A browser that stays until it is told to leave."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def test_computations_wait_for_one_another_and_the_line_is_bounded() -> None:
    running: list[int] = []
    most: list[int] = []
    go = threading.Event()

    def work() -> int:
        running.append(1)
        most.append(len(running))
        go.wait(30)
        running.pop()
        return 1

    async def scene() -> None:
        line = Line(longest=3)
        waiting = [asyncio.create_task(line.run(Asks(), work)) for _ in range(3)]  # pyright: ignore[reportArgumentType]
        while not running:
            await asyncio.sleep(0.001)
        with pytest.raises(Busy, match="3 computations"):
            await line.run(Asks(), work)  # pyright: ignore[reportArgumentType]
        go.set()
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        assert await line.run(Asks(), work) == 1  # pyright: ignore[reportArgumentType]

    asyncio.run(scene())
    assert max(most) == 1


def test_what_nobody_waits_for_is_ended() -> None:
    begun = threading.Event()
    calls: list[int] = []

    def work() -> None:
        module = torch.nn.Identity()
        while True:
            calls.append(1)
            begun.set()
            module(torch.zeros(1))

    async def scene() -> None:
        line = Line()
        browser, other = Asks(), Asks()
        first = asyncio.create_task(line.run(browser, work))  # pyright: ignore[reportArgumentType]
        second = asyncio.create_task(line.run(other, work))  # pyright: ignore[reportArgumentType]
        await asyncio.to_thread(begun.wait, 30)
        other.leaves.set()  # while it waits
        browser.leaves.set()  # while it runs
        for task in (first, second):
            with pytest.raises(Stopped):
                await task
        ended = len(calls)
        assert await line.run(Asks(), lambda: "free") == "free"  # pyright: ignore[reportArgumentType]
        assert len(calls) == ended

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_what_calls_no_network_ends_as_well() -> None:
    stop = threading.Event()
    with stopped_by(stop):
        items = while_wanted(range(9))
        assert [next(items), next(items)] == [0, 1]
        stop.set()
        with pytest.raises(Stopped):
            next(items)
    assert list(while_wanted("ab")) == ["a", "b"], "outside nothing is stopped"


def test_a_stopped_server_ends_what_runs() -> None:
    async def scene() -> None:
        line = Line()
        begun = threading.Event()

        def work() -> None:
            while True:
                begun.set()
                torch.nn.Identity()(torch.zeros(1))

        task = asyncio.create_task(line.run(Asks(), work))  # pyright: ignore[reportArgumentType]
        await asyncio.to_thread(begun.wait, 30)
        line.close()
        with pytest.raises(Stopped):
            await task

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_forward_pass_ends_in_its_midst_and_leaves_the_model_as_it_was(session: Session, ids: list[str]) -> None:
    backbone = session.extractor.backbone
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.denoiser.modules()]
    stop = threading.Event()
    recipe = session.extractor.recipe.replace(**{"trajectory.timesteps": (77,)})
    source = session.source(recipe)
    handle = backbone.denoiser.mid_block.register_forward_pre_hook(lambda *_: stop.set())
    try:
        with stopped_by(stop), pytest.raises(Stopped):
            source.extract(session.gallery[ids[0]].picture())
    finally:
        handle.remove()
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.denoiser.modules()]
    stop.set()
    assert source.extract(session.gallery[ids[0]].picture())[0].tensor.isfinite().all(), "others are not stopped"


def test_a_server_leaves_no_file(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TestClient(application(session), base_url="http://127.0.0.1") as client:
        told = client.post("/api/pictures?name=x.png", content=encoded(picture(8))).json()
        client.get(f"/api/pictures/{told['id']}/image")
        assert client.post("/api/features", json={"asked": ASKED, "picture": told["id"]}).status_code == 200
        client.delete(f"/api/pictures/{told['id']}")
    assert list(tmp_path.iterdir()) == []


# The command


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped_and_leaves_no_file(tmp_path: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "diffeat", "app", "--no-browser", "--port", "0", "--size", "64"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[1]
    with urlopen(f"{address}api/session", timeout=300) as answer:
        assert json.load(answer)["model"] == "tiny-unet"
    upload = Request(f"{address}api/pictures?name=x.png", encoded(picture(5)))
    with urlopen(upload, timeout=300) as answer:
        id = json.load(answer)["id"]
    with urlopen(f"{address}api/pictures/{id}/image", timeout=300) as answer:
        assert answer.read(4) == b"\x89PNG"
    body = json.dumps({"asked": {"draws": 64, "timesteps": [1, 2, 3, 4]}, "picture": id}).encode()
    work = Request(f"{address}api/features", body, {"Content-Type": "application/json"})
    running = threading.Thread(target=ignored, args=(work,))  # is cut off in its midst
    running.start()
    taken = subprocess.run([*command[:5], "--port", address.split(":")[-1].strip("/")], capture_output=True, text=True)
    assert taken.returncode == 2
    assert "--port" in taken.stderr
    process.send_signal(stop)
    assert process.wait(300) in (0, 128 + stop, -stop)
    running.join(60)
    assert list(tmp_path.iterdir()) == []


def ignored(request: Request) -> None:
    with contextlib.suppress(OSError, HTTPException), urlopen(request, timeout=300) as answer:
        answer.read()


def test_the_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        main(["app"])
    assert "pip install 'diffeat[app]'" in capsys.readouterr().err


def test_errors_of_a_user_are_no_faults_of_the_server() -> None:
    """Every kind of error that is raised on purpose has an answer below 500."""
    from diffeat.app.server import status_of

    kinds = [DiffeatError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert all(400 <= status_of(kind.__new__(kind)) < 500 for kind in kinds)
