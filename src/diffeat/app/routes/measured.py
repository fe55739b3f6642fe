"""Properties of all activations, measured when they are asked for (see :mod:`diffeat.studies.selection.meter`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from diffeat.app.asked import Body, Ids, Number
from diffeat.app.here import Here
from diffeat.studies.selection import Measurement, measure

router = APIRouter()


class Measure(Body):
    """On which pictures, at which timestep, over how many draws."""

    pictures: Ids
    timestep: Number
    draws: int = Field(default=2, ge=2, le=16)
    prompt: str | None = Field(default=None, max_length=2000)


@router.post("/measure")
async def measured(session: Here, request: Request, body: Measure) -> dict[str, Any]:
    """Noise share, granularity, concentration, massive channels … of every activation that is a map, by id."""
    entries = [session.gallery[id] for id in body.pictures]
    key = ("measure", body.model_dump_json(), *(entry.where.stamp() for entry in entries))

    def work() -> Measurement:
        pictures = [entry.picture() for entry in entries]
        backbone = session.extractor.backbone
        return measure(backbone, pictures, timestep=body.timestep, draws=body.draws, prompts=body.prompt)

    measurement = await session.once(request, key, work, lambda m: 1 << 20)
    return {
        "on": measurement.settings,
        "values": {p.id: asdict(p.measured) for p in measurement.properties},
    }
