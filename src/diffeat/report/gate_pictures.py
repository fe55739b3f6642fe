"""Pictures of content shift: the input, what the model makes of it under each technique, and the features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffeat.geometry import to_image
from diffeat.studies.content_shift.examples import Example
from diffeat.viz import pca_colours

_INK, _SOFT = (32, 34, 38), (125, 130, 138)


def example_picture(example: Example) -> Image.Image:
    """The picture, its reconstructions, and its features, in rows."""
    true, t = to_image(example.pixels), example.timesteps
    rows = [
        (f"Img2Img from t = {t['img2img']:g}", [true, *map(to_image, example.img2img)]),
        (f"estimate of the clean picture at t = {t['operating']:g}", [true, *map(to_image, example.estimates)]),
    ]
    if example.activation is not None:
        colours = [Image.fromarray(c) for c in pca_colours(example.features, shared=True)]
        rows.append((f"{example.activation}, shared PCA colours; first: of the clean picture", colours))
    return _sheet(["picture", *example.variants], rows)


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
