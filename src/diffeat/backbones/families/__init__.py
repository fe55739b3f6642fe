"""The families, found by their modules, and what they know of a denoiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from torch import nn

from diffeat.backbones.blocks import BlockRule
from diffeat.backbones.families.generic import Generic
from diffeat.backbones.family import Family, Size
from diffeat.backbones.layout import Call, Config, TokenLayout
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import UnknownNameError, did_you_mean


def _families() -> Iterator[type[Family]]:
    """The families of the modules beside this one, by module; the generic one last."""
    for module in sorted(module.name for module in iter_modules(__path__)):
        members = vars(import_module(f"{__name__}.{module}")).values()
        yield from (
            m for m in members if isinstance(m, type) and issubclass(m, Family) and m.__module__.endswith(f".{module}")
        )


#: Every family by its name: a module of this package is all it takes.
FAMILIES: dict[str, type[Family]] = {
    family.name: family for family in sorted(_families(), key=lambda family: family is Generic)
}

#: Children of denoisers and blocks that carry text, and stacks that see the image alone, in any family.
TEXT_MODULES = frozenset().union(*(family.text_modules for family in FAMILIES.values()))
IMAGE_STACKS = frozenset().union(*(family.image_stacks for family in FAMILIES.values()))


def family_of(denoiser: nn.Module) -> Family:
    """The family that a denoiser belongs to, by its class and its configuration; else the generic one."""
    family = structure_of(denoiser)
    return family if family.accepts(config_of(denoiser)) else Generic()


def structure_of(denoiser: nn.Module) -> Family:
    """The family whose denoiser is built alike: that of the class, though the configuration may ask for other calls."""
    inner = unwrapped(denoiser)
    for cls in type(inner).__mro__:
        families = [family() for family in FAMILIES.values() if family.denoiser_class == cls.__name__]
        if families:
            return next((family for family in families if family.accepts(config_of(denoiser))), families[0])
    return Generic()


def config_of(denoiser: nn.Module) -> Config:
    """The configuration of a denoiser; empty where it has none."""
    config = getattr(unwrapped(denoiser), "config", None)
    return config if isinstance(config, Mapping) else {}


def layout_of(denoiser: nn.Module, call: Call) -> TokenLayout:
    """Layout of the token sequences of ``denoiser.forward(**call)``.

    Known by the class of the denoiser for the families of diffeat; others are read off their arguments (``img_ids``,
    ``img_shapes``, or a latent map and the configured patch size).

    Args:
        denoiser: A diffusers denoiser, possibly on the meta device.
        call: The arguments of the call, bound to their names.

    Raises:
        ModelError: If nothing in the arguments tells the grid.
    """
    return structure_of(denoiser).layout(config_of(denoiser), call)


def dummy_inputs(denoiser: nn.Module, latent: Size | None = None) -> Call:
    """Arguments of ``denoiser.forward`` for one image, of the right shapes and without content, on the meta device.

    Good for measuring a network without weights: shapes, execution order, operations.

    Args:
        denoiser: On any device; only its class and config are read.
        latent: ``(h, w)`` of the latent before any packing; by default what the config is made for.

    Raises:
        ModelError: A class whose arguments are not known.
    """
    family, config = structure_of(denoiser), config_of(denoiser)
    return family.dummy(config, latent or family.default_latent(config))


def block_rule(block: nn.Module) -> BlockRule | None:
    """What is known of a transformer block, by its class; ``None`` if nothing is."""
    rules = _block_rules().get(type(block).__name__)
    if rules is None:
        return None
    norm_type = getattr(block, "norm_type", None)
    return next((r for r in rules if r.norm_type == norm_type), next((r for r in rules if r.norm_type is None), None))


@cache
def _block_rules() -> dict[str, tuple[BlockRule, ...]]:
    rules: dict[str, tuple[BlockRule, ...]] = {}
    for family in FAMILIES.values():
        for rule in family.blocks:
            rules[rule.name] = (*rules.get(rule.name, ()), rule)
    return rules


def family_named(name: str) -> Family:
    """The family of this name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in FAMILIES:
        raise UnknownNameError(f"There is no family {name!r}. {did_you_mean(name, FAMILIES)}".strip())
    return FAMILIES[name]()
