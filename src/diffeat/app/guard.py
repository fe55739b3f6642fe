"""Who may speak to the server.

A page of another site can make a browser send requests here, and under a name that it lets point to this machine even
read the answers. So a request must call the server by a name that is its own (``Host``), and where a browser says from
which page it comes (``Origin``, ``Sec-Fetch-Site``) that must be ours. A server that other machines reach takes no
request without its token, which a browser keeps as a cookie that pages of other sites cannot send. A page in a frame of
another site, as in a notebook, gets no cookies; all its addresses begin with a secret instead, which keeps out other
users of the machine, too.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The names by which a machine calls itself.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_COOKIE = "diffeat-token"
_CONTENT = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Middleware that lets through what the module says, and adds the headers that bind the page.

    Args:
        app: What is guarded.
        host: Where the server listens.
        port: Likewise; 0 takes any port.
        token: Must be known by whoever speaks; ``None`` where only this machine can.
        secret: The folder that all addresses begin with; none if empty.
        frames: Sites whose pages may hold ours in a frame.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        token: str | None = None,
        secret: str = "",
        frames: Collection[str] = (),
    ) -> None:
        self._app, self._port, self._token, self._secret = app, port, token, secret
        self._names = {*LOOPBACK} if is_loopback(host) else {*LOOPBACK, host, socket.gethostname(), socket.getfqdn()}
        self._any_address = host in ("0.0.0.0", "::", "")
        self._headers = {
            "Content-Security-Policy": f"{_CONTENT}; frame-ancestors {' '.join(frames) or chr(39) + 'none' + chr(39)}",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets
        inner = self._without_secret(scope)
        answer = _refused("The address is not whole.", 401) if inner is None else self._refusal(inner)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await (answer or self._app)(inner or scope, receive, told)

    def _without_secret(self, scope: Scope) -> Scope | None:
        """The request as it is where addresses need no secret; ``None`` where it is missing."""
        if not self._secret:
            return scope
        _, first, rest = (*scope["path"].split("/", 2), "", "")[:3]
        whole = scope["path"].count("/") > 1 and _same(first, self._secret)
        return {**scope, "path": f"/{rest}"} if whole else None

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return _refused(f"This server is not called {host[:100]!r}. Open it by the address that it printed.")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return _refused("Another page asked for this. Only this server's own page may.")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _opens_page(scope, headers):
            return _refused("Another site asked for this. Only this server's own page may.")
        return None if self._token is None else self._without_token(scope, headers, self._token)

    def _is_ours(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "80")
        name = name.strip("[]").lower()
        if self._port and port != str(self._port):
            return False
        if name in self._names:
            return True
        try:
            return self._any_address and bool(ip_address(name))
        except ValueError:
            return False

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        """A redirection that makes a cookie of the token in the address, or a refusal; ``None`` for who knows it."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and _same(query.pop("token", [""])[0], token):
            answer = RedirectResponse(f"/?{urlencode(query, doseq=True)}".rstrip("?"), status_code=303)
            answer.set_cookie(_COOKIE, token, httponly=True, samesite="strict")
            return answer
        if _same(headers.get("authorization", "").removeprefix("Bearer "), token) or _same(_cookie(headers), token):
            return None
        return _refused("A token is needed. Open the address with ?token=… that the server printed.", 401)


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """Whether a link elsewhere was followed to the page, which does nothing by itself."""
    return scope["method"] == "GET" and scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"


def _refused(reason: str, status: int = 403) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
