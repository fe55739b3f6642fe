"""Rules, probes and the search: synthetic models whose good activations are known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.backbones import Backbone
from diffeat.datasets.labelled import ClassSample, MaskSample
from diffeat.datasets.pairs import PointPair
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.studies.selection.greedy import forward_selection, rank_singles
from diffeat.studies.selection.meter import Measured, Meter
from diffeat.studies.selection.observations import observations
from diffeat.studies.selection.paper import paper_verdicts
from diffeat.studies.selection.probes import ClassificationProbe, CorrespondenceProbe, CoverageProbe, SegmentationProbe
from diffeat.studies.selection.properties import (
    MeasuredOn,
    Measurement,
    Property,
    attention_shifts,
    fine_ratios,
    measure,
    redundancy,
)
from diffeat.studies.selection.rules import judge, load_rules
from diffeat.studies.selection.score import Score, ratio
from diffeat.studies.selection.search import (
    SelectionSettings,
    default_recipe,
    load_measurement,
    save_measurement,
    select,
)
from support.selection import IMAGES, blocks, made
from tiny.pipelines import build

FINE = Measured(0.1, 0.05, 0.2, 10, 0.6, 0.3, 0.05, 0.4, 0.5, 0.0, 0, 2.0)


def prop(id: str, kind: str = "resnet", stage: str = "up 1", channels: int = 8, **values) -> Property:
    stride = values.pop("stride", 2)
    measured = Measured(**(FINE.__dict__ | values))
    return Property(id, kind, stage, channels, (16, 16), stride, 0.5, measured)


def measurement(properties: list[Property], alike: torch.Tensor | None = None) -> Measurement:
    count = len(properties)
    picture = Image.new("RGB", (8, 8))
    colours = {p.id: np.zeros((4, 4, 3), np.uint8) for p in properties}
    settings = MeasuredOn(model="tiny", pictures=2, timestep=50, draws=2, size=[64, 64], seed=0, precision="float32")
    return Measurement(tuple(properties), torch.eye(count) if alike is None else alike, {}, colours, picture, settings)


# ---- rules


@pytest.mark.parametrize(
    ("change", "property", "words"),
    [
        ({"noise": 0.4}, "noise", "40%"),
        ({"noise_low": 0.3}, "noise", "30%"),
        ({"kind": "ffn-inner"}, "kind", "by kind"),
        ({"id": "calm.ff", "kind": "ffn", "noise_fine": 0.3}, "noise", "30%, 1.50 times"),
        ({"stride": 8.0}, "granularity", "8 latent cells"),
        ({"stage": "down 1", "noise": 0.2}, "noise", "2.0 times"),
        ({"position": 0.6}, "locality", "60%"),
        ({"id": "a.attn1.k", "kind": "attention-k", "concentration": 0.7}, "locality", "0.70"),
        ({"granularity": 0.05, "resolution": 2.0}, "granularity", "2 cells"),
        ({"dead": 0.6}, "facts", "60%"),
    ],
    ids=str,
)
def test_a_rule_says_what_and_why(change: dict, property: str, words: str) -> None:
    verdicts = judge(measurement([prop("calm"), prop(**({"id": "odd"} | change))]))
    assert verdicts["calm"].kept
    odd = verdicts[change.get("id", "odd")]
    assert not odd.kept
    assert property in dict(odd.reasons)
    assert words in str(odd)


def test_a_reason_of_the_default_rules_names_what_its_conditions_test() -> None:
    """Numbers in a reason are those that decided (or the same in other units); what goes by kind says so."""
    same = {"cells": "stride", "resolution": "granularity", "noise_fine": "fine_ratio"}
    for rule in load_rules("measured"):
        tested = {text.split()[0] for text in rule.when}
        told = {same.get(name, name) for _, name, _, _ in Formatter().parse(rule.reason) if name}
        numbers = tested - {"kind", "stage", "id"}
        assert told == numbers, rule.reason
        assert numbers or "by kind" in rule.reason


def test_an_increment_is_said_to_be_noisier_only_where_it_is() -> None:
    block = prop("b", "block")
    quiet, loud = (prop(f"b.{n}", "attention-v", noise_fine=v) for n, v in (("v", 0.19), ("ff", 0.21)))
    lost = prop("b2.v", "attention-v", noise_fine=0.9)  # not inside any stream: nothing to compare with
    found = measurement([block, quiet, loud, lost])
    reasons = {id: dict(verdict.reasons) for id, verdict in judge(found).items()}
    assert [set(reasons[p]) for p in ("b.v", "b.ff", "b2.v")] == [{"kind"}, {"kind", "noise"}, {"kind"}]
    assert fine_ratios(found) == {"b.v": pytest.approx(0.95), "b.ff": pytest.approx(1.05)}
    assert any(line.startswith("1 of 2 increments have more fine noise") for line in observations(found))


def test_late_self_attention_that_is_not_local_stays() -> None:
    assert judge(measurement([prop("a.attn1.k", "attention-k", concentration=0.4)]))["a.attn1.k"].kept


def test_synthetic_activations_are_kept_or_rejected_by_what_they_are() -> None:
    def of(maps: list[torch.Tensor]) -> Measured:
        meter = Meter(maps[0].shape[1], (16, 16))
        for m in maps:
            meter.add(m)
        return meter.result()

    made_of = {
        "good": made(noise=0.1, content=blocks),
        "noisy": made(noise=0.6),
        "blotchy": made(
            noise=0.28,
            noise_form=lambda x: torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, -1).repeat_interleave(4, -2),
        ),
        "place": made(noise=0.1, position=0.8),
    }
    properties = [Property(n, "resnet", "up 1", 48, (16, 16), 2, 0.5, of(maps)) for n, maps in made_of.items()]
    verdicts = judge(measurement(properties))
    assert {n: v.kept for n, v in verdicts.items()} == {"good": True, "noisy": False, "blotchy": False, "place": False}
    assert [verdicts[n].reasons[0][0] for n in ("noisy", "blotchy", "place")] == ["noise", "noise", "locality"]
    assert len(made_of["good"]) == IMAGES


def test_copies_are_told() -> None:
    verdicts = judge(measurement([prop("a"), prop("b")], torch.ones(2, 2)))
    assert verdicts["a"].kept
    assert "same tensor as a" in str(verdicts["b"])


def test_a_rule_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        '- property: size\n  when: ["channels > 10", "kind in vit, block"]\n  reason: "{channels} channels"\n'
    )
    verdicts = judge(measurement([prop("a", "vit", channels=20), prop("b", "resnet", channels=20)]), file)
    assert str(verdicts["a"]) == "size: 20 channels"
    assert verdicts["b"].kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('- property: x\n  when: ["nois > 1"]\n  reason: y\n', "'noise'"),
        ('- property: x\n  when: ["noise >> 1"]\n  reason: y\n', "rule 1"),
        ("- property: x\n  reason: y\n", "when"),
        ("rules: 1\n", "list of rules"),
    ],
)
def test_rule_files_with_mistakes(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InvalidValueError, match=words):
        load_rules(tmp_path / "r.yaml")
    with pytest.raises(UnknownNameError, match="measured, paper"):
        load_rules(tmp_path / "none.yaml")


# ---- redundancy and scores


def test_redundancy() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=generator)
    turned = x @ torch.linalg.qr(torch.randn(10, 10, generator=generator)).Q * 5 + 3
    half = torch.cat([x[:, :5], torch.randn(200, 5, generator=generator)], 1)
    other = torch.randn(200, 40, generator=generator)
    alike = redundancy([x, turned, half, other])
    assert alike[0, 1] == pytest.approx(1, abs=1e-3)
    assert 0.3 < alike[0, 2] < 0.7
    assert alike[0, 3] < 0.05  # the plain estimator gives about 0.2 here


def test_score_intervals_and_pairing() -> None:
    one = Score(np.stack([np.array([1.0] * 60 + [0.0] * 40), np.ones(100)], 1), ratio)
    assert one.value == 60
    low, high = one.interval()
    assert low == pytest.approx(60 - 9.6, abs=3)
    assert high == pytest.approx(60 + 9.6, abs=3)
    assert np.array_equal(one.resampled(), one.resampled())


# ---- probes: what a sum of products says is what joined features say


FRAME = FrameSpec(mode="squash", size=32).frame((32, 32))


def features(seed: int) -> FeatureMap:
    """Three maps: one knows the quadrant's label, one nothing, one the place."""
    generator = torch.Generator().manual_seed(seed)
    labels = quadrants(seed)
    knows = torch.nn.functional.one_hot(torch.from_numpy(labels[::4, ::4].copy()), 4).permute(2, 0, 1).float()
    noise = torch.randn(6, 8, 8, generator=generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)])
    shaky = knows + 0.05 * torch.randn(4, 8, 8, generator=generator)
    return FeatureMap({"knows": shaky, "noise": noise, "place": place}, FRAME, str(seed))


