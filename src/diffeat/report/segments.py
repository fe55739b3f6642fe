"""Masks of pictures on disk: label maps, overlays, and a page to look through them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.files import new_folder, write_files
from diffeat.report.labels import coloured
from diffeat.report.page import Page, data_url, encoded, sheet
from diffeat.tasks.scored import ScoredMaps

PAGE = "index.html"
#: Longer side of pictures on the page.
_WIDEST = 480

#: Things that a legend names; of more, the largest.
_NAMED = 24

_STYLE = """<style>
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 0 1rem }
.maps figure { margin: .5rem 0 } .maps canvas { width: 100%; background-size: 100% 100%; border-radius: 4px }
.sliders { position: sticky; top: 0; padding: .5rem 0; background: var(--paper) }
.sliders, .sliders label { display: flex; flex-wrap: wrap; align-items: center; gap: 0 1.5rem }
.sliders label { column-gap: .5rem } .sliders output { overflow-wrap: anywhere }
</style>"""
_SLIDER = """
const [level, layer] = ["level", "layer"].map(id => document.getElementById(id));
document.querySelectorAll("figure.word").forEach(figure => {
  const images = figure.querySelectorAll("img"), canvas = figure.querySelector("canvas");
  const colour = figure.dataset.colour.split(" ").map(Number);
  const draw = () => {
    const pen = canvas.getContext("2d"), image = images[Math.min(layer.value, images.length - 1)];
    level.nextElementSibling.textContent = Number(level.value).toFixed(2);
    layer.nextElementSibling.textContent = image.alt;
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    const data = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.data.length; i += 4) {
      const on = data.data[i] > 255 * level.value;
      data.data.set([...colour, on ? 170 : 0], i);
    }
    pen.putImageData(data, 0, 0);
  };
  images.forEach(image => image.complete ? draw() : image.addEventListener("load", draw));
  [level, layer].forEach(slider => slider.addEventListener("input", draw));
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
    level: float = 0.5,
    force: bool = False,
) -> Path:
    """Write each picture's label map (palette PNG, 0 is nothing) and overlay as it comes; returns a page of all.

    Args:
        names: Of the files, one for each picture.
        results: Picture, its maps, its labels (H, W), and the maps at its pixels (k, H, W); taken one by one.
        words: Whose maps are shown, with a slider for the threshold.
        layers: Of which the maps have maps by themselves, with a slider through them.
        level: Of the threshold at first.

    Raises:
        InvalidValueError: A file is there already, or more than 255 things.
    """
    files = files_of(names)
    new_folder(folder, files, force=force)
    page = Page(title)
    page.html_part(_STYLE)
    if words:
        page.html_part(
            '<p class="sliders"><label>threshold of each map, stretched '
            f'<input id="level" type="range" min="0" max="1" step="0.01" value="{level:g}"> <output></output></label>'
            f'<label>layer <input id="layer" type="range" min="0" max="{len(layers)}" value="0"'
            f"{'' if layers else ' disabled'}> <output></output></label></p>"
        )
    for name, (picture, maps, labels, heights) in zip(names, results, strict=True):
        if len(maps.names) > 255:
            raise InvalidValueError(f"A label map holds 255 labels at most, {name} has {len(maps.names)}.")
        overlay = coloured(labels.numpy(), picture)
        own = [_palette(labels.numpy()), encoded(overlay, "JPEG")]
        write_files(folder, files_of([name])[:-1], own, force=force)
        page.heading(name)
        page.picture(_small(sheet([[picture, overlay]], 8), 2 * _WIDEST))
        page.html_part(_legend(labels, maps.names))
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
        sources = "".join(f'<img alt="{escape(n)}" hidden src="{data_url(m, "PNG")}">' for n, m in shown.items())
        colour = " ".join(map(str, _swatches()[k + 1]))
        style = f"background-image:url({data_url(photo, 'JPEG')})"
        figures.append(
            f'<figure class="word" data-colour="{colour}">{sources}<canvas width="{photo.width}" '
            f'height="{photo.height}" style="{style}"></canvas><figcaption>{escape(word)}</figcaption></figure>'
        )
    return f'<div class="maps">{"".join(figures)}</div>'


def _legend(labels: Tensor, names: Sequence[str]) -> str:
    """Names in their colours, with the share of the picture that each has."""
    shares = torch.bincount(labels.flatten(), minlength=len(names) + 1)[1:] / labels.numel()
    largest: list[int] = sorted(shares.argsort(descending=True, stable=True)[:_NAMED].tolist())
    entries = [
        f'<li><i style="background:rgb{_swatches()[k + 1]}"></i>{escape(names[k])} {100 * shares[k]:.0f} %</li>'
        for k in largest
    ]
    more = f"<li>and {len(names) - _NAMED} smaller ones</li>" if len(names) > _NAMED else ""
    return f'<ul class="legend">{"".join(entries)}{more}</ul>'


@cache
def _swatches() -> list[tuple[int, int, int]]:
    image = coloured(np.arange(256)[None], Image.new("RGB", (256, 1)))
    return [(red, green, blue) for red, green, blue in np.asarray(image)[0].tolist()]


def _grey(values: Tensor) -> Image.Image:
    """Stretched from black to white."""
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) / max(high - low, 1e-12) * 255).round().numpy().astype(np.uint8))


def _palette(labels: np.ndarray) -> bytes:
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette([part for colour in _swatches() for part in colour])
    return encoded(image, "PNG")


def _small(picture: Image.Image, side: int) -> Image.Image:
    return ImageOps.contain(picture.convert("RGB"), (side, side))
