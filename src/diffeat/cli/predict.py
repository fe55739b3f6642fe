"""``diffeat predict``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from diffeat.cli.command import refuse
from diffeat.cli.options import Force, Paths
from diffeat.errors import DiffeatError, InvalidValueError, printable, shown

if TYPE_CHECKING:
    from diffeat.tasks.predictors.windows import Windows

SCORES, PARTIAL, PAGE, SHEET = "scores.json", "scores.jsonl", "predictions.html", "sheet.jpg"
Head = Annotated[str, Option("--head", help="Run folder of a training (its --out), or owner/name on the hub.")]
Window = Annotated[
    str | None,
    Option("--window", help="Sliding windows: WIDTHxHEIGHT or a side in pixels, 'shorter' (squares), or 'whole'."),
]
Stride = Annotated[
    str | None,
    Option(help="Between windows: pixels (XxY or one number), or a share such as 0.5; two thirds if not given."),
]
Blend = Annotated[
    str | None, Option(help="Where windows overlap: 'hat' (no seams, the default) or 'mean' (as papers do).")
]


def predict(
    ctx: typer.Context,
    paths: Paths,
    head: Head,
    out: Annotated[Path, Option("--out", "-o", help="Folder of masks, overlays, scores and page; continued.")],
    window: Window = None,
    stride: Stride = None,
    blend: Blend = None,
    fps: Annotated[float | None, Option(help="Frames per second of videos; 1 if not given.")] = None,
    column: Annotated[str | None, Option(help="Of tables and lists: the pictures.")] = None,
    name_column: Annotated[str | None, Option(help="Of tables and lists: the pictures' names.")] = None,
    prompt: Annotated[str | None, Option(help="Text for the pictures; the training's if not given.")] = None,
    device: Annotated[
        str | None, Option(help="cpu, cuda, cuda:1, mps …; the first accelerator if there is one.")
    ] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16, of the model.")] = None,
    batch_size: Annotated[int | None, Option(min=1, help="Rows of one denoiser call.")] = None,
    allow_code: Annotated[bool, Option("--allow-code", help="Run functions that the recipe names.")] = False,
    force: Force = False,
) -> None:
    """Predict masks, classes, depth or normals of pictures by a trained head.

    Masks are palette pictures in the classes' colours; beside them go overlays, maps of the uncertainty, scores
    (JSON), a contact sheet and a page. Stop it when you like: the same command goes on. Pictures that cannot be read
    are listed at the end and make the exit code 1.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat train probe toyworld-parts --root toy --limit 20 --out run
        diffeat samples photos
        diffeat predict photos --head run --out predictions
    """
    from diffeat.features import list_pictures
    from diffeat.files import new_folder, write_files
    from diffeat.progress import bar
    from diffeat.report.predictions import SHOWN, contact_sheet, drawn, predictions_page
    from diffeat.tasks.predictors.folder import find_run, read_run
    from diffeat.tasks.predictors.predictor import Predictor

    asked = windows_of(ctx, window, stride, blend)
    check_there(paths)
    listing = list_pictures(paths, fps=fps, column=column, name_column=name_column)
    if not len(listing):
        raise InvalidValueError(f"There are no pictures in {', '.join(shown(str(path)) for path in paths)}.")
    files = stems([picture.name for picture in listing])
    run = read_run(find_run(head), allow_code=allow_code)
    cut = run.facts.windows if asked is None else None if asked == "whole" else asked
    how = "each picture whole" if cut is None else str(cut)
    # what the numbers depend on: predictions of another head are never gone on with
    told = {"head": run.facts.weights, "recipe": run.facts.recipe, "how": how, "prompt": prompt}
    done = {} if force else _done(out, told)
    if not done:
        new_folder(out, [SCORES, PARTIAL, PAGE, SHEET], force=force)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in (told, *done.values())]
    write_files(out, [PARTIAL], ["".join(lines)], force=True)  # without the half line of a call that was killed
    left = [picture for picture in listing if picture.name not in done]
    predictor = Predictor.load(head, device=device, dtype=dtype, batch_size=batch_size, allow_code=allow_code)
    failed: dict[str, str] = {}
    pairs = []

    def skip(name: str, error: DiffeatError) -> None:
        failed[name] = str(error)

    predictions = predictor.predict(left, windows=asked, prompt=prompt, on_error=skip) if left else iter(())
    with (out / PARTIAL).open("a", encoding="utf-8") as scores:
        for prediction in bar(predictions, total=len(left), desc="predict"):
            result = drawn(prediction)
            for (folder, ending), content in result.files.items():
                file = out / folder / f"{files[prediction.name]}{ending}"
                write_files(file.parent, [file.name], [content], force=True)
            scores.write(json.dumps(result.row, ensure_ascii=False) + "\n")
            scores.flush()
            done[prediction.name] = result.row
            if len(pairs) < SHOWN:
                pairs.append((prediction.image, result.overlay))
    rows = [done[picture.name] for picture in listing if picture.name in done]
    head_facts = {**told, "folder": head, "target": predictor.facts.target, "classes": list(predictor.legend.classes)}
    data: dict[str, Any] = {**head_facts, "pictures": rows, "failed": failed}
    names, contents = [SCORES], [json.dumps(data, indent=1, ensure_ascii=False)]
    sheet = contact_sheet(pairs) if pairs else None
    names.append(PAGE)
    contents.append(predictions_page(predictor, rows, sheet, how))
    write_files(out, names, contents, force=True)
    if sheet is not None:
        sheet.save(out / SHEET, quality=90)
    typer.echo(f"{len(rows)} predicted ({how}), {len(failed)} failed → {out}", err=True)
    typer.echo(f"Page: {out / PAGE}", err=True)
    for reason in failed.values():
        typer.secho(printable(f"  failed  {reason}"), fg="red", err=True)
    if failed:
        raise typer.Exit(1)


def windows_of(
    ctx: typer.Context, window: str | None, stride: str | None, blend: str | None
) -> Windows | Literal["whole"] | None:
    """As the options say.

    Raises:
        InvalidValueError: They do not fit.
    """
    from diffeat.tasks.predictors.windows import Windows

    if window is None or window == "whole":
        refuse(ctx, ["stride", "blend"], "there are no windows (--window SIZE)")
        return None if window is None else "whole"
    given = {
        "size": None if window == "shorter" else read_size(window, "--window"),
        **({} if stride is None else {"stride": float(stride) if _is_share(stride) else read_size(stride, "--stride")}),
        **({} if blend is None else {"blend": blend}),
    }
    return Windows(**given)


def _is_share(text: str) -> bool:
    whole, point, rest = text.partition(".")
    return bool(point) and (whole + rest).isdecimal()


def check_there(paths: Iterable[str | Path]) -> None:
    """Refuse files and folders that are not there, before a model is loaded; patterns and addresses wait.

    Raises:
        InvalidValueError: Naming the first.
    """
    for path in map(str, paths):
        if "://" not in path and not set("*?[") & set(path) and not os.path.exists(path):
            raise InvalidValueError(f"There is no picture and no folder {shown(path)}.")


def read_size(text: str, option: str) -> tuple[int, int]:
    """``512`` or ``1024x512``.

    Raises:
        InvalidValueError: It is neither.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise InvalidValueError(f"{option} takes pixels, such as 512 or 1024x512, not {shown(text)}.")
    return int(parts[0]), int(parts[-1])


