"""How values show themselves: in one line where they are printed, as a small card in a notebook.

A card is HTML alone: styles and pictures stand in it, nothing is fetched and nothing runs. Its ink is that of the page
around it, so that it reads on dark and on light. All texts are escaped, and whatever a value holds, its card stays
small: so many rows, pictures and letters, and no more.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NewType

from diffeat.errors import DiffeatError, clipped, printable

if TYPE_CHECKING:
    from PIL.Image import Image

#: A piece of a card.
Html = NewType("Html", str)

_FACTS, _ROWS, _COLUMNS, _PICTURES, _LETTERS = 12, 12, 10, 6, 4000
_LINE, _SHORT, _CELL, _SIDE = 200, 60, 90, 128
_SOFT = "opacity:.7"
_RULE = "1px solid rgba(128,128,128,.35)"


class Displayed:
    """What shows itself. A dataclass that is one leaves its own line out: ``@dataclass(repr=False)``."""

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        """Its name, and what one must know of it: little, and quick to tell."""
        raise NotImplementedError

    def _details(self) -> Iterable[Html]:
        """What a notebook shows below."""
        return ()

    def __repr__(self) -> str:
        name, facts = self._facts()
        told = (f"{fact} {clipped(printable(str(value)), _SHORT)}" for fact, value in facts.items())
        line = ", ".join([repr(clipped(printable(name), _SHORT)), *told])
        return clipped(f"{type(self).__name__}({line})", _LINE)

    def _repr_html_(self) -> str:
        name, facts = self._facts()
        parts = [_heading(type(self).__name__, name), *_list(facts)]
        try:
            parts += self._details()
        except DiffeatError as error:
            parts.append(paragraph(str(error)))
        return f'<div style="max-width:52em;border:{_RULE};border-radius:6px;padding:.6em .9em">{"".join(parts)}</div>'


def safe(value: object, most: int = _CELL) -> str:
    """A text for HTML: escaped, on one line, not too long.

    Example:
        >>> safe("<b>\\n" + "x" * 200, 12)
        '&lt;b&gt; xx…xxxxxx'
    """
    return escape(printable(clipped(str(value), most)))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> Html:
    """The first rows of a table and its last, which sums up; columns likewise; nothing where there is no row."""
    if not rows:
        return Html("")
    cut = len(rows) > _ROWS
    shown = [*rows[: _ROWS - 1], rows[-1]] if cut else rows
    lines = [_row(header, "th"), *(_row(row, "td") for row in shown)]
    if cut:
        lines.insert(_ROWS, f'<tr><td style="{_SOFT};text-align:left">… {len(rows) - _ROWS:,} more</td></tr>')
    below = f'<div style="{_SOFT};font-size:.9em">{safe(note, _LINE)}</div>' if note else ""
    return Html(
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;font-size:inherit;margin:.5em 0;'
        f'font-variant-numeric:tabular-nums">{"".join(lines)}</table></div>{below}'
    )


def pictures(named: Iterable[tuple[str, Image]]) -> Html:
    """Pictures side by side, each with its name; small ones are enlarged to squares of colour."""
    figures = []
    for name, picture in (pair for pair, _ in zip(named, range(_PICTURES), strict=False)):
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        data = io.BytesIO()
        small.save(data, "PNG")
        width = round(_SIDE * small.width / max(small.size))
        figures.append(
            f'<figure style="display:inline-block;margin:.4em .8em .4em 0;width:{_SIDE}px;vertical-align:top">'
            f'<img alt="{safe(name)}" width="{width}" style="image-rendering:pixelated;display:block;max-height:'
            f'{_SIDE}px" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'
            f'<figcaption style="font-size:.85em;overflow-wrap:anywhere">{safe(name)}</figcaption></figure>'
        )
    return Html(f"<div>{''.join(figures)}</div>")


def folded(title: str, text: str) -> Html:
    """A longer text, to be opened."""
    cut = text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"
    lines = "\n".join(escape(printable(line)) for line in cut.splitlines())
    return Html(
        f'<details><summary style="cursor:pointer">{safe(title)}</summary>'
        f'<pre style="white-space:pre-wrap;font-size:.9em;margin:.4em 0">{lines}</pre></details>'
    )


def paragraph(text: str) -> Html:
    """A sentence."""
    return Html(f'<p style="margin:.4em 0">{safe(text, 2 * _LINE)}</p>')


def notes(texts: Iterable[str]) -> Html:
    """What a reader must know, one line each."""
    few = list(texts)
    more = [f"… {len(few) - _ROWS} more"] if len(few) > _ROWS else []
    items = "".join(f"<li>{safe(text, 2 * _LINE)}</li>" for text in [*few[:_ROWS], *more])
    return Html(f'<ul style="margin:.4em 0;{_SOFT}">{items}</ul>' if few else "")


def _heading(kind: str, name: str) -> Html:
    return Html(f'<div><b>{safe(kind)}</b> <span style="overflow-wrap:anywhere">{safe(name)}</span></div>')


def _list(facts: Mapping[str, object]) -> Iterator[Html]:
    told = [
        f'<span style="display:inline-block;margin-right:1.2em"><span style="{_SOFT}">{safe(fact)}</span> '
        f"{safe(value, _LINE)}</span>"
        for fact, value in list(facts.items())[:_FACTS]
    ]
    if told:
        yield Html(f'<div style="margin:.2em 0">{" ".join(told)}</div>')


def _row(cells: Sequence[str], tag: str) -> str:
    shown = cells if len(cells) <= _COLUMNS else [*cells[: _COLUMNS - 1], "…"]
    style = f"padding:.15em .7em;border-bottom:{_RULE};text-align:"
    sides = ["left", *["right"] * (len(shown) - 1)]
    inner = (f'<{tag} style="{style}{side}">{safe(cell)}</{tag}>' for cell, side in zip(shown, sides, strict=True))
    return f"<tr>{''.join(inner)}</tr>"
