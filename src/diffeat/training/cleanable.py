"""What clean features can be trained of: the recipe, what is matched, and weights that can be trained."""

from __future__ import annotations

import torch

from diffeat.backbones import Backbone
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor, Reading

_DTYPES = (torch.float32, torch.bfloat16)


def clean_recipe(recipe: Reading) -> Reading:
    """The recipe that reads the clean latent, in one call, what another reads of noisy ones.

    Raises:
        InvalidValueError: It walks, reads at several timesteps, has views or techniques, or joins by a trained network.

    Example:
        >>> recipe = clean_recipe(Reading.load("tiny-unet"))
        >>> recipe.trajectory.kind, recipe.trajectory.timesteps, recipe.trajectory.draws
        ('clean', (20.0,), 1)
    """
    name, path = f"Recipe {recipe.name!r}", recipe.trajectory
    for field in ("views", "techniques"):
        if getattr(recipe, field) is not None:
            raise InvalidValueError(f"{name} has {field}; clean features are one plain call: --set {field}=null.")
    if path.stepped:
        raise InvalidValueError(
            f"{name} walks ({path.kind}); clean features are read in one call: choose a recipe of kind 'noise'."
        )
    if len(path.timesteps) > 1:
        raise InvalidValueError(
            f"{name} reads at {len(path.timesteps)} timesteps; clean features are told one: give --timestep "
            f"{path.timesteps[0]:g}, or the one that matches best."
        )
    if recipe.fuse is not None and recipe.fuse.weights is not None:
        raise InvalidValueError(
            f"{name} joins by a network that was trained on noisy features: --set fuse=null, and train it on the clean "
            "ones afterwards."
        )
    return recipe.replace(
        name=f"{recipe.name}-clean",
        trajectory={"kind": "clean", "timesteps": path.timesteps, "latent": path.latent},
    )


def matched_names(extractor: Extractor) -> list[str]:
    """Ids of what is matched: the maps, or the raw streams of those that are refined.

    Raises:
        InvalidValueError: Attention, or a decoded picture.
    """
    names: dict[str, None] = {}
    for reducer in extractor.plan.readers[0].reducers:
        wants = reducer.core.wants
        if reducer.predicts or not all(isinstance(want, str) for want in wants):
            raise InvalidValueError(
                f"{reducer.name} has no channels that could be matched; clean features are those of blocks and layers: "
                "name them (-a)."
            )
        names[str(wants[0])] = None  # of a refined map the raw stream, without its scale and shift
    return list(names)


def check_trainable(backbone: Backbone) -> None:
    """
    Raises:
        InvalidValueError: The denoiser's weights are quantised, offloaded or in half precision.
    """
    if backbone.dtype not in _DTYPES:
        kind = str(backbone.dtype).removeprefix("torch.")
        raise InvalidValueError(f"Clean features are trained in float32 or bfloat16, not in {kind}: --dtype bfloat16.")
    network = unwrapped(backbone.denoiser)
    if any(
        hasattr(m, "_hf_hook") or getattr(getattr(m, "_diffusers_hook", None), "hooks", ()) for m in network.modules()
    ):
        raise InvalidValueError(f"The weights of {backbone.name} are offloaded; load it without, to train it.")
    for weight in network.parameters():
        if weight.element_size() < 2 or not weight.is_floating_point() or hasattr(weight, "__tensor_flatten__"):
            raise InvalidValueError(f"The weights of {backbone.name} are quantised, and such are not trained.")
