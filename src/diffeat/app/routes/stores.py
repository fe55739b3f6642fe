"""Stores: names, nearest pictures, and the click on features that are stored."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import Field
from yaml import safe_dump

from diffeat.app.asked import Body, Name, Number
from diffeat.app.bounds import check_pixels
from diffeat.app.here import Here
from diffeat.app.line import while_wanted
from diffeat.app.packet import as_bytes, packed
from diffeat.app.routes.pictures import encoded
from diffeat.app.session import SHOWN
from diffeat.app.shelf import Shelf
from diffeat.errors import UnknownNameError
from diffeat.features import FeatureMap
from diffeat.viz import pca_colours

router = APIRouter(prefix="/stores")

_Stored = Annotated[str, Field(max_length=4096)]


def _shelves(request: Request) -> Sequence[Shelf]:
    return request.app.state.shelves


Shelves = Annotated[Sequence[Shelf], Depends(_shelves)]


def _shelf(shelves: Shelves, number: Annotated[int, Path(ge=0, le=999)]) -> Shelf:
    if number >= len(shelves):
        raise UnknownNameError(f"There is no store number {number}. Start diffeat app with --store FOLDER.")
    return shelves[number]


There = Annotated[Shelf, Depends(_shelf)]


@router.get("")
async def stores(shelves: Shelves) -> dict[str, list[dict[str, Any]]]:
    """The stores that the server was given."""
    return {"stores": await run_in_threadpool(lambda: [_told(shelf) for shelf in shelves])}


def _told(shelf: Shelf) -> dict[str, Any]:
    store = shelf.store
    told = {"name": shelf.name, "pictures": len(store), "dtype": store.dtype, "recipe": store.recipe_hash}
    return {**told, "maps": store.activations()}


@router.get("/{number}/names")
async def names(
    shelf: There,
    find: Annotated[str, Query(max_length=300)] = "",
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
    most: Annotated[int, Query(ge=1, le=200)] = 60,
) -> dict[str, Any]:
    """A page of the names: all, those that hold a text, those of a pattern."""
    page = await run_in_threadpool(shelf.store.find, find, start, most)
    return {"names": page.names, "total": page.total}


@router.get("/{number}/picture")
async def picture(shelf: There, name: Annotated[str, Query(max_length=4096)]) -> dict[str, Any]:
    """A stored picture: its size, its maps, whether it can be seen here."""
    return await run_in_threadpool(_info, shelf, name)


def _info(shelf: Shelf, name: str) -> dict[str, Any]:
    features = shelf.features(name)
    width, height = features.frame.original
    maps = [{"name": n, "shape": list(m.shape)} for n, m in features.activations.items()]
    return {"name": features.image, "width": width, "height": height, "maps": maps, "seen": _seen(shelf, name)}


def _seen(shelf: Shelf, name: str) -> bool:
    return shelf.entry(name) is not None


@router.get("/{number}/image", response_class=Response)
async def image(
    shelf: There,
    name: Annotated[str, Query(max_length=4096)],
    side: Annotated[int, Query(ge=16, le=2048)] = 512,
) -> Response:
    """The picture, if it is among those of the page; else its features in colours."""
    data, kind = await run_in_threadpool(_image, shelf, name, side)
    return Response(data, media_type=kind)


def _image(shelf: Shelf, name: str, side: int) -> tuple[bytes, str]:
    entry = shelf.entry(name)
    if entry is not None:
        return encoded(entry, side)
    features = shelf.features(name)
    file = io.BytesIO()
    _coloured(features, side).save(file, "PNG")
    return file.getvalue(), "image/png"


def _coloured(features: FeatureMap, side: int) -> Image.Image:
    values = max(features.activations.values(), key=lambda m: m.shape[1] * m.shape[2])
    top, left, height, width = features.frame.content_cells((values.shape[1], values.shape[2]))
    (colours,) = pca_colours([values[:, top : top + height, left : left + width]])
    across, down = features.frame.original
    scale = side / max(across, down)
    size = max(1, round(across * scale)), max(1, round(down * scale))
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


class Nearest(Body):
    """A stored picture, and how many like it are wanted."""

    picture: _Stored
    map: Name | None = None
    count: int = Field(default=12, ge=1, le=100)


@router.post("/{number}/nearest")
async def nearest(shelf: There, request: Request, body: Nearest) -> dict[str, Any]:
    """The pictures most like one, by pooled features."""

    def work() -> dict[str, Any]:
        pooled = shelf.pooled(body.map)
        found = pooled.nearest(body.picture, body.count)
        return {"pictures": [{"name": n, "cosine": c} for n, c in found], "exact": pooled.exact}

    return await shelf.line.run(request, work)


@router.post("/{number}/leave")
async def leave(shelf: There, body: Nearest) -> dict[str, str]:
    """Python and command that find the same pictures, and what the store's features are of."""
    path, name = str(shelf.store.path), await run_in_threadpool(shelf.store.named, body.picture)
    chosen, argument = ([], "") if body.map is None else (["-a", body.map], repr(body.map))
    lines = ["from diffeat import FeatureStore", "", f"store = FeatureStore.open({path!r})"]
    lines += [f"for similar in store.pooled({argument}).nearest({name!r}, {body.count}):", "    print(similar)"]
    command = shlex.join(["diffeat", "store", "nearest", path, name, "-k", str(body.count), *chosen])
    yaml = safe_dump(shelf.store.recipe, sort_keys=False, allow_unicode=True)
    return {"yaml": yaml, "python": "\n".join(lines) + "\n", "command": f"{command}\n"}


class StoredClick(Body):
    """A point of a stored picture, sought in stored pictures."""

    map: Name | None = None
    source: _Stored
    point: tuple[Number, Number]
    pictures: list[_Stored] = Field(min_length=1, max_length=24)


@router.post("/{number}/click", response_class=Response)
async def click(session: Here, request: Request, shelf: There, body: StoredClick) -> Response:
    """What :func:`diffeat.match` finds in stored features, and the similarity with every pixel shown."""
    return await session.quick.run(request, partial(_click, shelf, body))


def _click(shelf: Shelf, body: StoredClick) -> Response:
    source, point = shelf.features(body.source), torch.tensor([body.point], dtype=torch.float64)
    check_pixels(shelf.features(name).frame.original for name in while_wanted(body.pictures))
    matches, heats = [], []
    for name in while_wanted(body.pictures):
        found = shelf.target(name, body.map).find(source, point)
        x, y = found.target[0].tolist()
        matches.append({"picture": name, "x": x, "y": y, "similarity": float(found.similarity[0])})
        heats.append(shelf.target(name, body.map, most=SHOWN).heat(source, point[0]))
    low, high = min(float(heat.min()) for heat in heats), max(float(heat.max()) for heat in heats)
    return packed({"matches": matches, "low": low, "high": high}, [as_bytes(heat, low, high) for heat in heats])
