"""Values show themselves: a line and a card, whatever they hold and whatever they are called."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import numpy as np
import torch
from PIL import Image

from diffeat import FeatureMap, FeatureStore, Matches, Predictor, Recipe, load_source
from diffeat.activations import Catalogue
from diffeat.evaluation import TaskOptions
from diffeat.extraction import Baseline, Reading, Vision, join_recipes
from diffeat.geometry import FrameSpec
from diffeat.notebook import Displayed, folded, notes, pictures, table
from diffeat.studies import GateResult, GateSettings, SearchResult, Selection, Survey, Sweep
from diffeat.studies.content_shift.gating import Variant
from diffeat.studies.sweeps import Cell
from diffeat.tasks import Classification, Homographies, HomographyOptions, Prediction, Propagation, PropagationOptions
from diffeat.tasks.correspondence import get_protocol
from diffeat.tasks.homography import PlaneScore
from diffeat.tasks.masks import MaskScores
from diffeat.tasks.predictors.evaluate import Scored
from diffeat.tasks.predictors.folder import PredictorFacts
from diffeat.tasks.predictors.probes import LinearPixels
from diffeat.tasks.predictors.scores import LabelScores
from diffeat.tasks.predictors.target import TARGETS, Legend
from diffeat.tasks.propagation import VideoScore
from diffeat.tasks.registry import TASKS
from diffeat.tasks.scored import ScoredMaps
from diffeat.tasks.transfer import Transferred
from diffeat.tasks.transfer.matches import FoundPoint
from diffeat.techniques import Combination, Prompt
from test_docs_python import ROOMS
from test_evaluation import _evaluation, _segmentation

BAD = 'a" onload="x()"><script>alert(1)</script>\u202e<img src=http://x/>\n'
LONG = BAD + "long " * 1000
FRAME = FrameSpec("squash", size=64).frame((80, 60))
RUN = (BAD, LONG, "0" * 64)


def feature(maps: dict[str, torch.Tensor]) -> FeatureMap:
    return FeatureMap(maps, FRAME, LONG, "d", {"recipe": LONG})


def examples(folder: Path) -> Iterator[Displayed]:
    rng = np.random.default_rng(0)
    yield feature({f"{BAD}{k}": torch.randn(40 + k, 64, 48) for k in range(9)})
    yield feature({"half": torch.randn(3, 1, 7).half(), "mad": torch.full((2, 4, 4), torch.nan), "flat": torch.ones(3)})
    yield feature({"nowhere": torch.empty(2, 4, 4, device="meta"), "none": torch.empty(0, 4, 4)})
    yield FeatureMap({}, FRAME)
    yield Matches(torch.rand(10_000, 2), torch.rand(10_000, 2), torch.rand(10_000))
    yield Matches(torch.empty(0, 2), torch.empty(0, 2), torch.empty(0))
    yield Catalogue.from_model("tiny-unet")
    reading = Recipe.load("tiny-unet").replace(name=BAD * 3, description=LONG, prompt=LONG)
    yield from (
        reading,
        Vision(model=BAD),
        Baseline(),
        join_recipes([reading] * 40),
        Recipe.load("hyperfeatures-tiny"),
    )
    with FeatureStore.create(folder / "store", {"a": 1}, "h") as store:
        yield store  # with nothing in it
        store.write_shard([FeatureMap({BAD: torch.randn(2, 3, 3)}, FRAME, f"{n}{LONG}", f"{n}") for n in range(40)])
        yield store
    yield FeatureStore.open(folder / "store")
    names = tuple(f"{k}{BAD}" for k in range(300))
    legend = Legend(names)
    large = Image.fromarray(rng.integers(0, 255, (1500, 2000, 3), np.uint8))
    yield Prediction(LONG, large, TARGETS["labels"], legend, rng.integers(0, 300, (1500, 2000)))
    yield Prediction(BAD, large, TARGETS["classes"], legend, np.int64(3), probabilities=np.full(300, 1 / 300))
    yield Prediction(BAD, large, TARGETS["depth"], Legend(), rng.random((1500, 2000)))
    head = LinearPixels(torch.zeros(300, 3), torch.zeros(300))
    facts = PredictorFacts(kind=head.kind, target="labels", classes=names, notes=names)
    yield Predictor(load_source("baseline:rgb"), head, facts)
    yield Transferred({n: FoundPoint((1, 2), 0.5, 0.1, True, 0.9) for n in names}, {}, np.zeros((60, 80), np.uint8))
    yield ScoredMaps(names, torch.rand(300, 8, 6), FRAME, LONG, names)
    yield from results(rng, names)


def results(rng: np.random.Generator, names: tuple[str, ...]) -> Iterator[Displayed]:
    yield dataclasses.replace(_evaluation(rng, 30), dataset=BAD, remarks=names)
    yield _evaluation(rng, 30).result
    yield _segmentation(rng, 5)
    truth, predicted = rng.integers(0, 300, (2, 900))
    yield Classification(*RUN, names, truth, predicted, 0.1, 9, TaskOptions(), names)
    part = {"mean": 0.5, "recall": 0.4, "decay": 0.1}
    yield Propagation(*RUN, tuple(VideoScore(n, 1, part, part) for n in names), (), PropagationOptions(), names)
    labels = LabelScores.of(truth[None], predicted[None], names)
    yield Scored(BAD, LONG, *RUN[1:], labels, LONG, names)
    counts, outlines = rng.integers(0, 9, (5, 300, 3)), rng.integers(1, 9, (5, 4))
    yield MaskScores(*RUN, names, counts, outlines, TaskOptions(), LONG, names)
    planes = tuple(PlaneScore(n, "i", n, 2.0, 9, 5) for n in names)
    yield Homographies(*RUN, HomographyOptions(), planes, names)
    base = Reading.load("tiny-unet")
    told = Combination([Prompt(text=LONG)])
    variants = (Variant("base", Combination(), "base"), Variant(BAD, told))
    yield GateResult(GateSettings(), base, variants, names, {}, {}, {}, {}, warnings=names)
    yield SearchResult(told, None, (), 0, LONG)
    cells = {(20.0, n): Cell(20, n, 50, 40, 60, 50, 3, 9, names) for n in names}
    yield Sweep(base, BAD, get_protocol("spair"), (20.0,), names, cells, 0)
    yield Survey(base, Reading.load("ditf-tiny"), LONG, (), (261.0,), 3, "float32", {}, {}, {}, {}, [])
    grown = [SimpleNamespace(added=n, channels=9, depth=0.5, scores={}, combined=1, alike=0.2, rivals=n) for n in names]
    yield Selection(base, None, {}, {}, tuple(grown), 400, names)  # pyright: ignore


class Card(HTMLParser):
    """Reads a card as strictly as a browser would have to be lenient."""

    VOID = {"img"}
    TAGS = {"div", "span", "b", "p", "ul", "li", "table", "tr", "th", "td", "figure", "figcaption", "img", "details"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[Image.Image] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.TAGS | {"summary", "pre"}, tag
        for name, value in attrs:
            assert name in {"style", "alt", "width", "src"}, name
            if name == "src":
                kind, _, data = (value or "").partition(",")
                assert kind == "data:image/png;base64"
                self.images.append(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
            if name == "style":  # ink and paper are the notebook's, so that both its themes are readable
                rules = [rule.partition(":")[0] for rule in (value or "").split(";")]
                assert not {"color", "background", "background-color", "position"} & set(rules)
                assert "url" not in (value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_value_shows_itself_in_a_line_and_in_a_small_safe_card(tmp_path: Path) -> None:
    shown = set()
    for value in examples(tmp_path):
        shown.add(type(value))
        line = repr(value)
        assert line.startswith(f"{type(value).__name__}(")
        assert line.isprintable(), line
        assert len(line) <= 201
        assert not any(word in line for word in ("tensor(", "array(", "\n"))
        text = value._repr_html_()
        assert len(text) < 300_000, type(value)
        card = Card(text)
        assert card.words[0] == type(value).__name__
        assert "\u202e" not in text
        assert max(map(len, card.words)) <= 4100
        assert all(max(image.size) <= 128 for image in card.images)
        (tmp_path / f"{type(value).__name__}-{len(list(tmp_path.iterdir()))}.html").write_text(text)

    def below(kind: type) -> set[type]:
        return {kind, *(k for sub in kind.__subclasses__() for k in below(sub))}

    public = {kind for kind in below(Displayed) if kind.__module__.startswith("diffeat.")}
    bases = {kind for kind in public if any(k is not kind and issubclass(k, kind) for k in shown)}
    assert public - bases - shown == set()  # a class that shows itself has an example above


def exported() -> dict[type, str]:
    rooms = {room: import_module(room) for room in ROOMS}
    things = ((getattr(module, name), f"{room}.{name}") for room, module in rooms.items() for name in module.__all__)
    return {thing: name for thing, name in things if isinstance(thing, type)}


def test_whatever_is_a_recipe_or_a_result_shows_itself() -> None:
    results = {get_type_hints(task.evaluate)["return"] for task in TASKS.values()}
    tabled = {kind for kind in exported() if callable(getattr(kind, "table", None)) and not _is_protocol(kind)}
    kinds = {*results, *tabled, *Recipe.KINDS.values()}
    assert len(kinds) > 14
    assert [kind for kind in kinds if not issubclass(kind, Displayed)] == []


def _is_protocol(kind: type) -> bool:
    return getattr(kind, "_is_protocol", False)


def test_no_exported_value_prints_its_tensors() -> None:
    wordy = []
    for kind, name in exported().items():
        if dataclasses.is_dataclass(kind) and "Displayed" not in {k.__name__ for k in kind.__mro__}:
            large = [
                f for f in dataclasses.fields(kind) if any(w in str(f.type) for w in ("Tensor", "NDArray", "ndarray"))
            ]
            wordy += [f"{name}.{f.name}" for f in large if f.repr]
    assert wordy == []


def test_a_store_that_is_damaged_still_shows_itself(tmp_path: Path) -> None:
    with FeatureStore.create(tmp_path / "s", {"a": 1}, "h") as store:
        store.write_shard([FeatureMap({"x": torch.ones(1, 2, 2)}, FRAME, "a.png", "a")])
    next((tmp_path / "s" / "index").iterdir()).write_bytes(b"PAR1")
    store = FeatureStore.open(tmp_path / "s")
    assert repr(store).endswith("dtype float32, recipe h)")
    assert "Run the same extraction again" in store._repr_html_()


def test_pieces_tell_what_they_leave_out() -> None:
    rows = [[str(n), "x"] for n in range(100)]
    card = Card(table(["n", "what"], rows))
    assert [w for w in card.words if w.isdigit()] == [*map(str, range(11)), "99"]  # the last sums up
    assert "… 88 more" in card.words
    assert "…" in Card(table([str(n) for n in range(30)], [["x"] * 30])).words
    assert len(Card(pictures((str(n), Image.new("RGB", (9, 3))) for n in range(99))).images) == 6
    assert Card(folded("more", "a\nb <i>" + "c" * 9000)).words[1].startswith("a\nb <i>")
    assert "… 88 more" in Card(notes(map(str, range(100)))).words
