"""Pictures of matches: points in the source, where they were found in the target, and how similar the rest is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffeat.viz import heat_overlay
from diffeat.viz.grid import font_of

_FINE = 3  # drawn this much larger and reduced, for smooth edges
_GAP = 12
_INK, _PAPER = (32, 34, 38), (255, 255, 255)
_RIGHT, _WRONG = (22, 150, 84), (206, 44, 44)
_COLOURS = (
    *((230, 60, 60), (50, 120, 220), (245, 170, 20), (30, 160, 100), (160, 70, 200), (20, 180, 200)),
    *((240, 110, 170), (130, 90, 50), (110, 190, 40), (70, 70, 90)),
)


@dataclass(frozen=True)
class _Panel:
    """A picture enlarged to the row's height."""

    picture: Image.Image
    scale: float

    def at(self, point: Sequence[float]) -> tuple[float, float]:
        return (point[0] + 0.5) * self.scale, (point[1] + 0.5) * self.scale


def match_picture(
    source: Image.Image,
    target: Image.Image,
    points: Tensor,
    found: Tensor,
    *,
    heats: Sequence[Tensor] = (),
    height: int = 320,
    caption: str = "",
) -> Image.Image:
    """Source and target with matching numbers, and a heat map for each of ``heats``.

    Args:
        points: (n, 2) in source pixels; ``found`` in target pixels.
        heats: Similarity of the first points with the whole target, each any grid.
    """
    panels = [_panel(source, height), _panel(target, height)]
    for panel, places in zip(panels, (points, found), strict=True):
        draw = ImageDraw.Draw(panel.picture)
        for k, place in enumerate(places.tolist()):
            _dot(draw, panel.at(place), _COLOURS[k % len(_COLOURS)], str(k + 1) if len(points) <= 30 else "")
    for k, heat in enumerate(heats):
        # Only what stands out is lit: cosines of most places lie close together, far above zero.
        low = torch.quantile(heat.flatten()[:: max(1, heat.numel() // 100_000)].float(), 0.8).item()
        panel = _panel(heat_overlay(target, heat, low=low, high=heat.max().item()), height)
        _dot(ImageDraw.Draw(panel.picture), panel.at(found[k].tolist()), _COLOURS[k % len(_COLOURS)], str(k + 1))
        panels.append(panel)
    titles = ["source", "target", *(f"similarity to {k + 1}" for k in range(len(heats)))]
    return _row(panels, titles, height, caption)


def errors_picture(
    source: Image.Image,
    target: Image.Image,
    points: Tensor,
    found: Tensor,
    truth: Tensor,
    correct: Sequence[bool],
    threshold: float,
    *,
    height: int = 260,
    caption: str = "",
) -> Image.Image:
    """A scored pair: rings are the truth with its tolerance in pixels, dots the predictions, lines the errors."""
    one, other = _panel(source, height), _panel(target, height)
    draw = ImageDraw.Draw(one.picture)
    for place, right in zip(points.tolist(), correct, strict=True):
        _dot(draw, one.at(place), _RIGHT if right else _WRONG, "")
    draw = ImageDraw.Draw(other.picture)
    for place, goal, right in zip(found.tolist(), truth.tolist(), correct, strict=True):
        colour = _RIGHT if right else _WRONG
        (x, y), (u, v), radius = other.at(place), other.at(goal), threshold * other.scale
        draw.ellipse((u - radius, v - radius, u + radius, v + radius), outline=colour, width=_FINE)
        draw.line((u, v, x, y), fill=colour, width=2 * _FINE)
        _dot(draw, (x, y), colour, "")
    return _row([one, other], ["source", "target: ring = truth, dot = prediction"], height, caption)


def _panel(image: Image.Image, height: int) -> _Panel:
    scale = height * _FINE / image.height
    size = max(1, round(image.width * scale)), height * _FINE
    return _Panel(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), scale)


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], colour: tuple[int, int, int], label: str) -> None:
    radius = (8 if label else 4) * _FINE
    x, y = at
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_PAPER, width=int(1.5 * _FINE))
    if label:
        draw.text((x, y), label, fill=_PAPER, font=font_of(10 * _FINE), anchor="mm")


def _row(panels: list[_Panel], titles: list[str], height: int, caption: str) -> Image.Image:
    font = font_of(13)
    pictures = [p.picture.resize((max(1, p.picture.width // _FINE), height), Image.Resampling.LANCZOS) for p in panels]
    width = sum(p.width for p in pictures) + _GAP * (len(pictures) + 1)
    top = _GAP + 20
    page = Image.new("RGB", (width, top + height + _GAP + (22 if caption else 0)), _PAPER)
    draw = ImageDraw.Draw(page)
    left = _GAP
    for picture, title in zip(pictures, titles, strict=True):
        page.paste(picture, (left, top))
        while len(title) > 1 and font.getlength(title) > picture.width:
            title = title[:-2].rstrip() + "…"
        draw.text((left, _GAP), title, fill=_INK, font=font)
        left += picture.width + _GAP
    if caption:
        draw.text((_GAP, top + height + 6), caption, fill=_INK, font=font)
    return page
