"""Every kind of head by name. Adding one: its class, and a line here."""

from __future__ import annotations

from diffeat.errors import UnknownNameError, did_you_mean
from diffeat.tasks.dense.head import DenseHead
from diffeat.tasks.predictors.head import Head
from diffeat.tasks.predictors.probes import LinearPictures, LinearPixels, VotingPixels

HEADS: dict[str, type[Head]] = {head.kind: head for head in (LinearPixels, VotingPixels, LinearPictures, DenseHead)}


def head_of(kind: str) -> type[Head]:
    """The class of a kind.

    Raises:
        UnknownNameError: There is no such kind, in this version.
    """
    if kind not in HEADS:
        raise UnknownNameError(f"No kind of head {kind!r}; it may be of a newer diffeat. {did_you_mean(kind, HEADS)}")
    return HEADS[kind]
