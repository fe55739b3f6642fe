"""The page inside a cell of a notebook: served by a thread of the kernel, to its own machine alone."""

from __future__ import annotations

import atexit
import io
import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import uvicorn  # noqa: F401  what is missing is told before a thread runs into it
from torch import Tensor

from diffeat.app.gallery import Gallery
from diffeat.app.server import application, serve
from diffeat.app.session import Session
from diffeat.app.shelf import Shelf
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.extraction import Extractor, Reading
from diffeat.features import ImageLike, Picture
from diffeat.features.picture import several
from diffeat.storage import FeatureStore

#: Notebooks, whose pages may hold ours: those of this machine, and editors.
FRAMES = ("http://localhost:*", "http://127.0.0.1:*", "https://localhost:*", "vscode-webview:")


class Cell:
    """A page that runs until :meth:`close`, or until the kernel ends; a notebook shows it.

    Attributes:
        address: Of the page, for a browser of this machine.
    """

    def __init__(self, address: str, height: int, stop: threading.Event, thread: threading.Thread) -> None:
        self.address, self._height = address, height
        self._stop, self._thread = stop, thread

    def close(self) -> None:
        """Stop the server; nothing is left of it."""
        self._stop.set()
        self._thread.join(10)

    def __repr__(self) -> str:
        return f"Cell({self.address!r})"

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{self.address}" title="diffeat" width="100%" height="{self._height}" '
            'style="border:1px solid rgba(128,128,128,.35);border-radius:6px"></iframe>'
        )


def view_names() -> list[str]:
    """Of the page's views, each of which is a file."""
    files = Path(__file__).parent.joinpath("static", "views").glob("*.js")
    return sorted(file.stem for file in files if file.stem != "index")


def click(
    images: ImageLike | Iterable[ImageLike] = (),
    recipe: str | Reading | Extractor = "tiny-unet",
    *,
    store: FeatureStore | None = None,
    view: str = "explore",
    height: int = 760,
) -> Cell:
    """Open the page in a cell of a notebook: click a point, see what is similar.

    The kernel must run on the machine of the browser, or its port be forwarded. The server listens on that machine
    alone, refuses pages of other sites, and answers under an address that only the cell knows. Needs the extra ``app``.

    Args:
        images: Paths, folders and globs, PIL images, arrays or tensors; sample photographs if none.
        recipe: What is read: a preset, a recipe, or an extractor, whose model is used as it is loaded.
        store: That can be looked through.
        view: What is shown first: explore, compare, strips, match, segments or stores.
        height: Of the cell, in pixels.

    Raises:
        InvalidValueError: There is no picture.
        UnknownNameError: There is no such recipe, or view.

    Example:
        >>> from diffeat.viz import click
        >>> click(["cat.jpg", "dog.jpg"], "dift-sd21")  # doctest: +SKIP
    """
    if view not in (views := view_names()):
        raise UnknownNameError(f"The page has no view {view!r}. {did_you_mean(view, views)}")
    alone = isinstance(images, (str, np.ndarray, Tensor)) or not isinstance(images, Iterable)
    given: list[Any] = [images] if alone else list(images)  # pyright: ignore[reportArgumentType]
    gallery = Gallery([os.fspath(image) for image in given if isinstance(image, (str, os.PathLike))])
    for image in several([image for image in given if not isinstance(image, (str, os.PathLike))]):
        picture, data = Picture.of(image), io.BytesIO()
        picture.image.save(data, "PNG")
        gallery.upload(picture.name, data.getvalue())
    reading = recipe.recipe if isinstance(recipe, Extractor) else Reading.load(recipe)
    session = Session(reading, gallery)
    if isinstance(recipe, Extractor):
        session.lend(recipe)
    shelves = [] if store is None else [Shelf(store, gallery)]
    secret = secrets.token_urlsafe(24)
    app = application(session, secret=secret, frames=FRAMES, shelves=shelves)
    stop, ready, ports = threading.Event(), threading.Event(), list[int]()

    def listening(port: int) -> None:
        ports.append(port)
        ready.set()

    thread = threading.Thread(target=serve, args=(app, "127.0.0.1", 0, listening, stop), daemon=True)
    thread.start()
    while not ready.wait(0.1):
        if not thread.is_alive():
            raise InvalidValueError("Nothing could listen on this machine.")
    atexit.register(stop.set)
    return Cell(f"http://127.0.0.1:{ports[0]}/{secret}/#{urlencode({'view': view})}", height, stop, thread)
