"""What can be read: the model, its activations, the recipes on offer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from diffeat.__about__ import __version__
from diffeat.activations import Activation, Catalogue
from diffeat.app.gallery import MOST_BYTES, MOST_PIXELS, MOST_UPLOADS
from diffeat.app.here import Here
from diffeat.app.session import Session
from diffeat.extraction import Reading, Recipe

router = APIRouter()


@router.get("/session")
async def session(session: Here) -> dict[str, Any]:
    """What the page begins with."""
    return await run_in_threadpool(_session, session)


def _session(session: Session) -> dict[str, Any]:
    first = session.extractor
    backbone = first.backbone
    return {
        "version": __version__,
        "model": first.recipe.model,
        "family": backbone.family.name,
        "device": str(backbone.device),
        "flow": backbone.prediction_type == "flow",
        "precision": first.precision,
        "recipes": [_recipe(name, recipe) for name, recipe in session.offered.items()],
        "passed": session.gallery.passed[:20],
        "limits": {"bytes": MOST_BYTES, "pixels": MOST_PIXELS, "uploads": MOST_UPLOADS},
    }


def _recipe(name: str, recipe: Recipe) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "kind": recipe.kind, "description": recipe.description}
    if isinstance(recipe, Reading):
        frame = recipe.frame
        told |= {
            "model": recipe.model,
            "activations": [str(activation) for activation in recipe.activations],
            "timesteps": list(recipe.trajectory.timesteps),
            "draws": recipe.trajectory.draws,
            "prompt": recipe.prompt,
            "template": recipe.template,
            "size": frame.longer if frame.mode == "keep" else None,
            "changes": not recipe.trajectory.stepped,
        }
    return told


@router.get("/activations")
async def activations(
    session: Here, find: Annotated[str, Query(max_length=300)] = ""
) -> dict[str, list[dict[str, Any]]]:
    """Activations in order of execution: all, those of a glob or alias, or those whose names hold the words."""
    return await run_in_threadpool(_activations, session, find.strip())


def _activations(session: Session, find: str) -> dict[str, list[dict[str, Any]]]:
    catalogue = Catalogue.of(session.extractor.backbone)
    if "*" in find or find in catalogue:
        chosen = catalogue.find(find)
    else:
        words = find.lower().split()
        chosen = [a for a in catalogue if all(w in f"{a.id} {a.kind} {a.stage} {a.aliases}".lower() for w in words)]
    return {"activations": [_told(activation) for activation in chosen]}


def _told(a: Activation) -> dict[str, Any]:
    return {
        "id": a.id,
        "kind": a.kind,
        "stage": a.stage,
        "channels": a.channels,
        "grid": a.grid,
        "heads": a.heads,
        "depth": a.depth,
        "aliases": a.aliases,
    }
