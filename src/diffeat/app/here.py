"""The session that a request belongs to."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from diffeat.app.session import Session


def _session(request: Request) -> Session:
    return cast(Session, request.app.state.session)


#: For arguments of endpoints.
Here = Annotated[Session, Depends(_session)]
