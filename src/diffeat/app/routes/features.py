"""Features of pictures: as they are, under a click, in colours, channel by channel."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
import torch
from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator
from torch import Tensor

from diffeat.app.asked import Click, Features, Id, Maps, Number
from diffeat.app.bounds import check_pixels
from diffeat.app.here import Here
from diffeat.app.line import while_wanted
from diffeat.app.packet import as_bytes, packed
from diffeat.app.session import SHOWN, Known, Session
from diffeat.errors import InvalidValueError
from diffeat.refinement.massive import detect_massive
from diffeat.refinement.stats import ChannelStatistics
from diffeat.viz import pca_colours

router = APIRouter()

#: Bytes of features that go to the browser, which then compares them itself while the pointer moves.
MOST_SENT = 16 << 20
#: Pixels of a picture of a strip.
STRIP = 60_000


@router.post("/features", response_class=Response)
async def features(session: Here, request: Request, body: Features) -> Response:
    """Compute a picture's features, or find them; they are sent where they are small enough."""
    cached = session.is_known(body.asked, body.picture)
    (known,) = await session.read(request, body.asked, [body.picture])
    return await session.quick.run(request, partial(_features, known, cached))


def _features(known: Known, cached: bool) -> Response:
    frame, maps = known.features.frame, known.features.activations
    sent = [m for m in maps.values() if 2 * m.numel() <= MOST_SENT] if len(maps) == 1 else []
    header = {
        "maps": [{"name": name, "shape": list(m.shape), "bytes": m.nbytes} for name, m in maps.items()],
        "frame": {"original": frame.original, "model": frame.model, "content": frame.content},
        "seconds": known.seconds,
        "rows": known.rows,
        "cached": cached,
        "text": known.features.provenance.get("prompt", ""),
    }
    return packed(header, [_half(m) for m in sent])


def _half(features: Tensor) -> np.ndarray:
    """In half precision, scaled to a largest magnitude of one: directions are what is compared."""
    values = features.float()
    return (values / values.abs().amax().clamp(min=1e-12)).to(torch.float16).numpy()


@router.post("/click", response_class=Response)
async def click(session: Here, request: Request, body: Click) -> Response:
    """The places that :func:`diffeat.match` finds for a point, and the similarity with every pixel shown."""
    source, *targets = await session.read(request, body.asked, [body.source, *body.pictures])
    check_pixels(known.features.frame.original for known in targets)
    return await session.quick.run(request, partial(_click, session, body, source, targets))


def _click(session: Session, body: Click, source: Known, targets: list[Known]) -> Response:
    point = torch.tensor([body.point], dtype=torch.float64)
    matches, heats = [], []
    for id, known in while_wanted(zip(body.pictures, targets, strict=True)):
        found = session.target(known, id, body.map).find(source.features, point)
        x, y = found.target[0].tolist()
        matches.append({"picture": id, "x": x, "y": y, "similarity": float(found.similarity[0])})
        if body.heat:
            heats.append(session.target(known, id, body.map, most=SHOWN).heat(source.features, point[0]))
    low = min((float(heat.min()) for heat in heats), default=-1.0)
    high = max((float(heat.max()) for heat in heats), default=1.0)
    return packed({"matches": matches, "low": low, "high": high}, [as_bytes(heat, low, high) for heat in heats])


class Strip(Features):
    """All maps of one picture, side by side.

    Attributes:
        source: The picture that a point lies in, sought in each map; without both, maps are in colours.
    """

    source: Id | None = None
    point: tuple[Number, Number] | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.source is None) != (self.point is None):
            raise ValueError("source and point go together: the picture, and the point in it that is sought")
        return self


@router.post("/strip", response_class=Response)
async def strip(session: Here, request: Request, body: Strip) -> Response:
    """Several timesteps or layers of one picture: in colours, or what is similar to a point."""
    ids = [body.picture, *([body.source] if body.source is not None else [])]
    known, *source = await session.read(request, body.asked, ids)
    return await session.quick.run(request, partial(_strip, session, body, known, source))


def _strip(session: Session, body: Strip, known: Known, source: list[Known]) -> Response:
    names = list(known.features.activations)
    header: dict[str, Any] = {
        "maps": [{"name": n, "shape": list(m.shape)} for n, m in known.features.activations.items()]
    }
    frame = known.features.frame
    header |= {"frame": {"original": frame.original, "model": frame.model, "content": frame.content}}
    header |= {"seconds": known.seconds, "rows": known.rows}
    if body.point is None:
        return packed(header, [pca_colours([known.features[name]])[0] for name in while_wanted(names)])
    matches, heats = [], []
    for name in while_wanted(names):
        target = session.target(known, body.picture, name, most=STRIP)
        found = target.find(source[0].features, torch.tensor([body.point], dtype=torch.float64))
        heat = target.heat(source[0].features, body.point)
        (x, y), similarity = found.target[0].tolist(), float(found.similarity[0])
        matches.append({"x": x, "y": y, "similarity": similarity, "low": float(heat.min()), "high": float(heat.max())})
        heats.append(as_bytes(heat, matches[-1]["low"], matches[-1]["high"]))
    return packed(header | {"matches": matches}, heats)


@router.post("/pca", response_class=Response)
async def pca(session: Here, request: Request, body: Maps) -> Response:
    """The first three principal components as colours, one basis for all pictures."""
    known = await session.read(request, body.asked, body.pictures)

    def colours() -> Response:
        return packed({"pictures": body.pictures}, pca_colours([_map(k, body.map) for k in known], shared=True))

    return await session.quick.run(request, colours)


class Channel(Maps):
    """One channel of a map."""

    channel: int = Field(ge=0, le=10**6)


@router.post("/channel", response_class=Response)
async def channel(session: Here, request: Request, body: Channel) -> Response:
    """A channel's values, as bytes between the lowest and the highest among the pictures."""
    known = await session.read(request, body.asked, body.pictures)
    maps = [_map(k, body.map) for k in known]
    if body.channel >= min(len(m) for m in maps):
        raise InvalidValueError(f"There are channels 0 to {min(len(m) for m in maps) - 1} here, not {body.channel}.")
    values = [m[body.channel].float() for m in maps]
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    return packed({"pictures": body.pictures, "low": low, "high": high}, [as_bytes(v, low, high) for v in values])


@router.post("/statistics")
async def statistics(session: Here, request: Request, body: Maps) -> dict[str, Any]:
    """What the channels are like over the pictures: spread, inequality, massive ones."""
    known = await session.read(request, body.asked, body.pictures)
    return await session.quick.run(request, partial(_statistics, [_map(k, body.map) for k in known]))


def _statistics(maps: list[Tensor]) -> dict[str, Any]:
    statistics = ChannelStatistics(len(maps[0]))
    for each in while_wanted(maps):
        statistics.update(each.flatten(1).T)
    top = statistics.top(8)
    return {
        "pictures": statistics.images,
        "channels": statistics.channels,
        "peak": statistics.peak_ratio,
        "gini": statistics.gini,
        "top": [{"channel": c, "mean": float(statistics.mean_abs[c])} for c in top],
        "massive": detect_massive(statistics).channels,
    }


def _map(known: Known, name: str | None) -> Tensor:
    return known.features.tensor if name is None else known.features[name]