def quadrants(seed: int) -> np.ndarray:
    return np.kron(np.random.default_rng(seed).permutation(4).reshape(2, 2), np.ones((16, 16), int))


IDS = ["knows", "noise", "place"]


@pytest.fixture
def masks(tmp_path: Path) -> list[MaskSample]:
    samples = []
    for seed in range(8):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{seed}.png")
        np.save(tmp_path / f"{seed}.npy", quadrants(seed))
        samples.append(MaskSample(tmp_path / f"{seed}.png", tmp_path / f"{seed}.npy"))
    return samples


def load(image) -> FeatureMap:
    return features(int(Path(str(image)).stem))


def test_segmentation_probe(masks: list[MaskSample]) -> None:
    probe = SegmentationProbe(masks[:4], masks[4:], 4, IDS, load)
    alone = {id: probe.score([id]).value for id in IDS}
    assert alone["knows"] > 80 > alone["place"]
    assert probe.score(["knows", "noise"]).value > 60
    assert len(probe.score(["knows"]).units) == 4


def test_correspondence_probe_is_matching_of_joined_features() -> None:
    centres = [(7.5, 7.5), (23.5, 7.5), (7.5, 23.5), (23.5, 23.5)]

    def pair(a: int, b: int) -> PointPair:
        label = {int(quadrants(b)[int(y), int(x)]): (x, y) for x, y in centres}
        truth = [label[int(quadrants(a)[int(y), int(x)])] for x, y in centres]
        return PointPair(
            f"{a}-{b}", Path(f"{a}"), Path(f"{b}"), tuple(centres), tuple(truth), "", None, (0, 0, 160, 160)
        )

    pairs = [pair(a, b) for a in range(3) for b in range(3) if a != b]
    probe = CorrespondenceProbe(pairs, IDS, load, (8, 8))
    assert probe.score(["knows"]).value > 90  # 0.1 of 160 px: anywhere in the right quadrant
    assert probe.score(["knows"]).value > probe.score(["place"]).value
    from diffeat.refinement import concatenate
    from diffeat.tasks.correspondence import Lattice, Matching, Target

    hits = []
    for p in pairs:
        one, other = (
            FeatureMap({"fused": concatenate([load(i)["knows"], load(i)["noise"]], (8, 8), True)}, FRAME)
            for i in (p.source, p.target)
        )
        found = Target(other, Matching(Lattice("cells"))).find(one, torch.tensor(p.source_points, dtype=torch.float64))
        hits.append(((found.target - torch.tensor(p.target_points)).norm(dim=1) <= 16).double().mean().item())
    assert probe.score(["knows", "noise"]).value == pytest.approx(100 * np.mean(hits), abs=1)


