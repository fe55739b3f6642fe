"""Match and transfer: points, boxes and rough masks of one picture found in another, and kept as data of one's own."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from diffeat.app.asked import Asked, Body, Box, Id, Label, Name, Point
from diffeat.app.bounds import check_pairs, check_pixels, check_search
from diffeat.app.here import Here
from diffeat.app.line import while_wanted
from diffeat.app.packet import packed
from diffeat.app.session import SHOWN, Known, Session, shown_size
from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.files import new_folder, write_files
from diffeat.tasks.correspondence import strongest_matches
from diffeat.tasks.transfer import Annotation, Marked, marked_files, transfer

router = APIRouter()

#: Cells of a side of a painted mask.
CELLS = 1024
#: Points by which a box is found.
_OF_BOX = 144


class Painted(Body):
    """A rough mask over the whole picture, as it is painted.

    Attributes:
        runs: Of equal labels in reading order: label, length, label, length …
    """

    width: int = Field(ge=1, le=CELLS)
    height: int = Field(ge=1, le=CELLS)
    runs: list[Annotated[int, Field(ge=0, le=CELLS * CELLS)]] = Field(max_length=200_000)

    def mask(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(H, W) labels of a picture of (width, height).

        Raises:
            InvalidValueError: The runs do not fill the mask, or hold what is no label.
        """
        labels, lengths = np.array(self.runs[::2]), np.array(self.runs[1::2])
        if len(labels) != len(lengths) or lengths.sum() != self.width * self.height or labels.max(initial=0) > 254:
            raise InvalidValueError("The painted mask is not whole. Paint it anew.")
        cells = np.repeat(labels, lengths).astype(np.uint8).reshape(self.height, self.width)
        return np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.NEAREST))


class Marks(Body):
    """What is marked in a picture, in its upright pixels."""

    picture: Id
    points: dict[Label, Point] = Field(default_factory=dict, max_length=200)
    boxes: dict[Label, Box] = Field(default_factory=dict, max_length=50)
    mask: Painted | None = None

    def annotation(self, size: tuple[int, int]) -> Annotation:
        """As Python has it. Raises as :meth:`Painted.mask`."""
        mask = None if self.mask is None else self.mask.mask(size)
        return Annotation(self.points, self.boxes, mask)


class Transfer(Body):
    """Marks to be found in another picture.

    Attributes:
        map: Which map, where a picture has several.
    """

    asked: Asked = Asked()
    map: Name | None = None
    source: Marks
    target: Id


@router.post("/transfer", response_class=Response)
async def found(session: Here, request: Request, body: Transfer) -> Response:
    """What :func:`diffeat.tasks.transfer.transfer` finds: places, whether they are mutual, how sure they are."""
    known = await session.read(request, body.asked, [body.source.picture, body.target])
    marks = body.source
    check_search(len(marks.points) + _OF_BOX * len(marks.boxes), [k.features.frame.original for k in known])
    if marks.mask is None and not marks.boxes:
        return await session.quick.run(request, partial(_found, body, *known))
    if marks.mask is not None:
        check_pixels(k.features.frame.original for k in known)
        _check_all_with_all([_single(k.features, body.map) for k in known])
    return await session.line.run(request, partial(_found, body, *known))


def _found(body: Transfer, source: Known, target: Known) -> Response:
    marks = body.source.annotation(source.features.frame.original)
    one, other = (_single(known.features, body.map) for known in (source, target))
    result = transfer(one, other, marks)
    points = {
        name: {"x": p.at[0], "y": p.at[1], "similarity": p.similarity, "mutual": p.mutual, "confidence": p.confidence}
        for name, p in result.points.items()
    }
    boxes = {name: {"at": b.at, "confidence": b.confidence} for name, b in result.boxes.items()}
    masks = []
    if result.mask is not None and result.confidence is not None:
        size = shown_size(target.features.frame.original, SHOWN)
        sure = (255 * result.confidence.clip(0, 1)).round().astype(np.uint8)
        masks = [np.asarray(Image.fromarray(m).resize(size, Image.Resampling.NEAREST)) for m in (result.mask, sure)]
    return packed({"points": points, "boxes": boxes}, masks)


