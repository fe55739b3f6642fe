"""Masks: of words, by the model's attention to its text; of parts, by features or self-attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Request, Response
from PIL import Image
from pydantic import Field

from diffeat.app.asked import Asked, Body, Id, Ids, Maps
from diffeat.app.here import Here
from diffeat.app.packet import packed
from diffeat.app.session import Session, shown_size
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor
from diffeat.features import Picture
from diffeat.tasks.parts import PartOptions, attention_parts, parts_of
from diffeat.tasks.scored import ScoredMaps
from diffeat.tasks.words import WordOptions
from diffeat.tasks.words import words as find_words

router = APIRouter()

#: Pixels at which masks are made.
_MASKS = 400_000

Word = Annotated[str, Field(min_length=1, max_length=100)]


class Words(Body):
    """Words to find in a picture.

    Attributes:
        background: Height below which a place belongs to no word.
        refine: Products with the self-attention.
    """

    asked: Asked = Asked()
    picture: Id
    words: list[Word] = Field(min_length=1, max_length=12)
    background: float = Field(default=0.5, ge=0, le=1)
    refine: int = Field(default=0, ge=0, le=4)


class Parts(Maps):
    """Parts of pictures.

    Attributes:
        together: One split for all pictures, so that a part is the same in each.
    """

    pictures: Ids
    method: Literal["cuts", "kmeans", "merging"] = "kmeans"
    parts: int | None = Field(default=None, ge=1, le=24)
    threshold: float | None = Field(default=None, gt=0, le=10)
    together: bool = True


@router.post("/words", response_class=Response)
async def words(session: Here, request: Request, body: Words) -> Response:
    """Where each word is, and which word each place belongs to."""
    recipe, entry = body.asked.of(session.offered), session.gallery[body.picture]
    options = WordOptions(recipe.prompt if body.asked.prompt else None, refine=body.refine, background=None)
    key = ("words", recipe.hash, entry.id, entry.where.stamp(), tuple(body.words), options)

    def find() -> ScoredMaps:
        return find_words(entry.picture(), body.words, _extractor(session, body.asked), options)

    maps = await session.once(request, key, find, lambda maps: maps.maps.nbytes)
    maps = replace(maps, background=body.background)
    return await session.line.run(request, partial(_masks, [maps], [entry.picture()], heights=True))


@router.post("/parts", response_class=Response)
async def parts(session: Here, request: Request, body: Parts) -> Response:
    """Which part each place belongs to."""
    pictures = [session.gallery[id].picture() for id in body.pictures]
    options = PartOptions(body.method, body.parts, body.threshold)
    if body.method == "merging":
        extractor = partial(_extractor, session, body.asked)

        def merge() -> Response:
            return _masks([attention_parts(extractor(), picture, options) for picture in pictures], pictures)

        return await session.line.run(request, merge)
    known = await session.read(request, body.asked, body.pictures)
    features = [k.features for k in known]
    if body.map is not None:
        features = [replace(f, activations={body.map: f[body.map]}) for f in features]

    def split() -> Response:
        return _masks(parts_of(features, options, together=body.together), pictures)

    return await session.line.run(request, split)


def _extractor(session: Session, asked: Asked) -> Extractor:
    """
    Raises:
        InvalidValueError: The recipe is not of one diffusion model.
    """
    recipe = asked.of(session.offered)
    source = session.source(recipe)
    if not isinstance(source, Extractor):
        raise InvalidValueError(f"{recipe.name!r} has no attention to read: choose a recipe of one diffusion model.")
    return source


def _masks(several: list[ScoredMaps], pictures: list[Picture], *, heights: bool = False) -> Response:
    """Numbers of things, 0 for none; with ``heights`` the maps of each thing as well, as bytes between 0 and 1."""
    arrays: list[np.ndarray] = []
    told: list[dict[str, Any]] = []
    for maps, picture in zip(several, pictures, strict=True):
        size = shown_size(maps.frame.original, _MASKS)
        small = picture.image.resize(size, Image.Resampling.LANCZOS)
        maps = replace(maps, frame=replace(maps.frame, original=size))
        labels = maps.labels(small)
        shares = torch.bincount(labels.flatten(), minlength=len(maps.names) + 1) / labels.numel()
        told.append({"names": maps.names, "notes": maps.notes, "shares": shares[1:].tolist()})
        arrays.append(labels.to(torch.uint8).numpy())
        if heights:
            arrays.append((maps.at_pixels(small).clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    return packed({"pictures": told}, arrays)
