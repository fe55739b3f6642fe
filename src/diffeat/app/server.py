"""The server: a FastAPI application behind its guard, and uvicorn that runs it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffeat.__about__ import __version__
from diffeat.app.guard import Guard
from diffeat.app.line import Busy, Stopped
from diffeat.app.routes import ROUTERS
from diffeat.app.session import Session
from diffeat.app.shelf import Shelf
from diffeat.errors import DiffeatError, UnknownNameError

#: Bytes of a body that is no picture.
_MOST_JSON = 1 << 20


def application(
    session: Session,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    secret: str = "",
    frames: Collection[str] = (),
    shelves: Sequence[Shelf] = (),
    out: Path | None = None,
) -> ASGIApp:
    """The whole server, as an ASGI application.

    Args:
        host: Where it will listen; requests must call it by that name (see :mod:`diffeat.app.guard`).
        port: Likewise; 0 takes any.
        token: That requests must know.
        secret: The folder that all addresses begin with.
        frames: Sites whose pages may hold ours in a frame, for a notebook.
        shelves: Stores that can be looked through.
        out: Folder that marks may be written into.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        session.close()

    app = FastAPI(title="diffeat app", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.session, app.state.shelves, app.state.out = session, shelves, out
    for router in ROUTERS:
        app.include_router(router, prefix="/api")
    app.mount("/", StaticFiles(directory=str(files("diffeat.app") / "static"), html=True))
    app.add_exception_handler(DiffeatError, _told)
    app.add_exception_handler(MemoryError, _no_memory)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    return Guard(_Bounded(app), host=host, port=port, token=token, secret=secret, frames=frames)


#: What a kind of error is called in HTTP, the first that fits; 499 is for a browser that has left.
_STATUS: dict[type[DiffeatError], int] = {UnknownNameError: 404, Busy: 429, Stopped: 499, DiffeatError: 400}


def status_of(error: DiffeatError) -> int:
    """The HTTP status of an error that a user can mend."""
    return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def _told(_request: Request, error: Exception) -> JSONResponse:
    status = status_of(error) if isinstance(error, DiffeatError) else 500
    return JSONResponse({"error": str(error)}, status_code=status)


def _no_memory(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"error": "There is not enough memory. Take a smaller size."}, status_code=507)


def _http(_request: Request, error: Exception) -> JSONResponse:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    return JSONResponse({"error": str(detail)}, status_code=status)


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    faults: list[dict[str, Any]] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    told = [f"{'.'.join(str(p) for p in fault['loc'][1:]) or 'request'}: {fault['msg']}" for fault in faults[:3]]
    return JSONResponse({"error": f"This cannot be asked for. {'; '.join(told)}"}, status_code=422)


class _Bounded:
    """Middleware that ends a body that is too large, before it is in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] == "/api/pictures"):
            await self._app(scope, receive, send)  # which bounds pictures itself, at MOST_BYTES
            return
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > _MOST_JSON:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large.")
            return message

        await self._app(scope, bounded, send)


def serve(
    app: ASGIApp, host: str, port: int, ready: Callable[[int], None], stop: threading.Event | None = None
) -> None:
    """Run until Ctrl-C, or until ``stop`` is set.

    Args:
        port: 0 lets the system choose.
        ready: Called with the port when the server listens.

    Raises:
        OSError: The port is taken, or the host is none of this machine's.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # from here on a browser waits, and is not refused
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, server_header=False, ws="none"
        )
        ready(listener.getsockname()[1])
        server = uvicorn.Server(config)
        if stop is not None:
            threading.Thread(target=_end, args=(server, stop), daemon=True).start()
        server.run(sockets=[listener])


def _end(server: Any, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True