def _check_all_with_all(features: Sequence[FeatureMap]) -> None:
    one, other = (f.tensor for f in features)
    check_pairs(one[0].numel(), other[0].numel(), len(one))


def _single(features: FeatureMap, name: str | None) -> FeatureMap:
    return features if name is None else replace(features, activations={name: features[name]})


class Suggest(Body):
    """Places of one picture that choose places of another, and are chosen back."""

    asked: Asked = Asked()
    map: Name | None = None
    source: Id
    target: Id
    count: int = Field(default=12, ge=1, le=100)


@router.post("/suggest")
async def suggest(session: Here, request: Request, body: Suggest) -> dict[str, Any]:
    """The strongest mutual matches, spread over the picture."""
    known = await session.read(request, body.asked, [body.source, body.target])
    one, other = (_single(k.features, body.map) for k in known)
    check_pixels([one.frame.original, other.frame.original])
    _check_all_with_all([one, other])
    found = await session.line.run(request, partial(strongest_matches, one, other, body.count))
    return {"source": found.source.tolist(), "target": found.target.tolist(), "similarity": found.similarity.tolist()}


class Collection(Body):
    """Pictures with their marks, to be kept.

    Attributes:
        pairs: Numbers of source and target, whose points of one name belong together.
        classes: Names of the labels of masks, from 1.
    """

    pictures: list[Marks] = Field(min_length=1, max_length=24)
    pairs: list[tuple[Annotated[int, Field(ge=0, le=23)], Annotated[int, Field(ge=0, le=23)]]] = Field(
        default_factory=list, max_length=200
    )
    classes: list[Label] = Field(default_factory=list, max_length=254)


def _out(request: Request) -> Path | None:
    return request.app.state.out


Out = Annotated[Path | None, Depends(_out)]


@router.get("/marks")
async def where(out: Out) -> dict[str, Any]:
    """The folder that marks can be written into, if the server was given one."""
    return {"folder": None if out is None else str(out)}


@router.post("/marks", response_class=Response)
async def marks(session: Here, request: Request, body: Collection) -> Response:
    """A zip of a folder that the commands read (see :mod:`diffeat.tasks.transfer.marked`)."""
    return await session.quick.run(request, partial(_zipped, session, body))


def _zipped(session: Session, body: Collection) -> Response:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as folder:  # pictures are packed already
        for name, content in _files(session, body).items():
            folder.writestr(zipfile.ZipInfo(name), content)
    return Response(file.getvalue(), media_type="application/zip")


@router.post("/marks/keep")
async def keep(session: Here, request: Request, out: Out, body: Collection) -> dict[str, Any]:
    """Write the same folder into the one that the server was given, beside what is there."""
    return {"folder": str(await session.quick.run(request, lambda: write_new(out, _files(session, body))))}


def _files(session: Session, body: Collection) -> dict[str, bytes]:
    if max((n for pair in body.pairs for n in pair), default=0) >= len(body.pictures):
        raise InvalidValueError("A pair names a picture that is not there.")
    entries = [session.gallery[marks.picture] for marks in body.pictures]
    check_pixels(session.gallery.size(entry) for entry in entries)
    images = [entry.picture().image for entry in while_wanted(entries)]
    several = zip(entries, images, body.pictures, strict=True)
    return marked_files([Marked(e.name, i, m.annotation(i.size)) for e, i, m in several], body.pairs, body.classes)


def write_new(out: Path | None, files: Mapping[str, bytes]) -> Path:
    """Write files into a new folder ``marked-001``, ``marked-002`` … of one; returns it.

    Raises:
        InvalidValueError: There is none, or it cannot be written.
    """
    if out is None:
        raise InvalidValueError("Nothing is written here. Start diffeat app with --out FOLDER, or save the zip.")
    new_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = out / f"marked-{number:03d}"
        try:
            folder.mkdir()
            break
        except FileExistsError:
            number += 1
    for name, content in files.items():
        place = folder / name
        write_files(place.parent, [place.name], [content])
    return folder
