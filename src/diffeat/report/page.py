"""A self-contained HTML page: text, tables and embedded pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.evaluation.result import Result
from diffeat.files import write_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: Files of most reports.
REPORT = ("report.json", "report.md", "report.html")
#: What a training says of its data, settings and validation; goes into the card of what it made.
FACTS = "training.md"

_STYLE = """
:root { color-scheme: light dark; --ink: #20242a; --soft: #667; --line: #dde; --paper: #fff; --box: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #9aa; --line: #384050; --paper: #16191e; --box: #20252c; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { white-space: normal } tr:hover td { background: var(--box) }
td.words, th.words { text-align: left; white-space: normal; min-width: 9rem }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 11rem }
img, svg { max-width: 100%; height: auto; border-radius: 4px; background: #fff }
figure { margin: 1rem 0 } figcaption, .soft { color: var(--soft); font-size: .9rem }
pre { background: var(--box); padding: .7rem 1rem; border-radius: 6px; white-space: pre-wrap }
.big { font-size: 1.9rem; font-weight: 650 } .wide { overflow-x: auto }
.full { width: calc(100vw - 3rem); margin-left: calc(50% - 50vw + 1.5rem); overflow-x: auto }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0 }
.cards figure { width: 11.5rem; margin: 0; padding: .5rem; background: var(--box); border-radius: 8px }
.cards img { display: block; width: 100% } .cards b { display: block; margin-top: .4rem; overflow-wrap: anywhere }
.sortable { font-size: .8rem; line-height: 1.3; width: 100% } .sortable img { display: block }
.sortable th, .sortable td { padding: .25rem .4rem; white-space: normal }
.sortable th { cursor: pointer; position: sticky; top: 0; background: var(--paper); vertical-align: bottom }
.sortable th[data-up]::after { content: " ↑" } .sortable th[data-up="0"]::after { content: " ↓" }
.sortable th:not(:first-child, .words) { writing-mode: sideways-lr; text-align: left; white-space: nowrap }
.sortable .words { text-align: left } .sortable td.words { min-width: 9rem } .sortable small { color: var(--soft) }
.sortable td:first-child { min-width: 13rem; overflow-wrap: anywhere } .marked td { background: #e08a0026 }
"""
_SORT = """
document.querySelectorAll("table.sortable").forEach(table => table.querySelectorAll("th").forEach((head, k) =>
  head.addEventListener("click", () => {
    const up = head.dataset.up === "1" ? 0 : 1, body = table.tBodies[0];
    table.querySelectorAll("th").forEach(other => delete other.dataset.up);
    head.dataset.up = up;
    const key = row => { const text = row.cells[k].textContent.trim(), n = parseFloat(text);
      return text === "" ? null : isNaN(n) ? text : n; };
    [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    }).forEach(row => body.append(row));
  })));
"""


class Page:
    """Builds a page part by part.

    Args:
        title: Of the page.
        subtitle: A line under it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if subtitle:
            self.text(subtitle, "soft")

    def heading(self, text: str) -> None:
        """A section heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str, style: str = "") -> None:
        """A paragraph; ``style`` is ``""``, ``"soft"`` or ``"big"``."""
        self._parts.append(f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>")

    def html_part(self, html: str) -> None:
        """HTML as it is."""
        self._parts.append(html)

    def code(self, text: str) -> None:
        """Text as it is."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def bullets(self, lines: Sequence[str]) -> None:
        """A list."""
        self._parts.append("<ul>" + "".join(f"<li>{_prose(line)}</li>" for line in lines) + "</ul>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str] = ()) -> None:
        """A table; the first column and those named in ``text`` are text, the others numbers."""
        words = {number for number, name in enumerate(header) if name in text}

        def line(tag: str, cells: Sequence[str]) -> str:
            return "".join(
                f"<{tag} class=words>{_prose(cell)}</{tag}>" if number in words else f"<{tag}>{escape(cell)}</{tag}>"
                for number, cell in enumerate(cells)
            )

        head, body = line("th", header), "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
        self._parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def rich_table(
        self, header: Sequence[str], rows: Sequence[Sequence[str | Image.Image]], *, marked: int = 0
    ) -> None:
        """A table as wide as the window, sorted by clicking a column; the first rows may be marked.

        Cells are small pictures, or text whose lines after the first are small.
        """
        first = rows[0] if rows else header
        head = "".join(f"<th{_style(cell)}>{escape(name)}</th>" for name, cell in zip(header, first, strict=True))
        body = "".join(
            f"<tr{' class=marked' if k < marked else ''}>{''.join(map(_cell, row))}</tr>" for k, row in enumerate(rows)
        )
        self._parts.append(
            f'<div class="full"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
            f"</div><script>{_SORT}</script>"
        )

    def cards(self, cards: Sequence[tuple[Image.Image, str, str]]) -> None:
        """Pictures side by side, each with a title and a caption."""
        inner = (
            f"<figure>{_embedded(picture)}<b>{_breakable(title)}</b><figcaption>{escape(caption)}</figcaption></figure>"
            for picture, title, caption in cards
        )
        self._parts.append(f'<div class="cards">{"".join(inner)}</div>')

    def picture(self, picture: Image.Image, caption: str = "") -> None:
        """An embedded picture."""
        url = data_url(picture.convert("RGB"), "JPEG", quality=88, subsampling=0)
        self._figure(f'<img alt="{escape(caption)}" src="{url}">', caption)

    def drawing(self, svg: str, caption: str = "", *, full: bool = False) -> None:
        """An embedded SVG drawing, as wide as the window if ``full``."""
        self._figure(svg[svg.index("<svg") :], caption, "full" if full else "")

    def drawings(self, drawings: Sequence[tuple[str, str]]) -> None:
        """SVG drawings with their captions, side by side where there is room."""
        self._parts.append('<div class="pair">')
        for svg, caption in drawings:
            self.drawing(svg, caption)
        self._parts.append("</div>")

    def _figure(self, inner: str, caption: str, style: str = "") -> None:
        under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure class="{style}">{inner}{under}</figure>' if style else f"<figure>{inner}{under}</figure>"
        )

    def html(self) -> str:
        """The whole page."""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self._title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )


