"""A small hub on the loopback: repositories as folders of bytes, gates, half downloads, and what is pushed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        repositories: Files by name, by ``owner/name`` (data sets as ``datasets/owner/name``).
        renamed: New names of repositories by their old ones, which are answered by a redirection.
        gated: Repositories whose files are refused.
        cut: Bytes after which the first answer for a file breaks off, by the file's name.
        spoilt: Files that are sent with another content of the same length, once.
        requests: ``(method, path)`` in order.
        ranges: Ranges that were asked for.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, folder: Path) -> None:
        self.repositories[name] = {
            file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for how, path in self.requests
                if how == "GET" and "/resolve/" in path]  # fmt: skip

    def sha(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.repositories[name])).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, data: Any) -> None:
        self._answer(200, json.dumps(data).encode(), Content_Type="application/json")

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> object:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.hub.requests.append((self.command, path))
        for old, new in self.hub.renamed.items():
            if re.search(rf"(^|/){old}(/|$)", path):
                return self._answer(307, Location=self.path.replace(old, new))
        if match := re.fullmatch(r"(.+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[3])
        if match := re.fullmatch(r"api/(?:models|(datasets))/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?", path):
            name = f"{match[1]}/{match[2]}" if match[1] else match[2]
            files = self.hub.repositories.get(name)
            if files is None:
                return self._missing("RepoNotFound")
            if match[3] == "tree":
                return self._json([{"type": "file", "path": n, "size": len(d), "oid": "0" * 40}
                                   for n, d in files.items()])  # fmt: skip
            siblings = [{"rfilename": n, "size": len(d), "blobId": "0" * 40,
                         "lfs": {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d), "pointerSize": 1}}
                        for n, d in files.items()]  # fmt: skip
            return self._json({"id": match[2], "sha": self.hub.sha(name), "siblings": siblings, "private": False})
        return self._missing("RepoNotFound")
        return None

    do_HEAD = do_GET

    def _file(self, name: str, file: str) -> object:
        files = self.hub.repositories.get(name)
        if files is None:
            return self._missing("RepoNotFound")
        if name in self.hub.gated:
            return self._answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
        if file not in files:
            return self._missing("EntryNotFound")
        data = files[file]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X_Repo_Commit": self.hub.sha(name)}
        if self.command == "HEAD":
            return self._answer(200, Content_Length=str(len(data)), **headers)
        if file in self.hub.spoilt:
            self.hub.spoilt.remove(file)
            data = bytes(len(data))
        start = 0
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if file in self.hub.cut:
            whole, body = len(body), body[: self.hub.cut.pop(file)]
            self.close_connection = True
            return self._answer(206 if asked else 200, body, Content_Length=str(whole), **headers)
        self._answer(206 if asked else 200, body, **headers)
        return None

    def do_POST(self) -> object:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "api/repos/create":
            data = json.loads(body)
            name = f"{data.get('organization') or 'me'}/{data['name']}"
            name = f"datasets/{name}" if data.get("type") == "dataset" else name
            self.hub.repositories.setdefault(name, {})
            return self._json({"url": f"{self.hub.url}/{name}", "id": name})
        match = re.fullmatch(r"api/(?:models|(datasets))/([^/]+/[^/]+)/(preupload|commit)/[^/]+", path)
        if match is None:
            return self._json({})
        name = f"{match[1]}/{match[2]}" if match[1] else match[2]
        if match[3] == "preupload":
            files = json.loads(body)["files"]
            return self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                                         for f in files]})  # fmt: skip
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.hub.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = self.hub.sha(name)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}",
                    "hookOutput": ""})  # fmt: skip
        return None


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that everything in this process asks, and a cache of its own."""
    from huggingface_hub import constants

    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield served
