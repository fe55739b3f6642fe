"""The pictures: their list, what they look like, those that are dropped on the page."""

from __future__ import annotations

import io
import threading
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from diffeat.app.gallery import MOST_BYTES, Entry, Gallery, too_large
from diffeat.app.here import Here
from diffeat.errors import ImageError

router = APIRouter()

#: Pictures that are whole in memory to be shown, at a time.
_DECODING = threading.BoundedSemaphore(2)

_Id = Annotated[str, Path(max_length=32)]


@router.get("/pictures")
async def pictures(
    session: Here,
    find: Annotated[str, Query(max_length=200)] = "",
    offset: Annotated[int, Query(ge=0, le=10**7)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 24,
) -> dict[str, Any]:
    """A page of the list, by words of their names."""
    entries = session.gallery.entries(find)
    part = entries[offset : offset + limit]
    told = await run_in_threadpool(lambda: [_told(session.gallery, entry) for entry in part])
    return {"pictures": told, "total": len(entries)}


@router.get("/pictures/{id}")
async def picture(session: Here, id: _Id) -> dict[str, Any]:
    """One picture of the list."""
    return await run_in_threadpool(_told, session.gallery, session.gallery[id])


@router.get("/pictures/{id}/image", response_class=Response)
async def image(session: Here, id: _Id, side: Annotated[int, Query(ge=16, le=2048)] = 1024) -> Response:
    """The picture as it is read, upright, no larger than ``side``."""
    data, kind = await run_in_threadpool(encoded, session.gallery[id], side)
    return Response(data, media_type=kind)


@router.post("/pictures")
async def upload(
    session: Here, request: Request, name: Annotated[str, Query(max_length=300)] = "picture"
) -> dict[str, Any]:
    """Take a picture: the body is its file."""
    data = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MOST_BYTES:
            data += chunk
        else:
            data.clear()  # the rest is read, so that the browser can hear why, and forgotten
        if size > 16 * MOST_BYTES:
            break
    if size > MOST_BYTES:
        raise HTTPException(413, too_large(name))
    entry = await run_in_threadpool(session.gallery.upload, name, bytes(data))
    return _told(session.gallery, entry)


@router.delete("/pictures/{id}", status_code=204)
async def remove(session: Here, id: _Id) -> None:
    """Take a dropped picture away."""
    session.gallery.remove(id)


def _told(gallery: Gallery, entry: Entry) -> dict[str, Any]:
    told: dict[str, Any] = {"id": entry.id, "name": entry.name, "uploaded": gallery.is_upload(entry)}
    try:
        told["width"], told["height"] = gallery.size(entry)
    except ImageError as error:
        told["error"] = str(error)
    return told


def encoded(entry: Entry, side: int) -> tuple[bytes, str]:
    """A picture as the page shows it, no larger than ``side``, and its media type."""
    with _DECODING:
        picture = entry.picture().image
        small = max(picture.size) <= side
        if not small:
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if small and picture.width * picture.height <= 1 << 20:
        picture.save(file, "PNG", compress_level=1)
        return file.getvalue(), "image/png"
    picture.save(file, "JPEG", quality=92)
    return file.getvalue(), "image/jpeg"
