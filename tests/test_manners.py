"""Nothing of a user's is lost, run or taken for markup; what is wrong is told in one line, before the work."""

from __future__ import annotations

import io
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image

from diffeat.cli.command import GO_ON
from diffeat.cli.main import app, main
from diffeat.errors import InvalidValueError
from diffeat.extraction import Reading, Recipe, preset_names
from diffeat.files import PICTURES, new_file, new_folder, read_text, write_files, write_picture
from diffeat.progress import bar, end_lines
from diffeat.report.page import markdown, markdown_table
from diffeat.techniques import ControlNet
from diffeat.techniques.parse import parse_combination
from diffeat.techniques.prompt import Prompt

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The real command line up to where a model would be loaded: exit code and standard error."""

    def load_source(*_: object, **__: object) -> None:
        raise typer.Exit(0)

    monkeypatch.setattr("diffeat.extraction.load_source", load_source)

    def call(*arguments: object) -> tuple[int, str]:
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        return code, capsys.readouterr().err

    return call


def refused(answer: tuple[int, str]) -> str:
    """The one line of a refusal."""
    code, text = answer
    assert code == 2, answer
    assert len(text.splitlines()) == 1, text
    assert text.startswith("Error: ")
    assert len(text) < 2000
    return text


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 32)).save(path)
    return path


# --- outputs --------------------------------------------------------------------------------------------------


def places(folder: Path) -> dict[str, Path]:
    """Where no picture can be written, by a word of the reason."""
    (folder / "there.png").write_bytes(b"mine")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "gone")
    return {
        "--force": folder / "there.png",
        "a folder": folder / "folder.png",
        "a pipe": folder / "pipe.png",
        "is not a folder": folder / "there.png" / "x.png",
        "must end in": folder / "x.gifv",
        "too long": folder / ("x" * 300 + ".png"),
        "null": folder / "a\0.png",
        "is there": folder / "link.png",
    }


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, photo: Path, run: Run) -> None:
    for reason, path in places(tmp_path).items():
        with pytest.raises(InvalidValueError, match=reason):
            new_file(path, PICTURES)
        assert reason in refused(run("show", photo, "--out", path))
        assert reason in refused(run("match", photo, photo, "-o", path))
        with pytest.raises(InvalidValueError, match=reason):
            write_picture(Image.new("RGB", (2, 2)), path)
    assert (tmp_path / "there.png").read_bytes() == b"mine"
    for kind in ("folder.png", "pipe.png"):
        with pytest.raises(InvalidValueError, match="not written over"):
            new_file(tmp_path / kind, force=True)
    assert run("show", photo, "--out", tmp_path / "there.png", "--force")[0] == 0
    assert run("show", photo, "--out", tmp_path / "new" / "deeper" / "x.png")[0] == 0
    assert not (tmp_path / "new").exists()


def test_files_are_whole_or_absent_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "b").symlink_to(tmp_path / "mine")
    with pytest.raises(InvalidValueError, match="there already"):
        write_files(tmp_path, ["a", "b"], ["1", "2"])
    assert not (tmp_path / "a").exists()
    write_files(tmp_path, ["a", "b"], ["1", b"2"], force=True)
    assert [(tmp_path / n).read_text() for n in ("a", "b", "mine")] == ["1", "2", "mine"]
    with pytest.raises(TypeError):
        write_files(tmp_path, ["c"], [3])  # pyright: ignore
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "mine"]


#: What each command writes into its ``--out``.
OUTPUTS = {
    "eval toyworld --root ROOT": "report.html",
    "propagate": "report.json",
    "gate PHOTO -x guidance:2": "gate.csv",
    "gate PHOTO -x guidance:2 --search 9": "search.html",
    "massive": "massive.md",
    "sweep -t 20 -b 3": "best.yaml",
    "generate": "000-0.png",
    "train hyperfeatures": "recipe.yaml",
    "train hyperfeatures ": "weights/model.safetensors",
    "train prune -r hyperfeatures-tiny": "report.md",
    "propagate --masks OUT/m": "m/mine.png",
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_nothing_is_written_over_and_that_is_said_before_the_work(
    tmp_path: Path, photo: Path, run: Run, command: str
) -> None:
    mine = tmp_path / "out" / OUTPUTS[command]
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    words = {"PHOTO": str(photo), "ROOT": str(tmp_path), "OUT/m": str(tmp_path / "out" / "m")}
    arguments = [words.get(word, word) for word in command.split()]
    text = refused(run(*arguments, "--out", tmp_path / "out"))
    assert "--force" in text
    assert mine.relative_to(tmp_path / "out").parts[0] in text
    assert mine.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == before


def test_other_things_that_are_written(tmp_path: Path, photo: Path, run: Run) -> None:
    (tmp_path / "chelsea.png").write_text("mine")
    assert "chelsea.png" in refused(run("samples", tmp_path))
    assert not (tmp_path / "astronaut.png").exists()
    assert run("samples", tmp_path, "--force")[0] == 0
    assert (tmp_path / "chelsea.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "r.yaml").write_text("mine")
    assert "--force" in refused(run("select", photo, "--budget", 9, "-m", "tiny-unet", "-o", tmp_path / "r.yaml"))
    assert "must end in" in refused(run("select", photo, "--budget", 9, "-m", "tiny-unet", "-o", tmp_path / "r.json"))
    assert "--force" in refused(run("massive", "--out", tmp_path / "m", "--write", tmp_path / "r.yaml"))
    with pytest.raises(InvalidValueError, match="force=True"):
        Recipe.load("tiny-unet").save(tmp_path / "r.yaml")
    Recipe.load("tiny-unet").save(tmp_path / "r.yaml", force=True)
    assert Recipe.load(tmp_path / "r.yaml") == Recipe.load("tiny-unet")
    (tmp_path / "spair" / "Layout").mkdir(parents=True)
    (tmp_path / "spair" / "Layout" / "mine.txt").write_text("mine")
    assert "Layout" in refused(run("toyworld", "write", tmp_path / "spair"))
    assert [p.name for p in (tmp_path / "spair").iterdir()] == ["Layout"]


def test_a_toy_world_that_was_stopped_goes_on(tmp_path: Path) -> None:
    from diffeat.datasets.toyworld_spair import write_toyworld_pairs

    def stopping(items: Any, **_: object) -> Iterator[Any]:
        yield next(iter(items))
        raise KeyboardInterrupt

    small: Any = {"classes": ["cat"], "images": {"trn": 2, "val": 0, "test": 0}, "pairs": 1, "size": 32}
    with pytest.raises(KeyboardInterrupt):
        write_toyworld_pairs(tmp_path, progress=stopping, **small)
    with pytest.raises(InvalidValueError, match="there already"):
        write_toyworld_pairs(tmp_path, seed=8, **small)
    write_toyworld_pairs(tmp_path, **small)
    assert (tmp_path / "toyworld.json").is_file()


# --- inputs ---------------------------------------------------------------------------------------------------


def test_only_regular_files_of_a_sane_size_are_read(tmp_path: Path, photo: Path, run: Run) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    (tmp_path / "large.yaml").write_text("name: " + "x" * 2**20)
    faults = {
        "pipe.yaml": "a pipe",
        "latin.yaml": "not UTF-8",
        "large.yaml": "larger than",
        ".": "a folder",
        "none.yaml": "no recipe file",
        "y" * 5000: "no recipe",
        "\0": "no recipe",
    }
    for name, reason in faults.items():
        assert reason in refused(run("recipes", tmp_path / name))
        assert reason in refused(run("show", photo, "-r", tmp_path / name, "-o", tmp_path / "x.png"))
    assert "a device" in refused(run("recipes", "/dev/zero"))
    assert "a pipe" in refused(run("generate", "--prompts", tmp_path / "pipe.yaml", "-o", tmp_path / "g"))
    assert "no prompt file" in refused(run("generate", "--prompts", tmp_path / "none", "-o", tmp_path / "g"))
    with pytest.raises(InvalidValueError, match="larger than 1 MiB"):
        read_text("/dev/../" + str(tmp_path / "large.yaml"), "file")


def test_pictures_and_points_are_looked_at_before_a_model(tmp_path: Path, photo: Path, run: Run) -> None:
    for command in (["show"], ["match", photo], ["gate", "-x", "guidance:2"], ["select", "--budget", 9, "-m", "x"]):
        assert "none.png' does not exist" in refused(run(*command, tmp_path / "none.png"))
    (tmp_path / "empty").mkdir()
    assert "no pictures in" in refused(run("show", tmp_path / "empty"))
    assert "lies outside" in refused(run("match", photo, photo, "-p", "40,2"))
    assert "x,y" in refused(run("match", photo, photo, "-p", "[/x]"))


# --- recipes --------------------------------------------------------------------------------------------------

HOSTILE = {
    "bomb": "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(c + 1)}: &{chr(c + 1)} [{','.join(['*' + chr(c)] * 10)}]\n" for c in range(97, 107)
    ),
    "circle": "&a {parts: [*a, *a]}",
    "deep": "[" * 900 + "]" * 900,
    "deeper": "a: " + "[" * 20_000,
    "tag": "!!python/object/apply:os.system ['true']",
    "own tag": "model: !x y",
    "date": "model: 2026-13-45",
    "timestamp": "model: !!timestamp x",
    "number": "model: !!int ''",
    "digits": "{model: x, trajectory: {timesteps: [1], draws: " + "9" * 4000 + "}, activations: [a]}",
    "bits": "{model: x, trajectory: {timesteps: [1], draws: 0x" + "f" * 9000 + "}, activations: [a]}",
    "list": "[1, 2]",
    "nothing": "",
    "text": "x",
    "control": "model: \0",
    "keys": "{? [a] : b}",
    "number keys": "{1: x, 2.5: y, null: z}",
    "long": "{model: x, trajectory: {timesteps: [1]}, activations: [a], typo: '" + "x" * 100_000 + "'}",
    "many": "{model: x, trajectory: {timesteps: [1]}, activations: [" + "{}," * 3_000 + "]}",
    "parts": "parts: [" + "tiny-dift," * 3000 + "]",
    "self": "parts: [self.yaml, self.yaml]",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_refused_in_one_line(tmp_path: Path, run: Run, name: str) -> None:
    (tmp_path / f"{name}.yaml").write_text(HOSTILE[name])
    refused(run("recipes", tmp_path / f"{name}.yaml"))


@pytest.mark.parametrize(
    "change",
    [
        *("trajectory.draws=100001", "trajectory.timesteps=[.nan]", "trajectory.timesteps=[.inf]", "frame.size=9e9"),
        *("frame.longer=100000000", "frame.longer=[1]", "frame.filter={}", "frame.mode=[]", "seed=1" + "0" * 30),
        *("shrink=1000000", "fuse={grid: [0, 5]}", "fuse={grid: [1000000, 1000000]}", "refine={ratio: .inf}"),
        *("conditioning={guidance: .nan}", "name=" + "x" * 300, "template=x", "views=[{}]", "a.b.c=1"),
        ".".join("a" * 2000) + "=1",
        "=",
        "seed",
        "seed=[[",
        "activations=" + "[" * 60 + "]" * 60,
        "techniques=[{kind: guidance, scale: .inf}]",
        "techniques=[{kind: lora, path: x, scal: 1}]",
    ],
    ids=lambda change: change[:40],
)
def test_values_are_bounded(photo: Path, run: Run, change: str) -> None:
    text = refused(run("show", photo, "--set", change, "-o", photo.parent / "x.png"))
    assert "'scale'" in text or "scal:" not in change


NUMBERS: tuple[Any, ...] = (None, True, -1, 10**30, float("nan"), float("inf"), 0.5)
JUNK = (*NUMBERS, "", "[/x]\n\x1b[31m", "x" * 999, [], {}, [[[1]]], {"kind": "x"}, {1: 2}, ["a", None])
BYTES = (b"\xff", b"\0", b"{", b"- ", b"&a ", b"*a", b"!!", b"\t", b"")


def mutated(data: Any, dice: random.Random) -> Any:
    """The same data with one place exchanged, left out, renamed or wrapped."""
    data, place, key = deepcopy(data), None, None
    here: Any = data
    while isinstance(here, (dict, list)) and here and (place is None or dice.random() < 0.7):
        place, key = here, dice.choice(list(here) if isinstance(here, dict) else range(len(here)))
        here = here[key]
    assert place is not None
    match dice.randrange(4):
        case 0 if isinstance(place, dict):
            place[str(key) + dice.choice("xyz")] = place.pop(key)
        case 1:
            del place[key]
        case 2:
            place[key] = [here, here]
        case _:
            place[key] = dice.choice(JUNK)
    return data


def test_any_recipe_is_taken_or_refused_in_one_line(tmp_path: Path, run: Run) -> None:
    dice, file, codes = random.Random(15), tmp_path / "r.yaml", set()
    presets = [yaml.safe_load(Recipe.load(name).to_yaml()) for name in preset_names()[::4]]
    for _ in range(30):
        data = dice.choice(presets)
        for _ in range(dice.randint(1, 3)):
            data = mutated(data, dice) or {"x": 1}
        text = (json.dumps(data) if dice.random() < 0.3 else yaml.safe_dump(data)).encode()
        for _ in range(dice.choice([0, 0, 0, 3])):
            at = dice.randrange(len(text))
            text = (
                text[:at]
                + dice.choice([b"\xff", b"\0", b"{", b"- ", b"&a ", b"*a", b"!!", b"\t", b""])
                + text[at + 1 :]
            )
        file.write_bytes(text)
        code, error = run("recipes", file)
        codes.add(code)
        assert (code, error) == (0, "") or refused((code, error)), text
    assert codes == {0, 2}


def fields(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all named fields."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        if place[-1:] == ("tasks",):
            continue  # the tasks' own to refuse: below
        if isinstance(key, str) and place[-1:] not in (("conditioning",), ("captions",), ("channels",)):
            yield (*place, key)
        yield from fields(value, (*place, key))


@pytest.mark.parametrize("name", preset_names())
def test_a_mistyped_field_of_a_preset_is_refused_with_its_name(name: str) -> None:
    data = yaml.safe_load(Recipe.load(name).to_yaml())
    seen = set()
    for place in fields(data):
        shape = tuple(p for p in place if isinstance(p, str))
        if shape in seen:
            continue
        seen.add(shape)
        wrong = deepcopy(data)
        inner: Any = wrong
        for step in place[:-1]:
            inner = inner[step]
        field = place[-1]
        typo = field[:1] + field[2:] + field[1] if len(field) > 2 else field + "x"
        inner[typo] = inner.pop(field)
        with pytest.raises(InvalidValueError) as raised:
            Recipe.from_dict(wrong)
        assert f"'{field}'" in str(raised.value), (place, str(raised.value))


#: Every option of every task that some preset sets, by a preset that does.
OPTIONS = {(t, o): n for n in reversed(preset_names()) for t, options in Recipe.load(n).tasks.items() for o in options}


@pytest.mark.parametrize("name", dict.fromkeys(OPTIONS.values()))
def test_a_mistyped_option_for_a_task_is_refused_by_every_command(name: str, run: Run, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    for task, option in (pair for pair, preset in OPTIONS.items() if preset == name):
        options = recipe.tasks[task]
        wrong = {task: {**options, option + "x": options[option]}}
        recipe.replace(tasks=wrong).save(tmp_path / "r.yaml", force=True)
        code, error = run("extract", tmp_path, "-r", tmp_path / "r.yaml", "-o", tmp_path / "out")
        assert code == 2
        assert f"'{option}'" in error, error
    recipe.replace(tasks={"propagatoin": {}}).save(tmp_path / "r.yaml", force=True)
    code, error = run("extract", tmp_path, "-r", tmp_path / "r.yaml", "-o", tmp_path / "out")
    assert (code, "'propagation'" in error) == (2, True), error


# --- code -----------------------------------------------------------------------------------------------------

CODE = [
    {"kind": "prompt", "captioner": "antigravity_test:run"},
    {"kind": "controlnet", "model": "m", "condition": "antigravity_test:run"},
]


@pytest.mark.parametrize("technique", CODE, ids=lambda t: t["kind"])
def test_code_runs_only_where_it_is_allowed(
    technique: dict[str, str], tmp_path: Path, photo: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "antigravity_test.py").write_text("def run(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = {**yaml.safe_load(Recipe.load("tiny-unet").to_yaml()), "techniques": [technique]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "j.yaml").write_text("parts: [r.yaml, tiny-unet]")
    out = tmp_path / "x.png"
    doors = [
        ["show", photo, "-o", out, "-r", tmp_path / "r.yaml"],
        ["show", photo, "-o", out, "-r", tmp_path / "j.yaml"],
        ["show", photo, "-o", out, "--set", f"techniques={json.dumps([technique])}"],
        ["gate", photo, "-o", out, "-x", ",".join(["captioner:antigravity_test:run"] if "captioner" in technique
                                                    else ["controlnet:m", "condition=antigravity_test:run"])],
    ]  # fmt: skip
    for door in doors:
        assert "--allow-code" in refused(run(*door))
    for load in (lambda: Recipe.load(tmp_path / "r.yaml"), lambda: Recipe.from_dict(data)):
        with pytest.raises(InvalidValueError, match="allow_code=True"):
            load()
    assert "antigravity_test" not in sys.modules
    for door in doors:
        assert run(*door, "--allow-code")[0] == 0
    recipe = Reading.load(tmp_path / "r.yaml", allow_code=True)
    assert recipe == Recipe.from_dict(data, allow_code=True) == recipe.replace(seed=0)
    assert recipe.to_yaml() == Recipe.from_yaml(recipe.to_yaml(), allow_code=True).to_yaml()
    assert "antigravity_test:run" in recipe.to_yaml()
    del sys.modules["antigravity_test"]


def test_functions_given_in_python_need_no_leave() -> None:
    def mine(image: object) -> str:
        return "a cat"

    recipe = Reading.load("tiny-unet").replace(techniques=[Prompt(captioner=mine)])
    (technique,) = recipe.replace(seed=3, **{"trajectory.draws": 2}).techniques or ()
    assert technique.captioner is mine
    assert ControlNet(model="m", condition=mine).condition is mine
    assert ControlNet(model="m", condition="depth:some/model").condition == "depth:some/model"
    with pytest.raises(InvalidValueError, match="names code to run"):
        parse_combination("captioner:os:system")


# --- words ----------------------------------------------------------------------------------------------------


def test_text_of_a_user_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from diffeat.cli.tables import print_table

    print_table(["#", "[draft] cat.png"], [["[/x]", "[bold]y"]], title="[red]z")
    shown = capsys.readouterr().out
    for text in ("[draft] cat.png", "[/x]", "[bold]y", "[red]z"):
        assert text in shown
    assert markdown("<script>a</script>\n*b* _c_ d_e [x](y) [1.0, 2.5] `f` $g$ h|i &amp;") == (
        r"&lt;script>a&lt;/script> \*b\* \_c\_ d_e \[x](y) [1.0, 2.5] \`f\` \$g\$ h\|i &amp;amp;"
    )
    assert len(markdown_table(["a|b", "c"], [["x\n| y |", "1"]]).splitlines()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        *("show", "shw", "eval", "show x --limit [/x]", "show x --nope", "recipes [draft]", "recipes \x1b[31m"),
        *("activations [/x]", "eval [/x]", "show --set [/x]=1 .", "toyworld write x --class [/x]"),
        *("gate x -x [/x]:1", "store [/x]"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(run: Run, arguments: str) -> None:
    words = arguments.split()
    text = refused(run(*words))
    assert "[/x]" not in arguments or "[/x]" in text or "limit" in text


def test_codes_and_lines_of_failures(run: Run, monkeypatch: pytest.MonkeyPatch, photo: Path) -> None:
    import errno

    from diffeat.errors import NonFiniteError, StoreError

    full = OSError(errno.ENOSPC, "No space left on device", "x")
    store = StoreError("Cannot write")
    store.__cause__ = full
    for error, expected in (
        *((full, (1, "No space")), (store, (1, "Cannot write")), (NonFiniteError("NaN"), (1, "NaN"))),
        *((MemoryError(), (1, "memory")), (KeyboardInterrupt(), (130, "Stopped")), (StoreError("no"), (2, "no"))),
    ):

        def fail(*_: object, raised: BaseException = error, **__: object) -> None:
            raise raised

        monkeypatch.setattr("diffeat.extraction.load_source", fail)
        code, text = run("show", photo, "-o", photo.parent / "x.png")
        assert code == expected[0]
        assert expected[1] in text
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        *(("extract . -o s", True), ("extract . -o s --plan", False), ("show . -o x.png", False)),
        *(("eval spair -o e", True), ("eval spair", False), ("reproduce spair", True)),
    ],
)
def test_only_what_goes_on_says_that_something_is_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, kept: bool
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    for place in ("features.list_pictures", "features.listing.find_pictures", "datasets.registry.get_card"):
        monkeypatch.setattr(f"diffeat.{place}", stopped)
    monkeypatch.setattr("diffeat.reproduce.run.run_rows", stopped)
    said = "Stopped." + " What was finished is kept; the same command goes on from there." * kept
    assert run(*arguments.split()) == (130, f"{said}\n")


def test_commands_that_go_on_are_commands() -> None:
    root: Any = typer.main.get_command(app)
    names = {
        f"{name} {inner}".strip() for name, c in root.commands.items() for inner in getattr(c, "commands", {"": c})
    }
    assert set(GO_ON) <= names


@pytest.mark.parametrize("arguments", ["extract no -o s", "train clean no also/no -o r", "extract no --plan -o s"])
def test_a_folder_that_is_not_there_is_the_first_fault(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.csv").write_text("image,prompt\nchelsea.png,a cat\n")
    for texts in ((), ("--prompts", "texts.csv"), ("--prompts", "none.csv"), ("--caption-column", "txt")):
        code, text = run(*arguments.split(), *texts)
        assert code == 2
        assert "The picture 'no' does not exist." in text
    assert sorted(tmp_path.iterdir()) == [tmp_path / "texts.csv"]


def test_files_that_are_not_there_are_not_called_something_else(run: Run, photo: Path) -> None:
    for arguments, reason in {
        "propagate no.mp4 --mask m.png": "There is no video and no folder of frames 'no.mp4'.",
        "propagate no/frames": "There is no video and no folder of frames 'no/frames'.",
        f"transfer {photo} no.json {photo} -o t": "There is no annotation 'no.json'.",
        "eval csv --root no.csv --prompts no.json": "There is no prompt file 'no.json'.",
    }.items():
        text = refused(run(*arguments.split()))
        assert reason in text
        assert "JSON:" not in text
        assert "(got" not in text  # once is enough


class Screen(io.StringIO):
    def __init__(self, watched: bool) -> None:
        super().__init__()
        self.watched = watched

    def isatty(self) -> bool:
        return self.watched


def test_progress_is_quiet_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = Screen(False), iter(range(10_000_000))
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(bar(range(1000), total=1000, desc="pictures")) == list(range(1000))
    assert screen.getvalue() == ""
    monkeypatch.setattr("diffeat.progress.time.monotonic", lambda: float(next(clock)))
    list(bar(range(1000), total=1000, desc="pictures"))
    lines = screen.getvalue().splitlines()
    assert 10 < len(lines) < 50
    assert all(re.fullmatch(r"pictures: \d+ of 1000", line) for line in lines)


def test_an_error_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    items = iter(bar(range(10), total=10))
    next(items)
    end_lines()
    assert screen.getvalue().endswith("\n")
    assert new_folder(".") == Path()


# --- any list, any place --------------------------------------------------------------------------------------

PROMPTS = b"image,prompt\nphoto.png,a cat\n"
PAIRS = b"source,target,source_x,source_y,target_x,target_y\nphoto.png,photo.png,1,2,3,4\nphoto.png,photo.png,5,6,7,8\n"
PIECES = (
    b"",
    b",",
    b"\n",
    b'"',
    b"\0",
    b"\xff",
    b"nan",
    b"-1",
    b"1e999",
    b"../x",
    b"[/x]",
    b"image",
    b"x" * 5000,
    b"\r",
    b"\xef\xbb\xbf",
)


@pytest.mark.parametrize("seed", range(20))
def test_any_list_is_taken_or_refused_in_one_line(run: Run, photo: Path, tmp_path: Path, seed: int) -> None:
    numbers = random.Random(seed)
    for data, command in (
        (PROMPTS, ("extract", photo, "-m", "tiny-unet", "--out", tmp_path / "store", "--prompts")),
        (PAIRS, ("eval", "csv", "--out", tmp_path / "report", "--root")),
    ):
        for _ in range(numbers.randrange(1, 4)):
            at = numbers.randrange(len(data) + 1)
            data = data[:at] + numbers.choice(PIECES) + data[at + numbers.choice((0, 1, 9)) :]
        listed = tmp_path / "list.csv"
        listed.write_bytes(data)
        answer = run(*command, listed)
        assert answer[0] == 0 or refused(answer), data
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("seed", range(20))
def test_any_place_is_taken_or_refused_in_one_line(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    os.symlink("loop", "loop")
    numbers, before = random.Random(seed), photo.read_bytes()
    parts = (
        "photo.png",
        "pipe.png",
        "loop",
        ".",
        "..",
        "new",
        "a\nb",
        "[/x]",
        "x" * 300,
        "\udcff",
        "é🦙",
        "x.png",
        "x.",
        ".yaml",
        " ",
    )
    place = "/".join(numbers.choices(parts, k=numbers.randrange(1, 4))).removesuffix("..") or "new"
    for command in (("show", photo), ("gate", photo), ("select", photo), ("extract", photo)):
        answer = run(*command, "-m", "tiny-unet", "--out", place)
        assert answer[0] == 0 or refused(answer), place
    assert photo.read_bytes() == before