def _prose(text: str) -> str:
    """A sentence, in which what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _cell(content: str | Image.Image) -> str:
    if not isinstance(content, str):
        return f"<td>{_embedded(content)}</td>"
    first, *more = content.split("\n")
    small = "".join(f"<br><small>{escape(line)}</small>" for line in more)
    return f"<td{_style(content)}>{_breakable(first)}{small}</td>"


def _style(content: str | Image.Image) -> str:
    """Pictures and words stand left and have horizontal headings, numbers right."""
    return "" if isinstance(content, str) and not content[:1].isalpha() else " class=words"


def _breakable(text: str) -> str:
    """Long dotted names may break after a dot."""
    return re.sub(r"(?<=[a-z]|\d)\.(?=[a-z]|\d+\.)", ".<wbr>", escape(text))


def _embedded(picture: Image.Image) -> str:
    return f'<img alt="" src="{data_url(picture.convert("RGB"), "PNG")}">'


def encoded(picture: Image.Image | NDArray[np.uint8], format: str, **options: Any) -> bytes:
    """A picture, or grey levels (H, W), as the bytes of a file; options are Pillow's."""
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, format, **options)
    return buffer.getvalue()


def data_url(picture: Image.Image, format: str, **options: Any) -> str:
    """A picture as the address that holds it."""
    return f"data:image/{format.lower()};base64,{base64.b64encode(encoded(picture, format, **options)).decode()}"


def svg_of(figure: Figure) -> str:
    """A drawing as SVG; the same figure gives the same text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "diffeat"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def numbered(axes: Axes, values: np.ndarray, size: int) -> AxesImage:
    """Values (rows, columns) as colours with their numbers."""
    low, high = np.nanmin(values), np.nanmax(values)
    image = axes.imshow(values, cmap="viridis", aspect="auto", vmin=low, vmax=high if high > low else low + 1)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < low + 0.6 * (high - low) else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=size, color=colour)
    return image


def sheet(rows: Sequence[Sequence[Image.Image]], gap: int) -> Image.Image:
    """Pictures in rows on white, as they are."""
    wide = max((sum(p.width + gap for p in row) - gap for row in rows), default=1)
    canvas = Image.new("RGB", (wide, max(1, sum(max(p.height for p in row) + gap for row in rows) - gap)), "white")
    y = 0
    for row in rows:
        x = 0
        for picture in row:
            canvas.paste(picture, (x, y))
            x += picture.width + gap
        y += max(p.height for p in row) + gap
    return canvas


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line; brackets around numbers need no escape."""
    text = re.sub(r"&(?=[#\w])|<", lambda m: "&amp;" if m[0] == "&" else "&lt;", " ".join(text.split()))
    return re.sub(r"[\\`*|~$]|\[(?![-+\d., ]+\])|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def literal(text: str) -> str:
    """Text that a figure shows as it is: a dollar sign starts no formula."""
    return text.replace("$", "\\$")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, sums_up: bool = False) -> str:
    """A Markdown table; the first column is text, the others numbers; the last row may sum up, and stands out."""
    first, *lines = ([markdown(cell) for cell in row] for row in (header, *rows))
    if sums_up:
        lines[-1][0] = f"**{lines[-1][0]}**"
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(["| " + " | ".join(first) + " |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(x)} |" for x in lines)])


def markdown_report(title: str, parts: Sequence[str], bullets: Sequence[str] = ()) -> str:
    """A page in Markdown: its title, tables and the like, and a list."""
    listed = "\n".join(f"- {markdown(line)}" for line in bullets)
    return "\n\n".join(filter(None, [f"# {markdown(title)}", *parts, listed])) + "\n"


def write_numbers(
    result: Result,
    folder: str | Path,
    number: str,
    data: Mapping[str, object],
    pictures: Iterable[tuple[Image.Image, str]] = (),
    *,
    title: str = "",
    told: Sequence[str] = (),
    sums_up: bool = False,
    force: bool,
) -> Path:
    """Write :data:`REPORT` of a result: its number, notes, pictures with captions, and table; returns the page.

    Args:
        data: What ``report.json`` says beside what every result has.
        told: Lines before the notes.
        sums_up: Whether the last row of the table stands out.
    """
    title, told = title or f"{result.dataset} · {result.recipe}", [*told, *result.notes]
    page = Page(title, f"recipe {result.recipe_hash[:12]}")
    page.text(number, "big")
    page.bullets(told)
    for picture, caption in pictures:
        page.picture(picture, caption)
    page.heading("Numbers")
    page.table(*result.table())
    facts = {name: getattr(result, name) for name in ("dataset", "recipe", "recipe_hash")}
    facts |= {
        "interval": [None if end != end else end for end in result.interval()],
        "notes": list(result.notes),
        **data,
    }
    text = markdown_report(title, [markdown_table(*result.table(), sums_up=sums_up)], [number, *told])
    return write_files(folder, REPORT, [json.dumps(facts, indent=1), text, page.html()], force=force)


def write_facts(folder: Path, title: str, facts: Sequence[str]) -> None:
    """Keep what a training says of itself beside what it made."""
    write_files(folder, [FACTS], [markdown_report(title, [], facts)], force=True)
