"""Pictures of content shift: the input, what the model makes of it under each technique, and the features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.features.picture import ImageLike
from diffeat.studies.content_shift.gate import GateResult, Variant
from diffeat.studies.content_shift.meter import ShiftMeter
from diffeat.viz import pca_colours

_INK, _SOFT = (32, 34, 38), (125, 130, 138)


def example_pictures(
    result: GateResult, backbone: Backbone, images: Sequence[ImageLike], count: int
) -> list[tuple[str, Image.Image]]:
    """Grids for the pictures on which the best technique gains most, half way and least: input, reconstructions,
    features."""
    shown = [v for v in result.variants if v.role in ("base", "technique", "shuffled")][:6]
    order = _by_gain(result)
    chosen = sorted(
        {order[round(k * (len(order) - 1) / max(count - 1, 1))] for k in range(min(count, len(order)))}, key=order.index
    )
    found = []
    with ShiftMeter(
        backbone, [images[i] for i in chosen] * (2 if len(chosen) == 1 else 1), result.recipe, result.settings
    ) as meter:
        for k, i in enumerate(chosen):
            found.append((f"{Path(result.pictures[i]).name}", _grid(meter, k, shown, result)))
    return found


def _grid(meter: ShiftMeter, k: int, shown: Sequence[Variant], result: GateResult) -> Image.Image:
    true, clean, t = _image(meter.pixels(k)), meter.clean_features(k), result.timesteps
    name = next(iter(clean), None)
    maps = [clean[name]] if name else []
    far, near = [true], [true]
    for v in shown:
        shuffled = v.role == "shuffled"
        far.append(_image(meter.reconstruct(v.combination, k, "img2img", shuffled)[0][0]))
        estimates, features = meter.reconstruct(v.combination, k, "operating", shuffled)
        near.append(_image(estimates[0]))
        if name:
            maps.append(features[name][0])
    rows = [
        (f"Img2Img from t = {t['img2img']:g}", far),
        (f"estimate of the clean picture at t = {t['operating']:g}", near),
    ]
    if name:
        colours = [Image.fromarray(c) for c in pca_colours(maps, shared=True)]
        rows.append((f"{name}, shared PCA colours; first: of the clean picture", colours))
    heads = ["picture", *(v.name for v in shown)]
    return _sheet(heads, rows)


def _by_gain(result: GateResult) -> list[int]:
    best, at = result.ranking()[0], ("img2img", result.settings.measures[0])
    gain = result.shifts["base"][at].mean(1) - result.shifts[best][at].mean(1)
    return [int(i) for i in np.argsort(-gain)]


def variant_title(variant: Variant) -> str:
    """Name of a row: controls stand indented under their technique."""
    return f"   ↳ {variant.role}" if variant.of else variant.name


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def _sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image]]], cell: int = 200) -> Image.Image:
    """Pictures in rows with a title each, under column heads."""
    font, small = _font(14), _font(12)
    gap, line = 8, 20
    first = rows[0][1][0]
    tall = round(cell * first.height / first.width)
    heads = [_lines(c, small, cell) for c in columns]
    head = max(len(h) for h in heads) * 16 + 4
    width = len(columns) * (cell + gap) + gap
    canvas = Image.new("RGB", (width, head + len(rows) * (tall + line + gap) + gap), "white")
    pen = ImageDraw.Draw(canvas)
    for i, lines in enumerate(heads):
        for n, text in enumerate(lines):
            pen.text((gap + i * (cell + gap), 4 + n * 16), text, font=small, fill=_INK)
    y = head
    for title, pictures in rows:
        pen.text((gap, y), title, font=font, fill=_SOFT)
        for i, picture in enumerate(pictures):
            filtered = Image.Resampling.LANCZOS if picture.width > cell else Image.Resampling.BICUBIC
            canvas.paste(picture.resize((cell, tall), filtered), (gap + i * (cell + gap), y + line))
        y += tall + line + gap
    return canvas


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 3) -> list[str]:
    lines = [""]
    for word in text.strip().split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    cut = []
    for line in lines[:most]:
        while font.getlength(line) > width:
            line = line[: max(1, len(line) - 4)].rstrip("…") + "…"
        cut.append(line)
    return cut


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
