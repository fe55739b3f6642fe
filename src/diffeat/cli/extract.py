"""``diffeat extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.options import (
    Activations,
    BatchSize,
    Device,
    Draws,
    Dtype,
    ModelName,
    Paths,
    Prompt,
    RecipeName,
    Seed,
    Size,
    Timestep,
    any_recipe,
    make_extractor,
)


def extract(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the feature store; made or continued.")],
    recipe: RecipeName = "tiny-unet",
    model: ModelName = None,
    prompt: Prompt = None,
    prompts: Annotated[
        Path | None, typer.Option(help="CSV file with columns image,prompt: a text per picture (by file name).")
    ] = None,
    activation: Activations = None,
    timestep: Timestep = None,
    draws: Draws = None,
    size: Size = None,
    seed: Seed = None,
    store_dtype: Annotated[
        str, typer.Option(help="How features rest on disk: float32, float16, bfloat16 or int8 (per channel).")
    ] = "float16",
    shard_size: Annotated[int, typer.Option(min=1, help="Pictures per file of the store.")] = 16,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
) -> None:
    """Extract dense features of pictures into a store on disk.

    Stop it at any time: the same command goes on where it stopped. Pictures that cannot be read are listed at the end
    with the reason, and make the exit code 1.
    """
    from diffeat.extraction import extract_to_store
    from diffeat.extraction.prompts import read_prompts
    from diffeat.geometry import find_images
    from diffeat.progress import bar
    from diffeat.storage import FeatureStore

    chosen = any_recipe(
        recipe, model=model, activations=activation, timesteps=timestep, draws=draws, size=size, seed=seed
    )
    found = find_images(paths)
    texts = read_prompts(prompts, found.images) if prompts else prompt
    if FeatureStore.is_store(out):  # before the model is loaded: another recipe's store is refused at once
        FeatureStore.open_or_create(out, chosen.content(), chosen.hash, dtype=store_dtype).close()
    extractor = make_extractor(chosen, device, dtype, batch_size)
    with FeatureStore.open_or_create(
        out, chosen.content(), chosen.hash, dtype=store_dtype, weights=extractor.fingerprint
    ) as store:
        summary = extract_to_store(extractor, found.images, store, texts, shard_size=shard_size, progress=bar)
    _report(summary, found.skipped, out)
    if summary.failed:
        raise typer.Exit(1)


def _report(summary, skipped, out: Path) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    console.print(
        f"[bold]{len(summary.extracted)}[/] extracted, {len(summary.present)} already there, "
        f"{len(summary.failed)} failed, {len(skipped)} files that are no pictures → [cyan]{out}[/]"
    )
    for path, reason in skipped[:10]:
        console.print(f"  passed over  {path}: {reason}", style="dim", highlight=False)
    if len(skipped) > 10:
        console.print(f"  … and {len(skipped) - 10} more files", style="dim")
    for reason in summary.failed.values():
        console.print(f"  failed  {reason}", style="red", highlight=False)
