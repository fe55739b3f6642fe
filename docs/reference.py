"""Writes what the program says of itself: ``commands.md``, ``recipe-reference.md``, the numbers of ``which-recipe.md``.

python docs/reference.py

Commands come from their own help, recipes from their files, fields of recipes from the schema that checks them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import reduce
from itertools import groupby
from math import prod
from operator import or_
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import TypeAdapter

from diffeat.cli.command import filled
from diffeat.cli.main import app
from diffeat.cli.recipes import facts
from diffeat.extraction import Recipe, preset_names
from diffeat.reproduce import load_table, maps_of, plan_rows, table_names

HERE = Path(__file__).parent
#: Panels of options that many commands share; they are described once.
SHARED = ("Recipe", "Pictures", "Computing")
#: What an option takes, in words.
TAKES = {str: "text", int: "number", float: "number", Path: "path", bool: ""}
START, END = "<!-- numbers -->", "<!-- end of numbers -->"
MADE = "Written by `python docs/reference.py`{}; a test fails where the two differ.\n"


def cell(text: object) -> str:
    """A text in a cell of a table."""
    words = " ".join(str(text).split()).replace("\\[", "[")  # as help for a terminal escapes it
    for sign, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "\\<"), ("*", "\\*"), ("[", "\\[")):
        words = sign.join(words.split(sign)).replace(sign, escaped)
    return words


def table(header: str, rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells that are Markdown already."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {header} |", f"|{'---|' * (header.count('|') + 1)}", *lines]) + "\n"


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A group's commands, each by what a user types."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word in command.list_commands(None):
        yield from leaves(inner[word], f"{name} {word}")


def _takes(option: Any) -> str:
    """What follows an option's name."""
    if option.metavar:
        return cell(option.metavar)
    kind = option.type_descriptor.annotation
    if get_origin(kind) is list:
        return f"{_words(get_args(kind)[0])}, repeatable"
    return _words(kind)


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " · ".join(f"`{choice}`" for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " · ".join(f"`{choice.value}`" for choice in kind)
    if get_origin(kind) is tuple:
        return " ".join(map(_words, get_args(kind)))
    return TAKES[kind]


def _option(option: Any, context: Any) -> list[str]:
    if option.param_type_name == "argument":
        names = f"`{option.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        names += f" {_takes(option)}".rstrip()
    told = cell(filled(getattr(option, "help", None) or ""))
    default = option.get_default(context, call=False)
    told += " **Required.**" if option.required else ""
    shown = getattr(option, "show_default", False) and default not in (None, False, (), [], "")
    if shown and not callable(default) and "default:" not in told:
        told += f" Default: {cell(shown_default(default))}."
    return [names, told]


def shown_default(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(getattr(value, "value", value))


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    example = "\n".join(line.strip() for line in command.example.splitlines())
    text = "\n\n".join(cell(part) for part in filled(command.help).split("\n\n"))
    parts = [f"### {name}\n", f"{text}\n", f"```bash\n{example}\n```\n"]
    options = [option for option in command.get_params(context) if option.name != "help" and not option.hidden]
    for panel, found in groupby(options, key=lambda option: getattr(option, "rich_help_panel", None)):
        several = list(found)
        if panel in SHARED:
            names = " ".join(f"`{option.opts[0]}`" for option in several)
            parts.append(f"{panel}: {names} ([below](#options-of-many-commands)).\n")
            continue
        parts.append(
            table(
                f"{panel if panel and panel != 'Options' else 'option'} | what it is",
                (_option(o, context) for o in several),
            )
        )
    return "\n".join(parts)


def commands() -> str:
    """The page of commands."""
    found = list(leaves(typer.main.get_command(app), "diffeat"))
    parts = [
        "# Commands\n",
        "What `--help` of every command says, on one page. Wrong calls end with exit code 2 and one line, runs that "
        "failed with 1, Ctrl-C with 130 ([what is promised](reliability.md)).\n",
        MADE.format(" from the commands' own help"),
    ]
    panels = {word: getattr(c, "rich_help_panel", "") for word, c in typer.main.get_command(app).commands.items()}  # pyright: ignore
    for panel, several in groupby(found, key=lambda pair: panels[pair[0].split()[1]]):
        parts.append(f"## {panel}\n")
        parts += [_command(name, command) for name, command in several]
    parts.append("## Options of many commands\n")
    parts.append("Which of them a command takes stands with it.\n")
    shared: dict[tuple[str, str], list[str]] = {}
    for name, command in found:
        context = command.make_context(name, [], resilient_parsing=True)
        for option in command.get_params(context):
            if (panel := getattr(option, "rich_help_panel", None)) in SHARED:
                shared.setdefault((panel, option.opts[0]), _option(option, context))
    for panel in SHARED:
        parts.append(table(f"{panel} | what it is", (row for (of, _), row in shared.items() if of == panel)))
    return "\n".join(parts)


def _type(field: dict[str, Any]) -> str:
    """What a field of the schema takes, in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field or "const" in field:
        return " · ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(dict.fromkeys(_type(one) for one in field[several]))
    if field.get("type") == "array":
        inner = field.get("items") or {}
        return f"list of {_type(inner)}" if inner else f"{len(field.get('prefixItems', [])) or 'list of'} values"
    big = 2**31 - 1
    words = {"string": "text", "null": "none", "object": "fields", "boolean": "yes or no"}
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    low, high = (None if end is not None and abs(end) > big else end for end in (low, high))
    bounds = (
        f", {low if low is not None else ''}…{high if high is not None else ''}" if (low, high) != (None, None) else ""
    )
    return f"{words.get(field.get('type', ''), field.get('type', 'anything'))}{bounds}"


def _fields(name: str, schema: dict[str, Any], shared: dict[str, Any]) -> str:
    """A part of a recipe; fields that all kinds share are told once."""
    doc = re.sub(r":\w+:`~?([\w.]+)`|``", lambda m: f"`{m[1]}`" if m[1] else "`", schema.get("description", ""))
    told = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", doc, re.M))
    rows = [
        [
            f"`{field}`",
            _type(of),
            "**required**" if field in schema.get("required", []) else _default(of),
            cell(of.get("description") or told.get(field, "")),
        ]
        for field, of in schema["properties"].items()
        if of != shared.get(field)
    ]
    more = "\nAnd the fields of every [Recipe](#recipe).\n" if len(rows) < len(schema["properties"]) else ""
    return f"### {name}\n\n{cell(doc.split('. ')[0].partition(chr(10) * 2)[0]).rstrip('.')}.\n\n" + (
        table("field | takes | if not given | what it is", rows) + more
    )


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "" if value in (None, "", []) or isinstance(value, dict) else f"`{value}`"


def recipes() -> str:
    """The page of recipes and their fields."""
    kinds: Any = reduce(or_, Recipe.KINDS.values())
    schema = TypeAdapter(kinds).json_schema()["$defs"]
    parts = [
        "# Recipes: presets and fields\n",
        "The recipes that ship with the package, and every field that a recipe file may hold. What recipes are for: "
        "[recipes](recipes.md); which one to take: [which recipe](which-recipe.md); what each took from its paper: "
        "[fidelity](fidelity.md).\n",
        MADE.format(" from the recipes' files and their schema"),
        "## Presets\n\n`diffeat recipes NAME` prints one, to copy and change.\n",
    ]
    for system, names in groupby(preset_names(), key=lambda preset: preset.partition("-")[0]):
        rows = (
            [f"`{name}`", cell(facts(r := Recipe.load(name))), cell(r.description), cell(r.source)] for name in names
        )
        parts.append(f"### {system}\n\n{table('recipe | reads | what it is | numbers from', rows)}")
    parts.append(
        "## Fields\n\n`diffeat recipes --schema` prints the same as JSON schema, for editors that check YAML.\n"
    )
    tops = [kind.__name__ for kind in Recipe.KINDS.values()]
    order = [
        "Recipe",
        *tops,
        *sorted(name for name, of in schema.items() if name not in (*tops, "Recipe") and "properties" in of),
    ]
    parts += [_fields(name, schema[name], schema["Recipe"]["properties"] if name in tops else {}) for name in order]
    return "\n".join(parts)


def volume(recipe: str) -> str:
    """Maps of a recipe, and what they take in float16."""
    maps = maps_of(recipe) or []
    shapes = " + ".join("×".join(map(str, shape)) for shape in maps)
    return f"{shapes}, {sum(map(prod, maps)) * 2 / 1e6:.3g} MB" if maps else ""


def numbers() -> str:
    """What papers report of presets, and what those cost, from the tables of ``diffeat reproduce``."""
    parts = []
    for published in map(load_table, table_names()):
        known = [row for row in published.rows if row.number is not None and not row.changes and ":" not in row.reads]
        rows = (
            [
                cell(row.name),
                f"`{row.reads}`",
                str(plan_rows(published, [row])[0].calls),
                volume(row.reads),
                f"**{row.published}**",
                cell(f"{row.measure}. {row.source}"),
            ]
            for row in known
        )
        header = "features | recipe | rows a picture | maps, float16 | number | what it is, and where it was read"
        parts += [f"### {published.title}\n", table(header, rows)] if known else []
    return "\n".join(parts)


def which() -> str:
    """The page of jobs with its numbers."""
    head, _, rest = (HERE / "which-recipe.md").read_text(encoding="utf-8").partition(START)
    return f"{head}{START}\n\n{numbers()}\n{END}{rest.partition(END)[2]}"


PAGES = {"commands.md": commands, "recipe-reference.md": recipes, "which-recipe.md": which}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (HERE / page).write_text(write(), encoding="utf-8")
