"""Pictures that a model generates, with a note of how, so that their features can be read while they arise again.

A recipe with trajectory ``generation`` reads features from the very denoiser calls that make a picture. The picture is
a pure function of the recipe, its text and a number; :func:`generate` writes it as a PNG that carries the text, the
number and the settings. Given that PNG, an extractor walks the same way again and reads on the way, so that generated
pictures go through every command as photos do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffeat.backbones import Backbone, Conditioning
from diffeat.errors import InvalidValueError
from diffeat.extraction.reading import Reading
from diffeat.features import Picture
from diffeat.files import write_picture
from diffeat.geometry import to_image
from diffeat.trajectories import Guidance, NoiseSource, keyed_normal, ode_steps, unconditional_rows, walk

NOTE = "diffeat"


@dataclass(frozen=True)
class Origin:
    """How a picture was made: the text as the model read it, which of its pictures, and what else it depends on."""

    prompt: str
    number: int
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """Keys the picture's noise."""
        return hashlib.sha256(f"{self.number}|{self.prompt}".encode()).hexdigest()

    @classmethod
    def of(cls, picture: Picture, recipe: Reading) -> Origin:
        """The note that a picture carries; refused if there is none, or it tells other settings than the recipe."""
        note = picture.image.info.get(NOTE)
        if not isinstance(note, str):
            raise InvalidValueError(
                f"{picture.name} does not say how it was generated, so its generation cannot be walked again. Make "
                "pictures with diffeat generate and keep them as PNG; photos need trajectory kind 'inversion'."
            )
        try:
            origin = cls(**json.loads(note))
            size = origin.settings["size"]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidValueError(f"The note in {picture.name} cannot be read: {error}") from None
        wanted = settings_of(recipe, (size[0], size[1]))
        wrong = [k for k, v in wanted.items() if origin.settings.get(k) != v]
        if wrong:
            raise InvalidValueError(
                f"{picture.name} was generated with "
                + ", ".join(f"{k} {origin.settings.get(k)!r}" for k in wrong)
                + f", but recipe {recipe.name!r} has "
                + ", ".join(repr(wanted[k]) for k in wrong)
                + ". Use the recipe that diffeat generate wrote beside the picture."
            )
        return origin


def settings_of(recipe: Reading, size: tuple[int, int]) -> dict[str, Any]:
    """What a generated picture depends on besides text and number, as plain JSON data."""
    path = recipe.trajectory
    return {
        "model": recipe.model,
        "denoiser": None if recipe.denoiser is None else recipe.denoiser.model_dump(mode="json"),
        "seed": recipe.seed,
        "steps": path.steps,
        "guidance": path.guidance,
        "negative_prompt": path.negative_prompt,
        "conditioning": dict(recipe.conditioning),
        "size": list(size),
    }


def start_noise(
    backbone: Backbone, origin: Origin, seed: int, size: tuple[int, int], noise: NoiseSource | None = None
) -> Tensor:
    """The noise (1, c, h, w) that a picture arises from."""
    side = 4 * backbone.multiple  # any picture tells the channels, a small one soonest
    channels = int(backbone.encode_images(torch.zeros(1, 3, side, side)).mean.shape[1])
    shape = (channels, *backbone.latent_size(size))
    return (noise or keyed_normal)(shape, seed=seed, image=origin.key, stream="diffusion", timestep=1000)[None]


def generation_twin(recipe: Reading) -> Reading:
    """A recipe that reads at the same steps of generating a picture, its trained weights included.

    Raises:
        InvalidValueError: If the recipe does not walk a trajectory.
    """
    if not recipe.trajectory.stepped:
        raise InvalidValueError(
            f"Recipe {recipe.name!r} reads at single noise levels. Generation needs a recipe of kind 'inversion' or "
            "'generation', such as hyperfeatures-tiny."
        )
    return recipe.replace(**{"trajectory.kind": "generation", "trajectory.latent": "sample"})


def generate(
    recipe: Reading, backbone: Backbone, prompts: Sequence[str | None], count: int = 1
) -> Iterator[tuple[Image.Image, Origin]]:
    """Generate pictures along the recipe's trajectory.

    Args:
        recipe: Of kind ``generation``.
        prompts: Texts, each through the recipe's template.
        count: Pictures of each text.

    Yields:
        The picture, with its note, and the note; texts outermost.
    """
    recipe = generation_twin(recipe)
    path = recipe.trajectory
    frame = backbone.frame(recipe.frame, backbone.default_size)
    size = frame.model
    for prompt in prompts:
        text = recipe.text_for(prompt)
        conditioning = backbone.condition([text], size=size, **recipe.conditioning)
        guidance = guidance_of(recipe, backbone, conditioning)
        for number in range(count):
            origin = Origin(text, number, settings_of(recipe, size))
            steps = ode_steps("generation", path.steps or 1, backbone)
            with backbone.ready(), torch.no_grad():
                start = start_noise(backbone, origin, recipe.seed, size).to(backbone.device)
                end = walk(backbone, start, steps, conditioning, guidance=guidance).end
                image = to_image(backbone.decode(end)[0])
            image.info[NOTE] = json.dumps(asdict(origin))
            yield image, origin


def guidance_of(recipe: Reading, backbone: Backbone, conditioning: Conditioning) -> Guidance | None:
    """Of the recipe's trajectory, if it has any."""
    path = recipe.trajectory
    if path.guidance is None:
        return None
    other = unconditional_rows(backbone, path.negative_prompt or "", conditioning, **recipe.conditioning)
    return Guidance(path.guidance, other)


def save_generated(image: Image.Image, path: Path, *, force: bool = False) -> None:
    """Write a generated picture as a PNG that keeps its note.

    Raises:
        InvalidValueError: The file is there already, and may not be replaced (``force``).
    """
    note = PngInfo()
    note.add_text(NOTE, image.info[NOTE])
    write_picture(image, path, force=force, pnginfo=note)
