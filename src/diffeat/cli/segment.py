"""``diffeat segment``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from diffeat.cli.command import given, refuse
from diffeat.cli.options import Force, Paths, pictures_of
from diffeat.cli.recipe_options import load, reading_of, recipe_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from diffeat.features import Picture
    from diffeat.tasks.parts import PartOptions
    from diffeat.tasks.scored import ScoredMaps

_PARTS = ("method", "parts", "together", "alpha", "isolated", "memory")
_WORDS = ("layer", "refine", "normalise", "background", "apart", "concepts", "rest")


def segment(
    ctx: typer.Context,
    paths: Paths,
    out: Annotated[Path, Option("--out", "-o", help="Folder for label maps, overlays and a page.")],
    words: Annotated[
        list[str] | None, Option("--words", "-w", help="A word or phrase to find; repeatable. None: parts.")
    ] = None,
    method: Annotated[str, Option(help="Of parts: cuts, kmeans, or merging (of self-attention).")] = "cuts",
    parts: Annotated[
        int | None, Option(min=1, max=255, help="How many parts; found by the method if not given.")
    ] = None,
    threshold: Annotated[
        float | None,
        Option(help="Of parts, their granularity in place of a number: a cut's cost (0.5), maps' divergence (0.9)."),
    ] = None,
    together: Annotated[bool, Option("--together", help="One split, one set of colours for all pictures.")] = False,
    alpha: Annotated[float, Option(help="Exponent of the affinities that are cut.")] = 10.0,
    isolated: Annotated[str, Option(help="Nodes without affinity to some other: keep; drop is as published.")] = "keep",
    memory: Annotated[int, Option(min=1, help="MiB for the graph that is cut; approximated beyond.")] = 1024,
    concepts: Annotated[
        bool,
        Option("--concepts", help="Words as concepts beside the text (FLUX, SD3, Qwen-Image …), not by its attention."),
    ] = False,
    rest: Annotated[
        list[str] | None, Option(help="With --concepts: a word for all else, as ground; repeatable.")
    ] = None,
    layer: Annotated[
        list[str] | None, Option(help="Attention (or block) for words: id or glob, with [3] only head 3; repeatable.")
    ] = None,
    apart: Annotated[bool, Option("--apart", help="Each word in a text of its own.")] = False,
    refine: Annotated[int, Option(min=0, max=10, help="Products of word maps with the self-attention.")] = 0,
    normalise: Annotated[str, Option(help="Of word maps: range, words or none.")] = "range",
    background: Annotated[float, Option(help="Height of word maps below which a pixel is no word's.")] = 0.5,
    sharpen: Annotated[
        str, Option(help="To the pixels: bilinear, guided, bilateral or anyup (if fetched).")
    ] = "bilinear",
    limit: Annotated[int | None, Option(min=1, help="At most this many pictures.")] = None,
    force: Force = False,
) -> None:
    """Split pictures into masks: of words, or of parts that the model tells apart.

    With --words the model's attention to its text says where each word is. Without, features are split: by normalised
    cuts, k-means, or self-attention maps that look alike.

    Example:
        diffeat samples photos
        diffeat segment photos/chelsea.png --out parts
        diffeat segment photos/chelsea.png --words cat --out words
    """
    from diffeat.errors import UnknownNameError, did_you_mean
    from diffeat.files import new_folder
    from diffeat.progress import bar
    from diffeat.refinement.upsampling import upsampler
    from diffeat.report.segments import files_of, names_of, write_segments

    upsampler(sharpen)
    if isolated not in ("keep", "drop"):
        raise UnknownNameError(
            f"--isolated is keep or drop, not {isolated!r}. {did_you_mean(isolated, ['keep', 'drop'])}"
        )
    images = pictures_of(paths, ctx)[:limit]
    names = names_of([Path(image.name) for image in images])
    new_folder(out, files_of(names), force=force)
    refuse(ctx, _PARTS if words else _WORDS, "it belongs to parts" if words else "it belongs to --words")
    shown: list[str] = []
    if words:
        refuse(ctx, ["threshold"], "it belongs to parts; --background is that of words")
        refuse(ctx, ["activation", "batch_size"], "words are read from attentions, one picture at a time; see --layer")
        if concepts:
            others = ["refine", "normalise", "background", "apart"]
            refuse(ctx, others, "--concepts gives shares; --rest is their background")
            found = _concepts(ctx, images, words, layer, rest)
        else:
            refuse(ctx, ["rest"], "it belongs to --concepts")
            found, shown = _words(ctx, images, words, layer, apart, refine, normalise, background)
    else:
        from diffeat.tasks.parts import PartOptions

        for name, user in (("alpha", "cuts"), ("isolated", "cuts"), ("memory", "cuts")):
            if method != user:
                refuse(ctx, [name], f"it belongs to --method {user}")
        options = PartOptions(method, parts, threshold, alpha, "drop" if isolated == "drop" else "keep", memory * 2**20)
        if method == "merging":
            unused = ["together", "activation", "batch_size"]
            refuse(ctx, unused, "merging reads self-attention, one picture at a time, no features")
        found = _parts(ctx, images, options, together)

    def results() -> Iterator[tuple[Image.Image, ScoredMaps, Tensor, Tensor]]:
        for name, image, maps in bar(zip(names, images, found, strict=True), total=len(images), desc="segment"):
            picture, heights = image.image, maps.at_pixels(image.image, sharpen)
            labels = maps.labels_of(heights)
            shares = [f"{n} {(labels == k).float().mean() * 100:.0f} %" for k, n in enumerate(maps.names, start=1)]
            typer.echo(f"{name}: {', '.join(shares)}")
            for note in maps.notes:
                typer.secho(f"  {note}", dim=True, err=True)
            yield picture, maps, labels, heights

    title = f"{', '.join(words) if words else 'parts'} · {sharpen}"
    page = write_segments(out, names, results(), title, words=words or (), layers=shown, level=background, force=force)
    typer.echo(f"Page: {page}", err=True)


def _words(
    ctx: typer.Context,
    images: list[Picture],
    words: list[str],
    layers: list[str] | None,
    apart: bool,
    refine: int,
    normalise: str,
    background: float,
) -> tuple[Iterator[ScoredMaps], list[str]]:
    """The maps, with those of every layer beside the chosen ones, and the layers' names."""
    from diffeat.tasks.words import text_attentions
    from diffeat.tasks.words.maps import WordOptions, checked_words, words_by_layer

    wanted, asked = checked_words(words), given(ctx)
    reading = reading_of(ctx)
    text = reading.prompt if "prompt" in asked else None
    options = WordOptions(text, tuple(layers or ()), refine, normalise, background, apart=apart)  # pyright: ignore[reportArgumentType]
    source = load(ctx, reading)
    every = {name.removesuffix(".map"): [name] for name in text_attentions(source.backbone)}

    def find(image: Picture) -> ScoredMaps:
        found = words_by_layer(image, wanted, source, {"": options.layers, **every}, options)
        return replace(found.pop(""), layers={name: maps.maps for name, maps in found.items()})

    return (find(image) for image in images), list(every)


