"""Labelled grids: a row for each picture, the picture first, then what the model makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.viz.heat import heat_overlay
from diffeat.viz.pca import pca_colours

Row = tuple[str, Image.Image | None, Mapping[str, Tensor]]

_INK, _SOFT, _EMPTY = (32, 34, 38), (125, 130, 138), (240, 241, 243)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


def feature_grid(
    rows: Sequence[Row], shared_basis: bool = False, *, cell: int = 256, smooth: bool = True, caption: str = ""
) -> Image.Image:
    """A grid of pictures × activations in PCA colours.

    Args:
        rows: For each picture its title, the picture (or ``None``) and its maps ``(C, h, w)`` by name.
        shared_basis: One basis per activation for all pictures, so that equal colours mean equal features.
        cell: Width of a cell in pixels.
        smooth: Enlarge the colours smoothly (bicubic); otherwise each feature cell stays a visible square.
        caption: A line under the grid.

    Returns:
        An RGB picture on white.

    Raises:
        InvalidValueError: No rows, or no maps.
    """
    names = _columns(rows)
    coloured: dict[tuple[int, str], Image.Image] = {}
    for name in names:
        having = [i for i, row in enumerate(rows) if name in row[2]]
        pictures = pca_colours([rows[i][2][name] for i in having], shared=shared_basis)
        coloured |= {(i, name): Image.fromarray(p) for i, p in zip(having, pictures, strict=True)}
    notes = {name: _shapes([row[2][name] for row in rows if name in row[2]]) for name in names}
    resampling = _RESAMPLING["bicubic" if smooth else "nearest"]
    return draw_grid(rows, names, coloured, notes, cell, resampling, caption)


def heat_grid(rows: Sequence[Row], *, cell: int = 256, caption: str = "") -> Image.Image:
    """A grid of pictures × words: where the model's attention puts each word.

    Args:
        rows: For each picture its title, the picture, and by word the attention ``(h, w)`` over the whole
            picture.
        cell: Width of a cell in pixels.
        caption: A line under the grid.

    Returns:
        An RGB picture on white. Each map is scaled by itself.

    Raises:
        InvalidValueError: No rows, no maps, or a row without its picture.
    """
    names = _columns(rows)
    overlaid: dict[tuple[int, str], Image.Image] = {}
    for i, (title, photo, maps) in enumerate(rows):
        if photo is None:
            raise InvalidValueError(f"{title}: the picture is needed to lay attention over it.")
        size = (cell, max(1, round(cell * photo.height / photo.width)))
        small = photo.resize(size, Image.Resampling.LANCZOS)
        overlaid |= {(i, word): heat_overlay(small, values) for word, values in maps.items()}
    shown = {name: f"“{name}”" for name in names}
    return draw_grid(rows, names, overlaid, {}, cell, Image.Resampling.BICUBIC, caption, shown)


def _columns(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row[2]))
    if not names:
        raise InvalidValueError("There is nothing to draw: no picture has any maps.")
    return names


def draw_grid(
    rows: Sequence[Row],
    names: list[str],
    cells: Mapping[tuple[int, str], Image.Image],
    notes: Mapping[str, str],
    cell: int,
    resampling: Image.Resampling,
    caption: str,
    shown: Mapping[str, str] | None = None,
) -> Image.Image:
    """Cells by row and column name; a row has its picture, if any, at the left and its title below."""
    margin, gap = max(cell // 10, 12), max(cell // 32, 4)
    label, small = font_of(max(cell // 17, 11)), font_of(max(cell // 21, 10))
    line = round(sum(label.getmetrics()) * 1.15)
    photos = any(row[1] is not None for row in rows)
    columns = len(names) + photos
    heads = {name: _wrapped((shown or {}).get(name, name), label, cell) for name in names}
    head = max(len(text) for text in heads.values()) * line + (line if any(notes.values()) else 0)
    heights = []
    for i, row in enumerate(rows):
        heights.append(_row_height(row, [cells[i, name] for name in names if (i, name) in cells], cell))
    title = line + gap
    width = 2 * margin + columns * cell + (columns - 1) * gap
    height = 2 * margin + head + gap + sum(heights) + len(rows) * (title + gap) + (2 * line if caption else 0)
    canvas = Image.new("RGB", (width, height - gap), "white")
    pen = ImageDraw.Draw(canvas)
    for column, name in enumerate(names, start=int(photos)):
        noted = bool(notes.get(name))
        x, y = margin + column * (cell + gap), margin + head - (len(heads[name]) + noted) * line
        for text in heads[name]:
            pen.text((x, y), text, font=label, fill=_INK)
            y += line
        pen.text((x, y), notes.get(name, ""), font=small, fill=_SOFT)
    y = margin + head + gap
    for i, (row, tall) in enumerate(zip(rows, heights, strict=True)):
        x = margin
        if photos:
            _paste(canvas, row[1], (x, y, cell, tall), Image.Resampling.LANCZOS)
            x += cell + gap
        for name in names:
            _paste(canvas, cells.get((i, name)), (x, y, cell, tall), resampling)
            x += cell + gap
        name = _shortened(row[0], small, width - 2 * margin)
        pen.text((margin, y + tall + gap // 2), name, font=small, fill=_SOFT)
        y += tall + title + gap
    if caption:
        pen.text((margin, y), _shortened(caption, small, width - 2 * margin), font=small, fill=_SOFT)
    return canvas


def _row_height(row: Row, cells: list[Image.Image], cell: int) -> int:
    source = row[1] if row[1] is not None else max(cells, key=lambda c: c.width * c.height, default=None)
    if source is None:
        return cell
    return min(max(round(cell * source.height / source.width), cell // 4), 2 * cell)


def _paste(
    canvas: Image.Image, picture: Image.Image | None, box: tuple[int, int, int, int], resampling: Image.Resampling
) -> None:
    x, y, width, height = box
    if picture is None:
        ImageDraw.Draw(canvas).rectangle((x, y, x + width - 1, y + height - 1), fill=_EMPTY)
    else:
        canvas.paste(picture.convert("RGB").resize((width, height), resampling), (x, y))


def _shapes(maps: Sequence[Tensor]) -> str:
    shapes = list(dict.fromkeys(tuple(m.shape) for m in maps))
    c, h, w = shapes[0]
    return f"{c} × {h} × {w}" + (" …" if len(shapes) > 1 else "")


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """A font that every installation has."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 4) -> list[str]:
    """Break after dots, slashes, underscores and blanks; cut what is still too wide."""
    lines, rest = [], text
    while rest:
        if font.getlength(rest) <= width:
            return [*lines, rest]
        if len(lines) == most - 1:
            return [*lines, _shortened(rest, font, width)]
        fits = max(1, sum(font.getlength(rest[: n + 1]) <= width for n in range(len(rest))))
        at = max((n + 1 for n in range(fits) if rest[n] in "./_ @"), default=fits)
        lines.append(rest[:at])
        rest = rest[at:]
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    for length in range(len(text), 0, -1):
        left = text[: length // 2] + "…" + text[len(text) - (length - length // 2) + 1 :]
        if font.getlength(left) <= width:
            return left
    return "…"