def test_classification_probe() -> None:
    def one(image) -> FeatureMap:
        seed = int(str(image))
        generator = torch.Generator().manual_seed(seed)
        signal = torch.zeros(2, 8, 8)
        signal[seed % 2] = 1
        return FeatureMap(
            {
                "knows": signal + 0.1 * torch.randn(2, 8, 8, generator=generator),
                "noise": torch.randn(3, 8, 8, generator=generator),
            },
            FRAME,
        )

    samples = [ClassSample(Path(str(i)), i % 2) for i in range(20)]
    probe = ClassificationProbe(samples[:12], samples[12:], 2, ["knows", "noise"], one)
    assert probe.score(["knows"]).value == 100
    assert probe.score(["noise"]).value < 100


# ---- choosing


class Table:
    """A probe that knows the worth of every activation; copies add nothing."""

    name = "table"

    def __init__(self, worth: dict[str, float], same: dict[str, str] | None = None) -> None:
        self.worth, self.same = worth, same or {}

    def score(self, ids) -> Score:
        value = sum(self.worth[i] for i in {self.same.get(i, i) for i in ids})
        return Score(np.array([[value, 1.0]] * 20), ratio)


def test_forward_selection_within_the_budget() -> None:
    candidates = [prop("a", channels=10), prop("b", channels=6), prop("c", channels=5), prop("d", channels=4)]
    probe = Table({"a": 0.3, "b": 0.2, "c": 0.1, "d": -0.1})
    steps = forward_selection(candidates, [probe], lambda one, other: 0.0, budget=16)
    assert [s.added for s in steps] == ["a", "b"]  # c does not fit any more, d does harm
    assert [s.channels for s in steps] == [10, 16]
    assert steps[1].scores["table"].value == pytest.approx(50)
    steps = forward_selection(candidates, [probe], lambda one, other: 0.0, budget=100)
    assert steps[-1].ids == ("a", "b", "c")


