"""Whether every offline preset gives the features that an earlier release gave.

With the earlier release installed, then with this one, in any folder:

    python benchmarks/same_features.py write BEFORE
    python benchmarks/same_features.py check BEFORE [PRESET …]

``write`` extracts sample photographs with every preset of an embedded model, one at a time and all together, into
safetensors files; ``check`` extracts them again and prints the largest difference of each, relative to the largest
value. A preset that reads a ControlNet and a LoRA gets random ones of a fixed seed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import diffeat
from diffeat.datasets.samples import write_samples

PRESETS = ("tiny-dift", "tiny-unet", "ditf-tiny", "hyperfeatures-tiny", "gate-tiny")
LIMIT = 1e-6


def random_adapters(folder: Path) -> None:
    """A ControlNet and a LoRA of the embedded model where ``gate-tiny`` looks for them."""
    from diffusers import ControlNetModel, DiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from diffeat import zoo

    pipeline: Any = DiffusionPipeline.from_pretrained(zoo.path("tiny-unet"))
    torch.manual_seed(3)
    controlnet = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(16, 32, 96))
    unet = pipeline.unet
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    with torch.no_grad():
        for module in (controlnet, unet):
            for name, weight in module.named_parameters():
                if "controlnet" in name or "lora_" in name:
                    weight.copy_(torch.randn(weight.shape) * 0.05)
    controlnet.save_pretrained(folder / "train-control" / "controlnet")
    pipeline.save_lora_weights(
        folder / "train-lora",
        unet_lora_layers=get_peft_model_state_dict(unet),
        weight_name="lora-000400.safetensors",
    )


def features(preset: str, photos: list[Path]) -> dict[str, torch.Tensor]:
    """Every map of every photograph, extracted one by one and in one call."""
    extractor = diffeat.Extractor.from_recipe(preset, device="cpu")
    maps = {}
    for way, groups in (("one", [[p] for p in photos]), ("all", [photos])):
        for group in groups:
            for feature in extractor.extract(group):
                for tensor in feature.activations.values():
                    count = sum(k.startswith(f"{way}/{Path(feature.image).name}/") for k in maps)
                    maps[f"{way}/{Path(feature.image).name}/{count}"] = tensor.contiguous().clone()
    return maps


def main() -> int:
    """Exit code 1 where a preset differs."""
    mode, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    again = {"force": True} if (folder / "photos").is_dir() else {}  # an older release has no such argument
    photos = [p.relative_to(folder) for p in map(Path, write_samples(folder / "photos", **again))]
    if not (folder / "gate-toyworld").exists():
        random_adapters(folder / "gate-toyworld")
    os.chdir(folder)
    worst = 0.0
    for preset in sys.argv[3:] or PRESETS:
        maps, file = features(preset, photos), Path(f"{preset}.safetensors")
        if mode == "write":
            save_file(maps, file)
            continue
        before = load_file(file)
        assert sorted(before) == sorted(maps), f"{preset}: other maps than before"
        differences = [float((maps[k] - before[k]).abs().max() / before[k].abs().max()) for k in before]
        equal = sum(d == 0 for d in differences)
        print(f"{preset:20} {len(before)} maps, {equal} bit for bit, largest difference {max(differences):.1e}")
        worst = max(worst, *differences)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