def _concepts(
    ctx: typer.Context, images: list[Picture], words: list[str], layers: list[str] | None, rest: list[str] | None
) -> Iterator[ScoredMaps]:
    from diffeat.activations.concepts import concept_rule
    from diffeat.tasks.words import ConceptOptions, concept_maps
    from diffeat.tasks.words.maps import checked_words

    wanted = checked_words(words)
    reading = reading_of(ctx)
    options = ConceptOptions(
        reading.prompt if "prompt" in given(ctx) else None, tuple(layers or ()), background=tuple(rest or ())
    )
    source = load(ctx, reading)
    concept_rule(source.backbone)
    return (concept_maps(image, wanted, source, options) for image in images)


def _parts(ctx: typer.Context, images: list[Picture], options: PartOptions, together: bool) -> Iterator[ScoredMaps]:
    from diffeat.features import check_one_map
    from diffeat.tasks.parts import attention_parts, parts_of
    from diffeat.tasks.scored import of_one_colour

    prompt = given(ctx).get("prompt")
    if options.method == "merging":
        extractor = load(ctx, reading_of(ctx))
        return (attention_parts(extractor, image, options) for image in images)
    recipe = recipe_of(ctx)
    check_one_map(recipe.name, recipe.map_names)
    source = load(ctx, recipe)
    check_one_map(recipe.name, source.map_names)
    features = source.stream(images, prompt)
    if together:
        found: Iterable[ScoredMaps] = parts_of(list(features), options, together=True)
    else:
        found = (parts_of([feature], options)[0] for feature in features)
    return (
        replace(maps, notes=maps.notes + of_one_colour(image.image)) for maps, image in zip(found, images, strict=True)
    )