def test_a_tie_goes_to_what_is_new() -> None:
    candidates = [prop("a"), prop("b"), prop("c")]
    probe = Table({"a": 0.3, "b": 0.1, "c": 0.1})
    alike = {("b", "a"): 0.9, ("c", "a"): 0.2}
    steps = forward_selection(candidates, [probe], lambda one, other: alike.get((one, other), 0.0), budget=16)
    assert [s.added for s in steps] == ["a", "c"]
    assert steps[1].alike == 0.2
    assert set(steps[1].rivals) == {"b", "c"}


def test_a_copy_is_not_added() -> None:
    probe = Table({"a": 0.3, "b": 0.1}, same={"copy": "a"})
    steps = forward_selection([prop("a"), prop("copy"), prop("b")], [probe], lambda one, other: 0.0, budget=99)
    assert len(steps) == 2
    assert steps[-1].added == "b"


def test_budget_smaller_than_every_candidate() -> None:
    with pytest.raises(InvalidValueError, match=r"budget of 3.*smallest candidate \(b, 6 channels\)"):
        forward_selection(
            [prop("a", channels=8), prop("b", channels=6)], [Table({"a": 1, "b": 1})], lambda *_: 0.0, budget=3
        )


def test_coverage_without_labels_prefers_clean_and_different() -> None:
    alike = {frozenset("ab"): 0.95, frozenset("ac"): 0.1, frozenset("bc"): 0.1}
    cka = lambda one, other: 1.0 if one == other else alike[frozenset((one, other))]  # noqa: E731
    probe = CoverageProbe({"a": 0.9, "b": 0.85, "c": 0.6}, cka)
    steps = forward_selection([prop("a"), prop("b"), prop("c")], [probe], cka, budget=16)
    assert [s.added for s in steps] == ["a", "c"]
    assert rank_singles([prop("a")], [probe])["a"]["coverage"].value > 0


# ---- a whole selection on a random network


