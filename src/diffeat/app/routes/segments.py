"""Masks: of words, by the model's attention to its text; of parts, by features or self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Request, Response
from PIL import Image
from pydantic import Field

from diffeat.activations import Catalogue
from diffeat.app.asked import Asked, Body, Id, Maps
from diffeat.app.bounds import check_pairs, check_split, ratio_of
from diffeat.app.gallery import Entry
from diffeat.app.here import Here
from diffeat.app.line import while_wanted
from diffeat.app.packet import packed
from diffeat.app.session import Session, shown_size
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor
from diffeat.features import Picture
from diffeat.tasks.parts import PartOptions, attention_parts, parts_of
from diffeat.tasks.parts.find import self_attentions
from diffeat.tasks.parts.merging import ANCHORS
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
    """

    asked: Asked = Asked()
    picture: Id
    words: list[Word] = Field(min_length=1, max_length=12)
    background: float = Field(default=0.5, ge=0, le=1)


class Parts(Maps):
    """Parts of pictures; by features one split for all, so that a part is the same in each."""

    method: Literal["cuts", "kmeans", "merging"] = "kmeans"
    parts: int | None = Field(default=None, ge=1, le=24)


@router.post("/words", response_class=Response)
async def words(session: Here, request: Request, body: Words) -> Response:
    """Where each word is, and which word each place belongs to."""
    recipe, entry = body.asked.of(session.offered), session.gallery[body.picture]
    options = WordOptions(recipe.prompt if body.asked.prompt else None, background=None)
    key = ("words", recipe.hash, entry.id, entry.where.stamp(), tuple(body.words), options)

    def find() -> ScoredMaps:
        return find_words(entry.picture(), body.words, _extractor(session, body.asked, [entry]), options)

    maps = await session.once(request, key, find, lambda maps: maps.maps.nbytes)
    maps = replace(maps, background=body.background)
    return await session.line.run(request, partial(_masks, [maps], [entry.picture()], heights=True))


@router.post("/parts", response_class=Response)
async def parts(session: Here, request: Request, body: Parts) -> Response:
    """Which part each place belongs to."""
    entries = [session.gallery[id] for id in body.pictures]
    pictures = [entry.picture() for entry in entries]
    options = PartOptions(body.method, body.parts)
    if body.method == "merging":

        def merge() -> Response:
            extractor = _extractor(session, body.asked, entries)
            catalogue = Catalogue.of(extractor.backbone)
            tokens = max(catalogue[id].channels for id in self_attentions(extractor.backbone))
            for entry in entries:
                places = round(tokens * ratio_of(extractor, session.gallery.size(entry)))
                check_pairs(places, places, 2 * ANCHORS**2)
            return _masks(
                [attention_parts(extractor, picture, options) for picture in while_wanted(pictures)], pictures
            )

        return await session.line.run(request, merge)
    known = await session.read(request, body.asked, body.pictures)
    features = [k.features for k in known]
    if body.map is not None:
        features = [replace(f, activations={body.map: f[body.map]}) for f in features]

    check_split(f.tensor for f in features)

    def split() -> Response:
        return _masks(parts_of(features, options, together=True, progress=while_wanted), pictures)

    return await session.line.run(request, split)


def _extractor(session: Session, asked: Asked, entries: Sequence[Entry]) -> Extractor:
    """What runs a recipe over some pictures.

    Raises:
        InvalidValueError: The recipe is not of one diffusion model, or that is more than a request may take.
    """
    recipe = asked.of(session.offered)
    source = session.check(recipe, entries)
    if not isinstance(source, Extractor):
        raise InvalidValueError(f"{recipe.name!r} has no attention to read: choose a recipe of one diffusion model.")
    return source


def _masks(several: list[ScoredMaps], pictures: list[Picture], *, heights: bool = False) -> Response:
    """Numbers of things, 0 for none; with ``heights`` the maps of each thing as well, as bytes between 0 and 1."""
    arrays: list[np.ndarray] = []
    told: list[dict[str, Any]] = []
    for maps, picture in while_wanted(zip(several, pictures, strict=True)):
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
