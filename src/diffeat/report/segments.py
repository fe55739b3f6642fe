"""Masks of pictures on disk: label maps, overlays, and a page to look through them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.files import new_folder, write_files
from diffeat.report.labels import coloured
from diffeat.report.page import Page
from diffeat.tasks.scored import ScoredMaps

PAGE = "index.html"
#: Longer side of pictures on the page.
_WIDEST = 480

_SLIDER = """
document.querySelectorAll("figure.word").forEach(figure => {
  const images = figure.querySelectorAll("img"), canvas = figure.querySelector("canvas");
  const draw = () => {
    const level = 255 * document.getElementById("level").value, pen = canvas.getContext("2d");
    const image = images[Math.min(document.getElementById("layer").value, images.length - 1)];
    document.getElementById("layer-name").textContent = image.alt;
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    const data = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.data.length; i += 4) {
      const on = data.data[i] > level;
      data.data[i] = 255; data.data[i + 1] = 110; data.data[i + 2] = 0; data.data[i + 3] = on ? 150 : 0;
    }
    pen.putImageData(data, 0, 0);
  };
  images.forEach(image => image.complete ? draw() : image.addEventListener("load", draw));
  ["level", "layer"].forEach(id => document.getElementById(id).addEventListener("input", draw));
});
"""


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each picture's files, without its ending; pictures of one name get a number.

    Example:
        >>> names_of([Path("a/cat.png"), Path("b/cat.jpg"), Path("dog.png")])
        ['cat', 'cat-2', 'dog']
    """
    counts: dict[str, int] = {}
    names: dict[str, None] = {}
    for path in paths:
        name = path.stem
        while name in names:
            counts[path.stem] = counts.get(path.stem, 1) + 1
            name = f"{path.stem}-{counts[path.stem]}"
        names[name] = None
    return list(names)


def files_of(names: Sequence[str]) -> list[str]:
    """What :func:`write_segments` writes."""
    return [file for name in names for file in (f"{name}.labels.png", f"{name}.overlay.jpg")] + [PAGE]


def write_segments(
    folder: str | Path,
    names: Sequence[str],
    results: Iterable[tuple[Image.Image, ScoredMaps, Tensor, Tensor]],
    title: str,
    *,
    words: Sequence[str] = (),
    layers: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Write each picture's label map (palette PNG, 0 is nothing) and overlay as it comes; returns a page of all.

    Args:
        names: Of the files, one for each picture.
        results: Picture, its maps, its labels (H, W), and the maps at its pixels (k, H, W); taken one by one.
        words: Whose maps are shown, with a slider for the threshold.
        layers: Of which the maps have maps by themselves, with a slider through them.

    Raises:
        InvalidValueError: A file is there already, or more than 255 things.
    """
    files = files_of(names)
    new_folder(folder, files, force=force)
    page = Page(title)
    if words:
        page.html_part(
            '<p>threshold <input id="level" type="range" min="0" max="1" step="0.01" value="0.5"> '
            f'layer <input id="layer" type="range" min="0" max="{len(layers)}" step="1" value="0"'
            f'{"" if layers else " disabled"}> <span id="layer-name"></span></p>'
        )
    for name, (picture, maps, labels, heights) in zip(names, results, strict=True):
        if len(maps.names) > 255:
            raise InvalidValueError(f"A label map holds 255 labels at most, {name} has {len(maps.names)}.")
        overlay = coloured(labels.numpy(), picture)
        own = [_palette(labels.numpy()), _bytes(overlay, "JPEG")]
        write_files(folder, files_of([name])[:-1], own, force=force)
        page.heading(name)
        page.picture(_small(_beside(picture, overlay), 2 * _WIDEST), ", ".join(maps.names) if words else "")
        if words:
            page.html_part(_heights(picture, maps, heights))
        page.bullets(maps.notes)
    if words:
        page.html_part(f"<script>{_SLIDER}</script>")
    return write_files(folder, [PAGE], [page.html()], force=force)


def _heights(picture: Image.Image, maps: ScoredMaps, heights: Tensor) -> str:
    """Each word's map, over which a threshold is drawn."""
    photo = _small(picture, _WIDEST)
    figures = []
    for k, word in enumerate(maps.names):
        shown = {"as chosen": _grey(heights[k]).resize(photo.size, Image.Resampling.BILINEAR)}
        for layer, alone in maps.layers.items():
            top, left, rows, columns = maps.frame.content_cells((alone.shape[1], alone.shape[2]))
            shown[layer] = _grey(alone[k, top : top + rows, left : left + columns])
        sources = "".join(f'<img alt="{escape(n)}" hidden src="{_url(m, "PNG")}">' for n, m in shown.items())
        style = (
            f"background:url({_url(photo, 'JPEG')});width:{photo.width}px;height:{photo.height}px;background-size:cover"
        )
        figures.append(
            f'<figure class="word">{sources}<canvas width="{photo.width}" '
            f'height="{photo.height}" style="{style}"></canvas><figcaption>{escape(word)}</figcaption></figure>'
        )
    return "".join(figures)


def _grey(values: Tensor) -> Image.Image:
    """Stretched from black to white."""
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) / max(high - low, 1e-12) * 255).round().numpy().astype(np.uint8))


def _palette(labels: np.ndarray) -> bytes:
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    swatch = coloured(np.arange(256)[None], Image.new("RGB", (256, 1)))
    image.putpalette(np.asarray(swatch).reshape(-1).tolist())
    return _bytes(image, "PNG")


def _beside(one: Image.Image, other: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (one.width + other.width + 8, one.height), "white")
    canvas.paste(one, (0, 0))
    canvas.paste(other, (one.width + 8, 0))
    return canvas


def _small(picture: Image.Image, side: int) -> Image.Image:
    small = picture.convert("RGB").copy()
    small.thumbnail((side, side))
    return small


def _bytes(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def _url(picture: Image.Image, form: str) -> str:
    return f"data:image/{form.lower()};base64,{base64.b64encode(_bytes(picture, form)).decode()}"
