"""Which attentions of a denoiser read text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diffeat.activations import Catalogue
from diffeat.activations.names import compile_pattern, is_pattern
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean

_HEAD = re.compile(r"(.+)\[(\d{1,4})\]")
#: Layers by model, ours: chosen on the toy world (benchmarks/words_toyworld.py, docs/words.md).
MEASURED = {"tiny-unet": ("up_blocks.2.attentions.*.transformer_blocks.0.attn2.map",)}


def text_attentions(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Ids of the maps from image to text, and their grids, in order of execution.

    Raises:
        InvalidValueError: The model has none, or takes no text.
    """
    catalogue = Catalogue.of(backbone)
    grids = {a.id.removesuffix(".q"): a.grid for a in catalogue if a.kind == "attention-q" and a.grid}
    found = {}
    for activation in catalogue:
        module, _, site = activation.id.rpartition(".")
        reads_text = site == "cross_map" or (site == "map" and module.endswith("attn2"))
        if reads_text and (grid := grids.get(module)) is not None:
            found[activation.id] = grid
    if not found:
        raise InvalidValueError(f"{backbone.family.name} has no text attention whose maps can be read.")
    return found


def choose_layers(backbone: Backbone, layers: Sequence[str] | None) -> dict[str, list[int] | None]:
    """Ids or globs of maps from image to text, ``….attn2.map[3]`` for head 3 alone, as ids with their heads (``None``:
    all). Without any, those measured to locate best (:data:`MEASURED`), or, of a model that was not measured, those of
    the middle grids.

    Raises:
        UnknownNameError: One that is no text attention of this model.
    """
    there, layers = text_attentions(backbone), layers or MEASURED.get(backbone.name)
    if not layers:
        sizes = sorted({h * w for h, w in there.values()})
        middle = sizes[len(sizes) // 3 :][:2]
        return {id: None for id, (h, w) in there.items() if h * w in middle}
    chosen: dict[str, list[int] | None] = {}
    for name in layers:
        match = _HEAD.fullmatch(name)
        bare = match[1] if match else name
        form = compile_pattern(bare) if is_pattern(bare) else None
        hits = [id for id in there if id == bare or (form is not None and form.fullmatch(id))]
        if not hits:
            raise UnknownNameError(f"No text attention {name!r} in this model. {did_you_mean(bare, there)}".rstrip())
        for id in hits:
            heads = chosen.get(id, [])
            chosen[id] = None if match is None or heads is None else [*heads, int(match[2])]
    return chosen
