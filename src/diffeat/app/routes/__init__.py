"""The endpoints, a module for each subject; all under ``/api``."""

from __future__ import annotations

from diffeat.app.routes import features, leave, match, measured, model, pictures, segments, stores

#: In the order of the documentation.
ROUTERS = (
    model.router,
    pictures.router,
    features.router,
    measured.router,
    segments.router,
    match.router,
    stores.router,
    leave.router,
)
