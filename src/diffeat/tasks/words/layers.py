"""Which attentions of a denoiser read text, and which of them locate words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diffeat.activations import Catalogue
from diffeat.activations.names import compile_pattern, is_pattern
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean

_HEAD = re.compile(r"(.+)\[(\d{1,4})\]")


@dataclass(frozen=True)
class Preset:
    """Where words are looked for if nobody says where.

    Attributes:
        maps: Globs of the maps from image to text, or of heads; all of the model's if none is given.
        blocks: That concepts are read from; all if none is given.
        source: Who chose this, and by what.
    """

    maps: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    source: str = "every layer: none are published for this model or were measured"


_DAAM = Preset(("down_blocks.**.attn2.map", "up_blocks.**.attn2.map"), (), "the layers of DAAM, there of generation")
_CONCEPTS = "blocks of ConceptAttention for concepts; for attention every layer, not measured"
#: By model (ours, measured), then by family; others have none.
PRESETS: dict[str, Preset] = {
    "tiny-unet": Preset(
        ("up_blocks.2.attentions.*.transformer_blocks.0.attn2.map",), (), "ours, chosen on the toy world"
    ),
    "tiny-dit": Preset(("transformer_blocks.7.attn2.map[0]",), (), "ours, chosen on the toy world"),
    "sd": _DAAM,
    "sdxl": _DAAM,
    "sd3": Preset(
        ("transformer_blocks.9.attn.cross_map",), (), "the layer of Seg4Diff on SD3; for concepts every block"
    ),
    "flux": Preset((), tuple(f"transformer_blocks.{k}" for k in range(15, 19)), _CONCEPTS),
    "flux2": Preset((), tuple(f"transformer_blocks.{k}" for k in range(5, 8)), _CONCEPTS),
}


def preset_of(backbone: Backbone) -> Preset:
    """Of the model, else of its family, unless this model lacks what it names, as small ones do."""
    preset = PRESETS.get(backbone.name) or PRESETS.get(backbone.family.name, Preset())
    there, blocks = text_attentions(backbone), {name for name, _ in backbone.denoiser.named_modules()}
    maps = [compile_pattern(_HEAD.sub(r"\1", glob)) for glob in preset.maps]
    fits = all(any(form.fullmatch(id) for id in there) for form in maps)
    return preset if fits and blocks.issuperset(preset.blocks) else Preset()


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
    all). Without any, those of the model's or its family's :class:`Preset`.

    Raises:
        UnknownNameError: One that is no text attention of this model.
        InvalidValueError: A head that it does not have.
    """
    there = text_attentions(backbone)
    layers = layers or preset_of(backbone).maps or list(there)
    chosen: dict[str, list[int] | None] = {}
    for name in layers:
        match = _HEAD.fullmatch(name)
        bare = match[1] if match else name
        form = compile_pattern(bare) if is_pattern(bare) else None
        hits = [id for id in there if id == bare or (form is not None and form.fullmatch(id))]
        if not hits:
            raise UnknownNameError(f"No text attention {name!r} in this model. {did_you_mean(bare, there)}".rstrip())
        for id in hits:
            count = getattr(backbone.denoiser.get_submodule(id.rpartition(".")[0]), "heads", None)
            if match and count is not None and int(match[2]) >= count:
                raise InvalidValueError(f"{id} has heads 0 to {count - 1}, not {match[2]}.")
            heads = chosen.get(id, [])
            chosen[id] = None if match is None or heads is None else [*heads, int(match[2])]
    return chosen
