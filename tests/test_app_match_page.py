"""Match and Stores in a browser: what is marked, dragged, painted and kept, by pointer and by keyboard."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("fastapi", reason="the page needs the extra 'app'")

from diffeat.app.gallery import Gallery
from diffeat.app.server import application
from diffeat.app.session import Session
from diffeat.app.shelf import Shelf
from diffeat.datasets import read_csv_pairs, read_folder
from diffeat.extraction import Reading, load_source
from diffeat.features import FeatureMap
from diffeat.storage import FeatureStore
from diffeat.tasks.transfer import Annotation, transfer
from support.browser import browser, served
from test_app_page import PATIENCE, state
from test_app_server import picture

SIZE = (120, 88)
RGB = "RGB patches"  # without a model: what is tested is the page


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> list[FeatureMap]:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        picture(i, SIZE).save(folder / f"{i}.png")
    return load_source("baseline:rgb").extract([folder / f"{i}.png" for i in range(3)])


@pytest.fixture(scope="module")
def address(features: list[FeatureMap], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    photos = Path(features[0].image).parent
    folder = tmp_path_factory.mktemp("stores") / "shelf"
    with FeatureStore.of(folder, load_source("baseline:rgb")) as store:
        store.write_shard([FeatureMap(f.activations, f.frame, Path(f.image).name, f.digest) for f in features])
    gallery = Gallery([str(photos)])
    session = Session(Reading.load("tiny-dift"), gallery)
    app = application(session, shelves=[Shelf(FeatureStore.open(folder), gallery)], out=folder.parent / "out")
    with served(app) as address:
        yield address


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Any]:
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        page.set_default_timeout(PATIENCE)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        assert faults == []


def opened(page: Any, address: str, **told: str) -> None:
    page.goto("about:blank")
    page.goto(f"{address}#{urlencode({'recipe': RGB, **told})}")
    page.locator("#stage .picture").nth(1).wait_for()


def places(page: Any, side: int) -> dict[str, tuple[float, float]]:
    """Points on one of the two pictures, by the names they bear."""
    told = (
        page.locator(".pair-of-pictures .area")
        .nth(side)
        .locator(".mark.point")
        .evaluate_all("marks => marks.map(m => [m.textContent, parseFloat(m.style.left), parseFloat(m.style.top)])")
    )
    return {name: (x / 100 * SIZE[0] - 0.5, y / 100 * SIZE[1] - 0.5) for name, x, y in told}


def at(page: Any, side: int, x: float, y: float) -> tuple[float, float]:
    """Where a place of a picture lies on the screen."""
    box = page.locator(".pair-of-pictures .area").nth(side).bounding_box()
    return box["x"] + (x + 0.5) / SIZE[0] * box["width"], box["y"] + (y + 0.5) / SIZE[1] * box["height"]


def test_points_are_found_corrected_named_and_kept(
    tab: Any, address: str, features: list[FeatureMap], tmp_path: Path
) -> None:
    opened(tab, address, view="match")
    tab.mouse.click(*at(tab, 0, 40, 30))
    tab.mouse.click(*at(tab, 0, 90, 60))
    tab.locator(".matches tbody tr").nth(1).locator("td", has_text="0.").first.wait_for()
    tab.locator(".pair-of-pictures .area").nth(1).locator(".mark.point").nth(1).wait_for()
    source = places(tab, 0)
    right = transfer(features[0], features[1], Annotation(source)).points
    for name, (x, y) in places(tab, 1).items():
        assert (x, y) == pytest.approx(right[name].at, abs=0.1)
    tab.mouse.move(*at(tab, 1, *places(tab, 1)["2"]))
    tab.mouse.down()
    tab.mouse.move(*at(tab, 1, 10, 12), steps=3)
    tab.mouse.up()
    tab.locator(".matches", has_text="corrected").wait_for()
    assert places(tab, 1)["2"] == pytest.approx((10, 12), abs=1)
    assert len(places(tab, 0)) == 2  # the end of a drag is no click
    tab.get_by_role("textbox", name="Name of point 2").fill("left ear")
    tab.keyboard.press("Enter")
    tab.locator(".mark.point", has_text="left ear").first.wait_for()
    link = tab.url
    tab.get_by_role("button", name="Points", exact=True).focus()
    opened(tab, address, view="match")
    tab.goto("about:blank")
    tab.goto(link)
    tab.locator(".pair-of-pictures .area").nth(1).locator(".mark.point", has_text="left ear").wait_for()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save set as zip").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as kept:
        kept.extractall(tmp_path)
    (pair,) = read_csv_pairs(tmp_path / "pairs.csv")
    assert pair.target_points[1] == pytest.approx(places(tab, 1)["left ear"], abs=0.02)


def test_a_mask_and_a_box_are_drawn_and_found(tab: Any, address: str, tmp_path: Path) -> None:
    opened(tab, address, view="match", mark="boxes")
    tab.mouse.move(*at(tab, 0, 20, 20))
    tab.mouse.down()
    tab.mouse.move(*at(tab, 0, 80, 70), steps=3)
    tab.mouse.up()
    tab.locator(".pair-of-pictures .area").nth(0).locator(".frame", has_text="box 1").wait_for()
    tab.get_by_role("button", name="Mask").click()
    tab.get_by_role("textbox", name="Name of a new class").fill("dark, part")
    tab.keyboard.press("Enter")
    tab.mouse.move(*at(tab, 0, 30, 40))
    tab.mouse.down()
    tab.mouse.move(*at(tab, 0, 60, 40), steps=4)
    tab.mouse.up()
    drawn_until = time.monotonic() + PATIENCE / 1000  # asked from here: the page's policy forbids to wait inside it
    while tab.evaluate("document.querySelectorAll('.pair-of-pictures .overlay')[1].width") <= 1:
        assert time.monotonic() < drawn_until
        tab.wait_for_timeout(50)
    tab.get_by_role("button", name="Write set to folder").click()
    tab.locator("#status", has_text="Written to").wait_for()
    folder = Path(tab.locator("#status").inner_text().removeprefix("Written to ").rstrip("."))
    data = read_folder(folder, "train")
    assert data.classes == ("background", "object", "dark, part")
    labels = data[0].labels(3)
    assert labels[40, 45] == 2
    assert labels[80, 100] == 0


def test_points_are_set_by_keyboard(tab: Any, address: str) -> None:
    opened(tab, address, view="match")
    tab.locator(".pair-of-pictures .area").first.focus()
    for key in ("ArrowRight", "Enter"):
        tab.keyboard.press(key)
    tab.locator(".matches tbody tr").first.wait_for()
    assert places(tab, 0)["1"] == pytest.approx((59.5 + 2, 43.5), abs=0.01)
    tab.get_by_role("button", name="Take point 1 away").press("Enter")
    tab.locator(".mark.point").first.wait_for(state="detached")


def test_a_store_is_browsed_and_clicked(tab: Any, address: str) -> None:
    tab.goto("about:blank")
    tab.goto(f"{address}#view=stores")
    tab.get_by_role("searchbox", name="Find by name").fill("*1.png")
    tab.locator(".names button", has_text="1.png").wait_for()
    tab.locator(".names button").nth(1).wait_for(state="detached")
    tab.locator(".names button").first.click()
    tab.locator("#stage .picture").nth(2).wait_for()
    area = tab.locator("#stage .area").first
    area.click(position={"x": 40, "y": 30})
    tab.locator("#stage .mark.match").nth(1).wait_for()
    assert state(tab)["stored"] == "1.png"
    tab.reload()
    tab.locator("#stage .mark.match").nth(1).wait_for()
    tab.get_by_role("button", name="Take with you").click()
    tab.locator("dialog pre", has_text="diffeat store nearest").wait_for()
    tab.keyboard.press("Escape")


@pytest.mark.parametrize("view", ["match", "stores"])
def test_views_fit_and_axe_finds_nothing_serious(tab: Any, address: str, view: str) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe comes with axe-playwright-python")
    from importlib.resources import files

    told = {"match": {"marks": "1,40,30;2,90,60"}, "stores": {"stored": "1.png", "from": "1.png", "spot": "40,30"}}
    opened(tab, address, view=view, **told[view])
    tab.locator("#stage .mark").nth(2).wait_for()
    tab.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        found = tab.evaluate("async () => (await axe.run()).violations")
        serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == []
    for width in (320, 768, 3840):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    tab.set_viewport_size({"width": 1280, "height": 900})
