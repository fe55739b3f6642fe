"""The page in a browser: what a person does with it, by pointer and by keyboard, and what they see."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

pytest.importorskip("fastapi", reason="the page needs the extra 'app'")

import diffeat
from diffeat.app.gallery import Gallery
from diffeat.app.server import application
from diffeat.app.session import Session
from diffeat.extraction import Reading
from diffeat.tasks.correspondence import heat_map
from support.browser import browser, served
from test_app_server import encoded, picture

PATIENCE = 300_000  # milliseconds; nothing here is measured
ASKED = {"trajectory.draws": 1, "frame.longer": 64}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        picture(i, (120, 88)).save(folder / f"{i}.png")
    session = Session(Reading.load("tiny-dift").replace(**ASKED), Gallery([str(folder)]))
    _ = session.extractor  # loaded before anybody waits for it
    return session


@pytest.fixture(scope="module")
def address(session: Session) -> Iterator[str]:
    with served(application(session)) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as launched:
        yield launched


@pytest.fixture
def tab(chromium: Any, address: str) -> Iterator[Any]:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: faults.append(m.text) if "Content Security Policy" in m.text else None)
    opened(page, address)
    yield page
    page.close()
    assert faults == []


def opened(page: Any, address: str) -> None:
    page.goto(address)
    page.locator(".picture").first.wait_for()
    settled(page)


def settled(page: Any) -> None:
    """Nothing is computed any more, and all pictures have their features."""
    page.wait_for_selector(".picture >> nth=-1 >> .note:not(:empty)", timeout=PATIENCE)
    page.wait_for_selector("#progress", state="hidden", timeout=PATIENCE)


def state(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(page.url.partition("#")[2]).items()}


def marks(page: Any, kind: str) -> list[tuple[float, float]]:
    """Where marks lie, in pixels of pictures of 120 × 88."""
    page.wait_for_selector(f".mark.{kind}", timeout=PATIENCE)
    places = page.locator(f".mark.{kind}").evaluate_all(
        "marks => marks.map(m => [parseFloat(m.style.left), parseFloat(m.style.top)])"
    )
    return [(x / 100 * 120 - 0.5, y / 100 * 88 - 0.5) for x, y in places]


def pick(page: Any, x: float, y: float, number: int = 0) -> None:
    area = page.locator(".area").nth(number)
    box = area.bounding_box()
    area.click(position={"x": box["width"] * x, "y": box["height"] * y})


def matches(session: Session, page: Any, **changes: Any) -> list[tuple[float, float]]:
    """What :func:`diffeat.match` finds for the point in the address bar."""
    told = state(page)
    recipe = next(iter(session.offered.values())).replace(**changes)
    ids = told["pictures"].split("|")
    source = session.source(recipe)
    maps = {i: source.extract(session.gallery[i].picture())[0] for i in ids}
    point = [[float(v) for v in told["point"].split(",")]]
    found = [diffeat.match(maps[told["source"]], maps[i], point) for i in ids if i != told["source"]]
    return [(f.target[0, 0].item(), f.target[0, 1].item()) for f in found]


def same(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> bool:
    return len(one) == len(other) and all(p == pytest.approx(q, abs=0.02) for p, q in zip(one, other, strict=True))


def test_a_click_shows_what_match_gives(tab: Any, session: Session) -> None:
    assert "tiny-unet" in tab.locator("#model").inner_text()
    pick(tab, 0.4, 0.55)
    found = marks(tab, "match")
    x, y = (float(v) for v in state(tab)["point"].split(","))
    assert (x, y) == pytest.approx((0.4 * 120 - 0.5, 0.55 * 88 - 0.5), abs=1)
    assert same(marks(tab, "source"), [(x, y)])
    assert same(found, matches(session, tab))
    tab.wait_for_selector("#status:has-text('Most similar')", timeout=PATIENCE)


def test_activation_and_timestep_are_chosen_and_a_link_shows_them_again(
    tab: Any, session: Session, chromium: Any
) -> None:
    tab.locator(".map input[type=search]").fill("up_blocks.1.resnets.*")
    tab.locator(".site[title^='up_blocks.1.resnets.1']").click()
    settled(tab)
    assert state(tab)["activation"].startswith("up_blocks.1.resnets.1")
    slider = tab.locator("input[type=range]").first
    slider.focus()
    slider.press("Home")
    settled(tab)
    assert state(tab)["timesteps"] == "0"
    pick(tab, 0.7, 0.3, number=1)
    found = marks(tab, "match")
    changes = {"activations": (state(tab)["activation"],), "trajectory.timesteps": (0,)}
    assert same(found, matches(session, tab, **changes))
    again = chromium.new_page()
    opened(again, tab.url)
    assert same(marks(again, "match"), found)
    assert again.locator(".site[aria-pressed=true]").count() == 1
    again.close()


def test_a_name_that_is_not_there_is_told_where_it_is_typed(tab: Any) -> None:
    tab.locator(".map input[type=search]").fill("up_block.*")
    tab.locator(".map .message:not(:empty)").wait_for()


def test_colours_channel_and_picture(tab: Any) -> None:
    for mode, words in (("PCA colours", "Equal colours"), ("Channel", "…")):
        tab.get_by_role("button", name=mode).click()
        tab.locator(".legend", has_text=words).wait_for()
        tab.wait_for_selector(".overlay >> nth=0", timeout=PATIENCE)
        assert tab.locator(".overlay").first.evaluate("c => c.width") > 1
    assert state(tab)["show"] == "channel"
    tab.get_by_role("button", name="Picture", exact=True).click()
    tab.wait_for_selector(".overlay[width='1'] >> nth=2", state="attached", timeout=PATIENCE)


def test_similarity_follows_the_pointer_as_it_is(tab: Any, session: Session) -> None:
    """What the browser computes while the pointer moves is the heat map, but for half precision."""
    ids = state(tab)["pictures"].split("|")
    got = tab.evaluate(
        """async (ids) => {
          const { Prepared } = await import("/lib/similarity.js");
          const { reader } = window.page;
          const prepared = ids.map((id) => {
            const { arrays: [{ values, shape }], frame } = reader.known(reader.features({}, { id, name: "" }));
            return new Prepared(values, shape, frame, 120, 88);
          });
          return Array.from(prepared[1].similarity(prepared[0].descriptor(50, 31.5)));
        }""",
        ids[:2],
    )
    recipe = next(iter(session.offered.values()))
    one, other = session.source(recipe).extract([session.gallery[i].picture() for i in ids[:2]])
    exact = heat_map(one, other, [50, 31.5])
    assert (exact.flatten() - exact.new_tensor(got)).abs().max() < 5e-3
    tab.locator(".area").nth(0).hover()
    tab.wait_for_selector(".overlay[width='120'] >> nth=1", timeout=PATIENCE)


def test_compare(tab: Any) -> None:
    tab.get_by_role("button", name="Compare").click()
    tab.locator(".column").nth(1).wait_for()
    tab.locator(".cost .fact").nth(4).wait_for()
    tab.locator("#stage select").select_option("RGB%20patches")
    tab.locator(".column").nth(2).wait_for()
    pick(tab, 0.5, 0.5)
    for column in range(3):
        tab.locator(".column").nth(column).locator(".mark.match").first.wait_for()
    assert state(tab)["columns"].count("|") == 2
    tab.locator(".column header button").first.click()
    assert len(state(tab)["columns"].split("|")) == 2


def test_strips(tab: Any) -> None:
    tab.get_by_role("button", name="Strips").click()
    tab.get_by_role("button", name="Layers").click()
    tab.wait_for_selector(".strip-tiles .overlay[width]:not([width='1']) >> nth=3", timeout=PATIENCE)
    title = tab.locator(".strip-tiles .name").nth(3).inner_text()
    tab.locator(".strip-tiles button").nth(3).click()
    assert state(tab)["activation"] == title
    assert state(tab)["view"] == "explore"


def test_words_and_parts(tab: Any) -> None:
    tab.get_by_role("button", name="Words and parts").click()
    tab.locator("#stage form input[type=text]").fill("circle, sky")
    tab.locator("#stage form input[type=text]").press("Enter")
    tab.locator(".keys .chip", has_text="sky").wait_for()
    assert state(tab)["words"] == "circle|sky"
    tab.get_by_role("button", name="Parts", exact=True).click()
    tab.locator(".keys .chip", has_text="part 5").wait_for()


def test_broken_and_huge_files_are_told(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encoded(picture(5))[:90])
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 33 << 20)
    picture(6).save(tmp_path / "good.png")
    tab.locator("#file").set_input_files([str(tmp_path / f"{n}.png") for n in ("cut", "huge", "good")])
    message = tab.locator("#gallery .message")
    tab.locator(".picture .name", has_text="good.png").wait_for()
    tab.locator("#gallery .message", has_text="cut.png").wait_for()
    assert "huge.png is larger than 32 MB" in message.inner_text()
    tab.get_by_role("button", name="Take good.png away").click()
    tab.locator(".picture .name", has_text="good.png").wait_for(state="detached")


def test_cancel(tab: Any, session: Session) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        begun.set()
        go.wait(300)

    handle = session.extractor.backbone.denoiser.mid_block.register_forward_pre_hook(hold)
    try:
        tab.locator("input[type=range]").first.press("End")
        assert begun.wait(300)
        tab.get_by_role("button", name="Cancel").click()
        tab.locator("#status", has_text="Cancelled").wait_for()
    finally:
        go.set()
        handle.remove()
    tab.locator("input[type=range]").first.press("PageDown")
    settled(tab)
    recipe = {"timesteps": [999]}
    from diffeat.app.asked import Asked

    assert not session.is_known(Asked.model_validate(recipe), state(tab)["pictures"].split("|")[0])


def test_two_tabs_keep_their_own(tab: Any, chromium: Any, address: str, session: Session) -> None:
    other = chromium.new_page()
    other.set_default_timeout(PATIENCE)
    opened(other, f"{address}#timesteps=333")
    pick(tab, 0.3, 0.3)
    pick(other, 0.6, 0.6)
    assert same(marks(tab, "match"), matches(session, tab))
    assert same(marks(other, "match"), matches(session, other, **{"trajectory.timesteps": (333,)}))
    other.close()


def test_everything_is_reached_by_keyboard(tab: Any, session: Session) -> None:
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    before = tab.url
    tab.keyboard.press("Enter")
    assert tab.url == before, "the view is kept"
    for _ in range(12):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.classList.contains('area')"):
            break
    assert "Arrow keys" in tab.evaluate("document.activeElement.getAttribute('aria-label')")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "Enter"):
        tab.keyboard.press(key)
    found = marks(tab, "match")
    assert [float(v) for v in state(tab)["point"].split(",")] == [59.5 + 4, 43.5 + 1]
    assert same(found, matches(session, tab))


def test_leave(tab: Any) -> None:
    pick(tab, 0.4, 0.4)
    marks(tab, "match")
    tab.get_by_role("button", name="Take with you").click()
    texts = tab.locator("dialog pre")
    texts.nth(3).wait_for()
    assert "diffeat.match(" in texts.nth(0).inner_text()
    assert "diffeat match" in texts.nth(1).inner_text()
    assert "up_blocks.2.resnets.0" in texts.nth(2).inner_text()
    sizes = tab.evaluate(
        "async () => (await window.page.pngs()).length && (await Promise.all((await window.page.pngs())"
        ".map(([, blob]) => createImageBitmap(blob)))).map((i) => [i.width, i.height])"
    )
    assert sizes == [[120, 88]] * 3


@pytest.mark.parametrize("view", ["explore", "compare", "strips", "segments"])
def test_no_serious_findings_of_axe(tab: Any, address: str, view: str) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe comes with axe-playwright-python")
    from importlib.resources import files

    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    more = "&words=circle|sky" if view == "segments" else ""
    tab.goto(f"{address}#view={view}{more}")
    tab.locator(
        "#views [aria-current=page]", has_text=re.compile(view[:4] if view != "segments" else "Words", re.I)
    ).wait_for()
    if view == "explore":
        settled(tab)
    else:
        tab.wait_for_selector(".overlay:not([width='1'])", timeout=PATIENCE)
    tab.evaluate(axe)  # by the debugger, which the page's policy does not bind
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        found = tab.evaluate("async () => (await axe.run()).violations")
        serious = [
            (v["id"], [n["html"][:120] for n in v["nodes"][:3]])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == []


@pytest.mark.parametrize("width", [320, 768, 3840])
def test_nothing_is_wider_than_the_screen(tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    for view in ("Explore", "Compare", "Strips", "Words and parts"):
        tab.get_by_role("button", name=view, exact=True).click()
        tab.wait_for_selector("#stage .picture >> nth=0", timeout=PATIENCE)
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
