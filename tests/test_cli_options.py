"""The command line says a thing in one way everywhere, refuses what it would ignore, and its help can be copied."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.cli.recipe_options import reads, recipe_of
from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.extraction import Joined, Reading, Recipe, preset_names
from diffeat.storage import FeatureStore


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    command = command or get_command(app)
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


COMMANDS = dict(commands())
EXAMPLES = {name: command.example.splitlines() for name, command in COMMANDS.items()}


def parsed(line: str) -> Any:
    """The context of a command line, which is parsed but not run."""
    program, *words = shlex.split(line.partition(" > ")[0])
    assert program == "diffeat"
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command.make_context(command.name, words)


def recipe(*options: str, default: str = "tiny-dift") -> Recipe:
    """The recipe that options ask for."""
    command = reads(default)("extract", callback=None, params=[])
    with command.make_context("extract", list(options)) as context:
        return recipe_of(context)


def refusal(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, DiffeatError), done.exception
    assert "\n" not in str(done.exception)
    return str(done.exception)


# --- changes to recipes ---------------------------------------------------------------------------------------


def test_set_and_short_forms_change_the_same_fields() -> None:
    short = recipe("-m", "sd15", "-a", "dift:2", "-t", "20", "-t", "60:100:40", "--size", "64", "--seed", "3")
    fields = {"model": "sd15", "activations": '["dift:2"]', "trajectory.timesteps": "[20, 60, 100]", "seed": "3"}
    long = recipe(*(word for k, v in {**fields, "frame.longer": "64"}.items() for word in ("--set", f"{k}={v}")))
    assert isinstance(short, Reading)
    assert short == long
    assert short.trajectory.timesteps == (20, 60, 100)
    assert (short.model, short.activations, short.frame.longer, short.seed) == ("sd15", ("dift:2",), 64, 3)
    assert short.trajectory.draws == Recipe.load("tiny-dift").trajectory.draws


def test_values_are_yaml_and_every_kind_of_recipe_takes_them() -> None:
    changed = recipe("--set", "trajectory.draws=2", "--set", "fuse={kind: mean, grid: [4, 4]}", "--set", "views=null")
    assert changed.trajectory.draws == 2
    assert changed.fuse.grid == (4, 4)
    assert recipe("-r", "vision:some/model", "--set", "layer=3", "--size", "224").content()["layer"] == 3
    assert recipe("-r", "vision:some/model", "--set", "model=other").model == "other"
    daisy = recipe("-r", "baseline:daisy", "--set", "radius=7", "--size", "90")
    assert (daisy.radius, daisy.longer) == (7, 90)


def test_several_recipes_are_joined_and_changed_where_they_have_the_field() -> None:
    joined = recipe("-r", "tiny-dift", "-r", "vision:some/model", "--weight", "1", "--weight", "3", "-t", "40")
    assert isinstance(joined, Joined)
    reading, vision = joined.parts
    assert reading.trajectory.timesteps == (40,)
    assert vision == Recipe.load("vision:some/model")
    assert joined.shares == [0.25, 0.75]
    assert recipe("-r", "tiny-dift", "-r", "vision:x", "-m", "sd15").parts[1].model == "x"
    assert recipe("-r", "tiny-dift + baseline:rgb") == recipe("-r", "tiny-dift", "-r", "baseline:rgb")
    same = recipe("-r", "tiny-dift + baseline:rgb", "--set", "join=concat", "--set", "weights=null", "--seed", "5")
    assert (same.join, same.parts[0].seed) == ("concat", 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--set trajectory.drws=2", "Did you mean 'draws'"),
        ("--set draws=2", "Did you mean 'trajectory.draws'"),
        ("--set frame.sise=2", "Did you mean 'size'"),
        ("--set trajectory.draws=none", "trajectory.draws: "),
        ("--set seed", "--set takes FIELD=VALUE"),
        ("--set seed=[", "not valid YAML"),
        ("--set seed.x=1", "no fields"),
        ("--set seed=1 --seed 2", "seed is given twice"),
        ("-t 20:10", "20:10"),
        ("-t x", "--timestep takes numbers and ranges"),
        ("-r vision:m -t 5", "--timestep would be ignored"),
        ("-r vision:m -a x", "--activation would be ignored"),
        ("-r vision:m --prompt cat", "--prompt would be ignored"),
        ("-r vision:m --batch-size 2", "--batch-size would be ignored"),
        ("-r vision:m -r baseline:rgb --seed 1", "--seed would be ignored"),
        ("-r vision:m --set trajectory.draws=2", "trajectory: unknown field"),
        ("-r baseline:rgb --device cpu", "--device would be ignored"),
        ("--weight 1", "Weights belong to several recipes"),
        ("-r tiny-dift -r tiny-unet --weight 1", "weights"),
        ("-r tiny-dft", "Did you mean 'tiny-dift'"),
    ],
)
def test_changes_that_do_not_fit(options: str, message: str) -> None:
    with pytest.raises(DiffeatError) as raised:
        recipe(*options.split())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_recipes_have_the_same_options_everywhere() -> None:
    shared = {"recipe", "set", "model", "activation", "timestep", "size", "seed", "device", "dtype"}
    for name in ("extract", "show", "match", "eval", "propagate"):
        options = {p.name for p in COMMANDS[name].get_params(parsed_context(name))}
        assert options >= shared | {"weight", "batch_size"}, name
    for name in ("gate", "massive", "sweep", "generate", "train hyperfeatures"):
        options = {p.name for p in COMMANDS[name].get_params(parsed_context(name))}
        assert options >= shared, name
        assert "weight" not in options


def parsed_context(name: str) -> Any:
    return next(parsed(line) for line in EXAMPLES[name] if line.startswith(f"diffeat {name}"))


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.new("RGB", (48, 48), "teal").save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("show STORE -r tiny-dift", "--recipe"),
        ("show STORE --word cat --prompt cat", "--prompt, --word"),
        ("show STORE -t 5 --device cpu", "--timestep, --device"),
        ("show PHOTO --word cat --prompt cat --shared", "--shared"),
        ("show PHOTO --word cat --prompt cat -a dift:1", "--activation"),
        ("show PHOTO --word cat --prompt cat --weight 2", "--weight"),
        ("match PHOTO PHOTO --heat 3", "--heat"),
        ("match PHOTO PHOTO --points 1,2 --count 3", "--count"),
        ("recipes tiny-dift --schema", "--schema"),
        ("select PHOTO -m tiny-unet --budget 9 --samples 9", "--samples"),
        ("select PHOTO -m tiny-unet --budget 9 --root x --category y", "--root, --category"),
        ("gate PHOTO -x guidance:2 --search 9 --no-controls", "--controls"),
        ("train hyperfeatures toyworld --root x -o OUT --start --projection 64", "--projection"),
    ],
)
def test_options_that_would_be_ignored_are_refused(photo: Path, tmp_path: Path, arguments: str, option: str) -> None:
    FeatureStore.create(tmp_path / "store", {"kind": "reading"}, "0" * 64).close()
    places = {"PHOTO": str(photo), "STORE": str(tmp_path / "store"), "OUT": str(tmp_path / "out")}
    words = [places.get(word, word) for word in arguments.split()]
    assert refusal(*words).startswith(f"{option} would be ignored: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dataset", "task", "suits"),
    [("toyworld", "segmentation", "correspondence"), ("horse21", "correspondence", "label-scarce or segmentation")],
)
def test_an_amalgamation_of_another_kind_of_data_is_refused(
    dataset: str, task: str, suits: str, tmp_path: Path
) -> None:
    words = ["train", "amalgamation", dataset, "--root", "x", "-o", str(tmp_path / "out"), "--task", task]
    assert f"they suit --task {suits}, not {task}" in refusal(*words)


@pytest.mark.parametrize(
    "arguments",
    [
        "select PHOTO --budget 9",
        "gate PHOTO -x guidance:2",
        "massive",
        "sweep -t 20 -b 3",
        "generate -o OUT",
        "train hyperfeatures --root x -o OUT",
        "train prune --root x -o OUT",
    ],
)
def test_commands_of_one_diffusion_model_refuse_several_recipes(photo: Path, tmp_path: Path, arguments: str) -> None:
    words = [{"PHOTO": str(photo), "OUT": str(tmp_path / "out")}.get(word, word) for word in arguments.split()]
    assert "takes one recipe, got 2: tiny-dift, tiny-unet" in refusal(*words, "-r", "tiny-dift", "-r", "tiny-unet")
    assert "single diffusion model" in refusal(*words, "-r", "vision:m")
    assert "single diffusion model" in refusal(*words, "-r", "tiny-dift + tiny-unet")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_mistyped_option_is_refused_in_one_line(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--recipee", "x"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "No such option: --recipee" in done.output
    assert len([line for line in done.output.splitlines() if line.startswith("│")]) == 1


# --- help -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_ends_in_an_example_that_is_understood(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "40"}).output
    lines = [line.strip() for line in shown.partition(" Example:\n")[2].splitlines() if line.strip()]
    assert any(line.startswith(f"diffeat {name}") for line in lines)
    for line in lines:
        parsed(line)


def test_examples_run(tmp_path: Path) -> None:
    cheap = ("samples", "recipes", "store show", "store compact", "activations")  # drawing a world takes a while
    lines = dict.fromkeys(line for name in cheap for line in EXAMPLES[name] if "diffeat eval" not in line)
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for line in lines:
            done = CliRunner().invoke(app, shlex.split(line.partition(" > ")[0])[1:])
            assert done.exit_code == 0, (line, done.output, done.exception)
    finally:
        os.chdir(here)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "labelled", "features"}


def test_commands_are_grouped_by_what_one_wants() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    panels = ["Extract and look", "Use features", "Choose and understand", "Train", "Models, recipes, data"]
    assert [shown.index(panel) for panel in panels] == sorted(shown.index(panel) for panel in panels)


@pytest.mark.parametrize("width", [30, 80])
def test_recipes_are_never_cut(width: int) -> None:
    shown = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": str(width)}).output.splitlines()
    assert [line for line in shown if line in preset_names()] == preset_names()
    assert all(len(line) <= width for line in shown if line not in preset_names())


def test_help_is_light() -> None:
    code = (
        "import io, sys\nfrom contextlib import redirect_stdout\nfrom typer.main import get_command\n"
        "from diffeat.cli.main import app\ncommand = get_command(app)\n"
        "for name in sys.argv[1:]:\n"
        "    with redirect_stdout(io.StringIO()) as shown:\n"
        "        command.main([*name.split(), '--help'], standalone_mode=False)\n"
        "    assert ' Example:' in shown.getvalue(), name\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    light = sorted(set(COMMANDS) - {"eval", "propagate", "sweep"})  # these list options of tasks, which compute
    done = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_layer_and_size_of_a_vision_transformer_are_named_with_it() -> None:
    one = recipe("-r", "vision:facebook/dinov2-base,layer=11,size=518,mode=pad")
    assert (one.model, one.layer, one.size, one.mode) == ("facebook/dinov2-base", 11, 518, "pad")
    assert one.name == "dinov2-base,layer=11,size=518,mode=pad"
    assert (
        one.hash
        == recipe(
            "-r", "vision:facebook/dinov2-base", "--set", "layer=11", "--set", "size=518", "--set", "mode=pad"
        ).hash
    )
    joined = recipe("-r", "tiny-dift", "-r", "vision:m,layer=-2,size=224")
    assert (joined.parts[1].layer, joined.parts[1].size) == (-2, 224)  # the other part keeps its own
    assert Recipe.load("tiny-dift + vision:m,layer=-2,size=224").hash == joined.hash
    for wrong, reason in (("lyer=3", "'layer'"), ("layer=x", "layer"), ("size=0", "size"), ("layer", "layer")):
        with pytest.raises(InvalidValueError, match=reason):
            Recipe.load(f"vision:m,{wrong}")
