"""Draws the pictures of ``docs/app.md``: the page with the embedded model and sample photographs, in Chromium.

python docs/screenshots.py [ADDRESS]

With the address of a running ``diffeat app``, that one is drawn.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "images"
sys.path[:0] = [str(ROOT / "tests")]

_READ = "recipe=tiny-dift&draws=2&size=384"
#: Name, width, height, colour scheme, view and what more the address holds.
PICTURES = [
    ("app-1440", 1440, 900, "light", f"{_READ}&view=explore&show=similarity", True),
    ("app-dark", 1440, 900, "dark", f"{_READ}&view=explore&show=pca", False),
    ("app-768", 768, 1024, "light", f"{_READ}&view=explore&show=similarity", True),
    ("app-320", 320, 720, "dark", f"{_READ}&view=explore&show=similarity", True),
]
#: Colours of a picture: few, so that it stays small.
_COLOURS = 128


def taken(browser: Any, address: str, width: int, height: int, scheme: str, view: str, point: bool) -> Image.Image:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(600_000)
    page.goto(f"{address}#{view}")
    settle(page)
    if point:
        area = page.locator(".area").first
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        area.click(position={"x": 0.29 * box["width"], "y": 0.42 * box["height"]})
        page.locator(".mark.match").first.wait_for()
    page.mouse.move(1, 1)
    settle(page)
    if width > 700:
        page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    shot = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    return shot.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)


def settle(page: Any) -> None:
    """All pictures are read, and what is made of them is shown."""
    page.locator(".facts dl").wait_for()
    page.locator("#progress").wait_for(state="hidden")


def main(address: str | None) -> None:
    from support.browser import browser, served

    if address is None:
        from diffeat.app.gallery import Gallery
        from diffeat.app.server import application
        from diffeat.app.session import Session
        from diffeat.extraction import Reading

        session = Session(Reading.load("tiny-dift"), Gallery())
        with served(application(session), 600) as address:
            main(address)
        return
    with browser() as chromium:
        for name, *how in PICTURES:
            taken(chromium, address, *how).save(FOLDER / f"{name}.png", optimize=True)
            print(FOLDER / f"{name}.png", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
