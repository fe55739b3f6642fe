"""``diffeat app``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import given
from diffeat.cli.recipe_options import reading_of
from diffeat.errors import InvalidValueError, ModelError


def app(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None, Argument(help="Pictures, folders, globs, tars, videos …; sample photographs if none.")
    ] = None,
    compare: Annotated[
        list[str] | None, Option(help="A further recipe to offer: preset, file, vision:MODEL; repeatable.")
    ] = None,
    store: Annotated[list[str] | None, Option(help="A feature store to look through; repeatable.")] = None,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Folder that marks may be written into, in a new one each time.")
    ] = None,
    host: Annotated[str, Option(help="Where to listen. Other than this machine's own needs the token it prints.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Look into a model in a browser: click a point, see what is similar, in any activation.

    Works offline: with the embedded model and sample photographs if nothing is given. Needs FastAPI and uvicorn:
    pip install 'diffeat[app]'.

    Example:
        diffeat app
        diffeat app photos --recipe dift-sd21 --compare vision:facebook/dinov2-base
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ModelError("The page is served by FastAPI and uvicorn: pip install 'diffeat[app]'.") from None
    import secrets

    from rich.console import Console
    from rich.text import Text

    from diffeat.app.gallery import Gallery
    from diffeat.app.guard import is_loopback
    from diffeat.app.server import application, serve
    from diffeat.app.session import Session
    from diffeat.app.shelf import Shelf
    from diffeat.extraction import Recipe
    from diffeat.files import new_folder
    from diffeat.storage import FeatureStore

    gallery = Gallery(paths or [])
    shelves = [Shelf(FeatureStore.open(folder), gallery) for folder in store or []]
    if out is not None:
        new_folder(out)
    reading = reading_of(ctx)
    others = [Recipe.load(name) for name in compare or []]
    asked = given(ctx)
    session = Session(reading, gallery, others, {n: asked.get(n) for n in ("device", "dtype", "batch_size")})
    token = None if is_loopback(host) else secrets.token_urlsafe(24)

    def ready(port: int) -> None:
        name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
        typer.echo(f"Open {address}    (Ctrl-C stops)")
        if browser:
            _open_later(address)

    try:
        with Console(stderr=True).status(Text(f"Loading {reading.model} …")):
            _ = session.extractor
    except KeyboardInterrupt:
        typer.echo("Stopped.")  # there is nothing yet that could have been kept
        return
    try:
        serve(application(session, host=host, port=port, token=token, shelves=shelves, out=out), host, port, ready)
    except KeyboardInterrupt:
        typer.echo("Stopped.")
    except OSError as error:
        raise InvalidValueError(
            f"Nothing can listen at {host}:{port} ({error.strerror or error}). Another --port, or 0 for a free one?"
        ) from None


def _open_later(address: str) -> None:
    """Open a browser, which may take its time, beside the server."""
    import threading
    import webbrowser

    threading.Timer(0.5, webbrowser.open, [address]).start()
