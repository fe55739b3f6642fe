"""Everything runs offline, on one thread (tiny models are slower on more) and with shape checks switched on."""

from __future__ import annotations

import gc
import os

import compiled  # noqa: F401 (before all other imports)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # of processes that tests start; two of them on two cores are slow otherwise

from functools import cache
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """The process that hands out files to others runs no test, and imports nothing of all this."""
    if config.getoption("dist", "no") != "no":
        config.option.loadscopereorder = False  # see below for the order
        return
    gc.disable()  # imports leave little garbage, and looking for it takes a fifth of their time
    import torch
    import typer.main
    import typer.testing

    import shapes

    shapes.enforce("diffeat")
    torch.set_num_threads(1)
    #: To build all commands takes longer than most of a thousand calls of one.
    typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)
    #: Fixtures that several files of tests share.
    config.pluginmanager.import_plugin("support.hyperfeatures")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are processors: many tests wait for a process or a browser."""
    return 2 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


#: Files that take longest, or wait most: a worker that begins with one of them at the end would be the last for long.
DEAR = (
    "workers_ray", "sources", "docs_python", "app_page", "migration", "contracts_floor", "model_kinds", "docs_site",
    "activations_families", "eval_golden", "techniques", "cli_options", "refine", "amalgamation", "storage", "gate",
    "training_heads", "technique_training", "dense_tuned", "app_fuzz",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": i for i, name in enumerate(DEAR)}
    items.sort(key=lambda item: place.get(item.path.stem, len(DEAR)))


def pytest_collection_finish() -> None:
    """What is imported by then stays: the garbage collector need not go through it again and again."""
    gc.freeze()
    gc.enable()


def golden_roots() -> list[Path]:
    """Folders of reference data: the part committed with the tests, and the whole where it lies beside the repo."""
    here = Path(__file__).parent
    return [p for p in (here / "golden", here.parent.parent / "shared" / "golden") if p.is_dir()]


@pytest.fixture
def no_quantisers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no library that reads quantised weights were installed."""
    monkeypatch.setattr("diffeat.backbones.folder.find_spec", lambda name: None)