def _done(out: Path, told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of pictures that an earlier call predicted in the same way.

    Raises:
        InvalidValueError: The folder holds predictions of another head or in another way.
    """
    if not (out / PARTIAL).is_file():
        return {}
    rows = []
    for line in (out / PARTIAL).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the last line of a call that was killed
    if not rows or rows[0] != told:
        raise InvalidValueError(
            f"{shown(str(out))} holds predictions of another head, or made in another way. Choose another --out, or "
            "give --force to write over them."
        )
    return {row["picture"]: row for row in rows[1:]}


def stems(names: list[str]) -> dict[str, str]:
    """What the files of a picture are called: its name without ending, or with it where two would be alike.

    Raises:
        InvalidValueError: Two pictures would have one file even so.
    """
    plain = {name: _inside(str(Path(name).with_suffix(""))) for name in names}
    often = Counter(plain.values())
    called = {name: _inside(name) if often[stem] > 1 else stem for name, stem in plain.items()}
    taken: dict[str, str] = {}
    for name, stem in called.items():
        if (other := taken.setdefault(stem, name)) != name:
            raise InvalidValueError(f"{shown(other)} and {shown(name)} would have one file: give each an --out.")
    return called


def _inside(name: str) -> str:
    """A relative path below the folder, whatever the name holds."""
    return "/".join(part for part in Path(name).parts if part not in ("/", "..", ".")) or "picture"