def noise_pictures(folder: Path, count: int) -> list[Path]:
    paths = []
    for i in range(count):
        values = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        path = folder / f"picture{i}.png"
        Image.fromarray(values).resize((64, 48), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(build("sd15"), name="tiny")


def test_measuring_a_model(backbone: Backbone, tmp_path: Path) -> None:
    images = noise_pictures(tmp_path, 3)
    found = measure(backbone, images, size=64, draws=2, timestep=261)
    assert {p.stage for p in found.properties} >= {"down 0", "up 3"}
    assert all(np.isfinite([v for v in p.measured.__dict__.values() if v is not None]).all() for p in found.properties)
    assert "tokens of the text" in found.skipped["down_blocks.0.attentions.0.transformer_blocks.0.attn2.k"]
    assert found["conv_in.in"].measured.noise > 0
    assert found.cka("up_blocks.1", "up_blocks.1.upsamplers.0") == pytest.approx(1)
    assert len(attention_shifts(found)) == 15
    again = measure(backbone, images, size=64, draws=2, timestep=261)
    assert again.properties == found.properties
    save_measurement(found, tmp_path / "saved", "key")
    loaded = load_measurement(tmp_path / "saved", "key")
    assert loaded is not None
    assert loaded.properties == found.properties
    assert loaded.skipped == found.skipped
    assert load_measurement(tmp_path / "saved", "other") is None


def test_noise_of_the_input_is_what_was_added(backbone: Backbone, tmp_path: Path) -> None:
    """The first activation is √ᾱ x₀ + √(1−ᾱ) ε: its noise share is known."""
    images = noise_pictures(tmp_path, 8)
    found = measure(backbone, images, size=64, draws=4, timestep=500, activations=["conv_in.in"])
    with torch.no_grad():
        frames = [FrameSpec(mode="squash", size=64).frame((64, 48)) for _ in images]
        pixels = torch.stack([f.pixels(Image.open(i)) for f, i in zip(frames, images, strict=True)])
        latents = backbone.encode_images(pixels).mean
    abar = float(backbone.pipeline.scheduler.alphas_cumprod[500])
    content = abar * latents.var(0).mean((1, 2))
    expected = ((1 - abar) / (1 - abar + content)).mean().item()
    assert found["conv_in.in"].measured.noise == pytest.approx(expected, abs=0.03)


def test_bad_pictures_are_told(backbone: Backbone, tmp_path: Path) -> None:
    images = noise_pictures(tmp_path, 2)
    with pytest.raises(InvalidValueError, match="one is not enough"):
        measure(backbone, images[:1], size=64)
    with pytest.raises(InvalidValueError, match="are the same"):
        measure(backbone, [images[0], images[0]], size=64)
    with pytest.raises(InvalidValueError, match="two at least"):
        measure(backbone, images, size=64, draws=1)


def test_selecting_without_labels_and_going_on(backbone: Backbone, tmp_path: Path) -> None:
    images = noise_pictures(tmp_path, 4)
    base = default_recipe(backbone).replace(frame={"mode": "squash", "size": 64})
    settings, folder = SelectionSettings(20, "paper", draws=2), tmp_path / "work"
    found = select(backbone, images, settings, folder, base=base)
    assert found.steps[-1].channels <= 20
    assert sum(v.kept for v in found.verdicts.values()) <= 33
    assert "pool" in {v.reasons[0][0] for v in found.verdicts.values() if not v.kept}
    assert found.recipe.fuse is not None
    again = select(backbone, images, settings, folder, base=base)
    assert again.recipe == found.recipe
    names = {alias for p in found.measurement.properties for alias in p.aliases if alias.startswith("gdf:")}
    candidates = sum(v.kept for v in paper_verdicts(names).values())
    assert observations(found.measurement)[-1].startswith(f"The paper's rules, by names, keep {candidates} activations")
    from diffeat.report.selection import write_selection
    from diffeat.report.selection_figures import PROPERTIES

    page = write_selection(found, tmp_path / "recipe.yaml", tmp_path / "work").read_text()
    assert page.count("class=marked") == len(found.recipe.activations)
    chosen, plots = list(found.recipe.activations), page.index("<h2>Properties")
    names = [
        re.sub("<wbr>", "", name) for name in re.findall(r"<tr(?: class=marked)?><td class=words>([^ ]+?)<br>", page)
    ]
    assert names[: len(chosen)] == chosen, "the set comes first"
    kept = [id for id, v in found.verdicts.items() if v.kept]
    assert set(names[: len(kept)]) == set(kept), "then the other candidates"
    assert sorted(names) == sorted(found.verdicts)
    headings = re.findall(r"<th[^>]*>([^<]+)", page[page.index('class="sortable"') :])
    assert headings[: 2 + len(found.tasks)] == ["activation", "picture", *found.tasks], "scores stand at the left"
    assert {name for _, name, _, _ in PROPERTIES} <= set(headings)
    assert all(f"<!-- {name} -->" in page[plots:] for _, name, _, _ in PROPERTIES), "every property has a plot"
    assert "data:image/png" in page
    with pytest.raises(InvalidValueError, match="budget of 1"):
        select(backbone, images, replace(settings, budget=1), folder, base=base)
    (tmp_path / "all.yaml").write_text('- {property: x, when: ["channels > 0"], reason: all}\n')
    with pytest.raises(InvalidValueError, match="reject all"):
        select(backbone, images, replace(settings, rules=tmp_path / "all.yaml"), folder, base=base)
