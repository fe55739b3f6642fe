"""A self-contained HTML page: text, tables and embedded pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape

from PIL import Image

#: Files of most reports.
REPORT = ("report.json", "report.md", "report.html")

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
th:first-child, td:first-child { text-align: left } tr:hover td { background: var(--box) }
img, svg { max-width: 100%; height: auto; border-radius: 4px; background: #fff }
figure { margin: 1rem 0 } figcaption, .soft { color: var(--soft); font-size: .9rem }
pre { background: var(--box); padding: .7rem 1rem; border-radius: 6px; white-space: pre-wrap }
.big { font-size: 1.9rem; font-weight: 650 } .wide { overflow-x: auto }
.sortable th { cursor: pointer } .sortable th[data-up]::after { content: " ↑" } .sortable td { white-space: normal }
.sortable th[data-up="0"]::after { content: " ↓" }
.sortable td:first-child { min-width: 13rem; overflow-wrap: anywhere }
.sortable td:nth-child(3) { min-width: 12rem; text-align: left } .sortable img { display: block }
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

    def code(self, text: str) -> None:
        """Text as it is."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def bullets(self, lines: Sequence[str]) -> None:
        """A list."""
        self._parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column is text, the others numbers."""
        head = "".join(f"<th>{escape(c)}</th>" for c in header)
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        self._parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def rich_table(self, header: Sequence[str], rows: Sequence[Sequence[str | Image.Image]]) -> None:
        """A table that is sorted by clicking a column; cells are text or small pictures."""
        head = "".join(f"<th>{escape(c)}</th>" for c in header)
        body = "".join("<tr>" + "".join(f"<td>{_cell(c)}</td>" for c in row) + "</tr>" for row in rows)
        self._parts.append(
            f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
            f"</div><script>{_SORT}</script>"
        )

    def picture(self, picture: Image.Image, caption: str = "") -> None:
        """An embedded picture."""
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, format="JPEG", quality=88, subsampling=0)
        data = base64.b64encode(buffer.getvalue()).decode()
        self._figure(f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">', caption)

    def drawing(self, svg: str, caption: str = "") -> None:
        """An embedded SVG drawing."""
        self._figure(svg[svg.index("<svg") :], caption)

    def _figure(self, inner: str, caption: str) -> None:
        under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(f"<figure>{inner}{under}</figure>")

    def html(self) -> str:
        """The whole page."""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self._title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )


def _cell(content: str | Image.Image) -> str:
    if isinstance(content, str):
        return escape(content)
    buffer = io.BytesIO()
    content.convert("RGB").save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line; brackets around numbers need no escape."""
    text = re.sub(r"&(?=[#\w])|<", lambda m: "&amp;" if m[0] == "&" else "&lt;", " ".join(text.split()))
    return re.sub(r"[\\`*|~$]|\[(?![-+\d., ]+\])|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def literal(text: str) -> str:
    """Text that a figure shows as it is: a dollar sign starts no formula."""
    return text.replace("$", "\\$")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    first, *lines = ("| " + " | ".join(map(markdown, row)) + " |" for row in (header, *rows))
    return "\n".join([first, "|" + "|".join([":--", *["--:"] * (len(header) - 1)]) + "|", *lines])


def markdown_report(title: str, parts: Sequence[str], bullets: Sequence[str] = ()) -> str:
    """A page in Markdown: its title, tables and the like, and a list."""
    listed = "\n".join(f"- {markdown(line)}" for line in bullets)
    return "\n\n".join(filter(None, [f"# {markdown(title)}", *parts, listed])) + "\n"
