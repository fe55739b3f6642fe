"""Concepts beside the text against numbers of the published code; the picture is that of a run without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.activations.concepts import ConceptRows, read_concepts
from diffeat.tasks.words.concepts import saliency
from test_golden_gdf import error

ROOTS = [root / "concept_attention" for root in golden_roots() if (root / "concept_attention").is_dir()]
FLUX = [p for r in ROOTS for p in sorted(r.glob("flux_*/case*"))]


@pytest.mark.parametrize("folder", [pytest.param(p, id=f"{p.parent.name}-{p.name}") for p in FLUX])
def test_flux(folder: Path) -> None:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel.from_pretrained(folder.parent / "transformer").eval()
    stored, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    times = len(stored["timestep"])
    rows: list[dict[str, ConceptRows]] = []
    for i in range(times):
        batch = stored["hidden_states"].shape[1]
        inputs = {
            "hidden_states": stored["hidden_states"][i],
            "encoder_hidden_states": stored["encoder_hidden_states"],
            "pooled_projections": stored["pooled_projections"],
            "timestep": stored["timestep"][i].expand(batch),
            "img_ids": stored["img_ids"],
            "txt_ids": stored["txt_ids"],
            "guidance": stored["guidance"].expand(batch) if model.config["guidance_embeds"] else None,
            "return_dict": False,
        }
        seen: dict[str, ConceptRows] = {}
        with torch.no_grad():
            plain = model(**inputs)[0]
            output = read_concepts(
                model, stored["concept_hidden_states"], lambda r, seen=seen: seen.update({r.name: r}),
                pooled=stored["pooled_concept"], stop=False, **inputs,
            )[0]  # fmt: skip
        assert torch.equal(output, plain)
        assert error(output, expected["output"][i]) < 1e-5
        rows.append(seen)
        for name, row in seen.items():
            key = name.replace("transformer_blocks.", "double")
            assert error(row.image, expected[f"{key}.image_attention"][i]) < 1e-5
            assert error(row.concepts, expected[f"{key}.concept_attention"][i]) < 1e-5
            assert row.stream is not None
            assert error(row.stream, expected[f"{key}.concept_stream"][i]) < 1e-5
            assert error(row.scores().flatten(2), expected[f"{key}.concept_scores"][i]) < 1e-5
    for name, chosen in meta["heatmaps"].items():
        layers = [rows[i][f"transformer_blocks.{k}"].scores() for i in chosen["time_indices"] for k in chosen["layers"]]
        for key, made in (
            ("softmax_then_mean", saliency(layers)),
            ("mean", saliency(layers, "none")),
        ):
            assert error(made, expected[f"heatmap.{name}.output.{key}"]) < 1e-5
        for key, temperature in (("mean_then_softmax", 1.0), ("mean_then_softmax_temperature4", 4.0)):
            made = saliency(layers, "mean_then_softmax", temperature)[0]
            assert error(made, expected[f"heatmap.{name}.output.{key}"]) < 1e-5


@pytest.mark.parametrize("folder", [p for r in ROOTS for p in sorted(r.glob("sd3/case*"))])
def test_sd3(folder: Path) -> None:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel.from_pretrained(folder.parent / "transformer").eval()
    inputs, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    concepts = inputs.pop("concept_hidden_states")
    layers: list[ConceptRows] = []
    with torch.no_grad():
        plain = model(**inputs, return_dict=False)[0]
        output = read_concepts(model, concepts, layers.append, beside="concepts", stop=False, **inputs)[0]
    assert torch.equal(output, plain)
    for k in range(3):
        assert error(layers[k].concepts, expected[f"block{k}.concept_attention"]) < 1e-5
        assert error(layers[k].image, expected[f"block{k}.image_attention_beside_concepts"]) < 1e-5
        if k < 2:
            assert error(layers[k].stream, expected[f"block{k}.concept_stream"]) < 1e-5
    made = saliency([row.scores(unit=True)[:, 1:] for row in layers])[0]
    assert error(made, expected["heatmap.all.softmax_then_mean"]) < 1e-5
