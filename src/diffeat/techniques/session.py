"""Techniques applied to a backbone, one combination after the other, and all taken off at the end.

What a technique does to layers (adapters, attention processors) is done once; its outcome is kept as a snapshot of the
pipeline's structure, so that going from one combination to another is putting back a snapshot: no file is read again,
no weight is copied, and the base is the untouched model rather than one with switched-off adapters. Conditions of
pictures are computed once for all combinations.

>>> with Session(backbone) as session, session.use([ControlNet(model="…"), LoRA(path="…")]) as steered:
...     rows = steered.prepare(scenes)
...     prediction = steered.predict(noisy, 200, rows)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffeat.backbones import Backbone, Conditioning
from diffeat.errors import InvalidValueError, ModelError
from diffeat.techniques.base import Technique
from diffeat.techniques.combination import Combination, technique_key
from diffeat.techniques.conditions import condition_image, find_condition
from diffeat.techniques.controlnet import ControlNet
from diffeat.techniques.controls import Control, add_residuals
from diffeat.techniques.guidance import Guidance
from diffeat.techniques.ip_adapter import IPAdapter, apply_ip_adapter, image_prompt
from diffeat.techniques.load_controlnet import load_controlnet
from diffeat.techniques.lora import LoRA, apply_loras
from diffeat.techniques.named import function_name
from diffeat.techniques.prompt import Prompt
from diffeat.techniques.snapshot import Snapshot
from diffeat.trajectories import unconditional_rows


@dataclass(frozen=True)
class Scene:
    """A picture as techniques see it.

    Attributes:
        key: Identifies its pixels.
        pixels: ``(3, h, w)`` in [-1, 1], at the model's size.
        text: The text it has without a prompt technique.
        name: File name, to look up captions.
        shown: What conditions are computed from, where that is not the picture itself (the shuffled control).
    """

    key: str
    pixels: Tensor
    text: str = ""
    name: str = ""
    shown: Scene | None = None


@dataclass(frozen=True)
class Rows:
    """What a combination tells the denoiser about each of several pictures."""

    conditioning: Conditioning
    negative: Conditioning | None
    controls: tuple[Tensor, ...]
    images: Tensor | None

    def __len__(self) -> int:
        return len(self.conditioning)

    def take(self, index: Sequence[int]) -> Rows:
        """The rows at ``index``, in that order; an index may come several times."""
        at = list(index)
        return Rows(
            self.conditioning.take(at),
            None if self.negative is None else self.negative.take(at),
            tuple(c[at] for c in self.controls),
            None if self.images is None else self.images[at],
        )

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several combinations that differ in their texts alone."""
        one = parts[0]
        if len(parts) == 1:
            return one
        return cls(
            joined([p.conditioning for p in parts]),
            None if one.negative is None else joined([p.negative for p in parts if p.negative is not None]),
            tuple(torch.cat(same) for same in zip(*(p.controls for p in parts), strict=True)),
            None if one.images is None else torch.cat([p.images for p in parts if p.images is not None]),
        )


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """Conditions of one size, one behind the other."""
    rows = tuple(row for p in parts for row in p.rows)
    return Conditioning(rows, tuple(t for p in parts for t in p.prompts), parts[0].size, parts[0].shared)


class Session:
    """A backbone on loan to techniques. Use it in a ``with`` block.

    Raises:
        ModelError: On leaving, if a technique wrote into weights (they are put back).
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._base: Snapshot | None = None
        self._users = 0
        self._states: dict[str, tuple[Snapshot, str]] = {}
        self._conditions: dict[tuple[str, str, str], Tensor] = {}
        self._controls: dict[str, Control] = {}
        self._image_prompts: dict[tuple[str, str], Tensor] = {}
        self._writers: dict[str, Any] = {}
        self._current = ""
        self._careful = False

    def __enter__(self) -> Session:
        if self._base is None:
            self._base = Snapshot(self.backbone.pipeline)
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if self._users:  # streams that run side by side share their adapters; the last one takes them off
            return
        base, self._base = self._base, None
        self._states, self._current = {}, ""
        self.backbone.text_state = ""
        assert base is not None
        changed = base.restore()
        if changed:
            raise ModelError(_wrote(changed, self._careful))

    @contextmanager
    def use(self, techniques: Any = None) -> Iterator[Steered]:
        """The backbone with these techniques; afterwards it is the base again.

        Raises:
            ModelError: If a technique does not fit the model; the backbone is then what it was.
        """
        if self._base is None:
            raise ModelError("Use a session in a with block: with Session(backbone) as session: …")
        combination = Combination.of(techniques)
        try:
            self._switch(combination)
            yield Steered(self, combination)
        finally:
            if self._current:
                self._put(self._base, "", "")

    def _switch(self, combination: Combination) -> None:
        assert self._base is not None
        key = "\n".join(technique_key(t) for t in combination.layers)
        if key == self._current:
            return
        if self._current:
            self._put(self._base, "", "")
        if key not in self._states:
            try:
                self._apply(combination, key)
            except BaseException:
                self._base.restore()
                raise
        self._put(*self._states[key], key)

    def _apply(self, combination: Combination, key: str) -> None:
        pipeline = self.backbone.pipeline
        customs = [t for t in combination.layers if not isinstance(t, Technique)]
        if customs and not self._careful:
            self._base, self._careful = Snapshot(pipeline, copy_weights=True), True
        ip = combination.one(IPAdapter)
        if ip is not None:
            apply_ip_adapter(pipeline, ip)
        text = apply_loras(pipeline, combination.all(LoRA))
        for custom in customs:
            custom.apply(pipeline)
        assert self._base is not None
        changed = self._base.changed()
        if changed:
            raise ModelError(_wrote(changed, self._careful))
        self._states[key] = (Snapshot(pipeline, watch_weights=False), key if text or customs else "")

    def _put(self, state: Snapshot, text_state: str, key: str) -> None:
        state.restore_structure()
        self._current = key
        self.backbone.text_state = text_state

    # ---- what is computed once

    def _condition(self, technique: ControlNet, control: Control, scene: Scene) -> Tensor:
        shown = scene.shown or scene
        at = (function_name(technique.condition), f"{shown.key}{tuple(shown.pixels.shape)}", control.form)
        if at not in self._conditions:
            picture = condition_image(find_condition(technique.condition), shown.pixels)
            self._conditions[at] = control.show(picture).to(self.backbone.device)
        return self._conditions[at]

    def _control(self, technique: ControlNet) -> Control:
        if technique.model not in self._controls:
            self._controls[technique.model] = load_controlnet(technique.model, self.backbone)
        control = self._controls[technique.model]
        control.check_mode(technique.mode)
        return control

    def _image_prompt(self, technique: IPAdapter, scene: Scene) -> Tensor:
        shown = scene.shown or scene
        at = (f"{technique.path}/{technique.subfolder}/{technique.file}", shown.key)
        if at not in self._image_prompts:
            self._image_prompts[at] = image_prompt(self.backbone.pipeline, shown.pixels)
        return self._image_prompts[at]

    def _text(self, technique: Prompt | None, scene: Scene) -> str:
        if technique is None:
            return scene.text
        if technique.key not in self._writers:
            self._writers[technique.key] = technique.writer()
        shown = scene.shown or scene
        found = self._writers[technique.key](shown.name, _picture(shown.pixels))
        return scene.text if found is None else found

    def forget_pictures(self) -> None:
        """Drop what was computed for pictures, e.g. between batches of a long stream."""
        self._conditions, self._image_prompts = {}, {}


class Steered:
    """A backbone under a combination of techniques, as :meth:`Session.use` gives it."""

    def __init__(self, session: Session, combination: Combination) -> None:
        self._session = session
        self.combination = combination
        self.backbone = session.backbone
        self._controls = [(t, session._control(t)) for t in combination.all(ControlNet)]
        guidance = combination.one(Guidance)
        self._guidance = guidance if guidance is not None and guidance.scale != 1 else None

    def prepare(self, scenes: Sequence[Scene], **options: Any) -> Rows:
        """One row for each picture (of one size).

        Args:
            options: Options of the family's conditioning.

        Raises:
            InvalidValueError: If a picture has no caption, or a condition returns nonsense.
        """
        session, combination = self._session, self.combination
        h, w = scenes[0].pixels.shape[-2:]
        prompt, ip = combination.one(Prompt), combination.one(IPAdapter)
        texts = [session._text(prompt, scene) for scene in scenes]
        conditioning = self.backbone.condition(texts, size=(w, h), **options)
        negative = None
        if self._guidance is not None:
            negative = unconditional_rows(self.backbone, self._guidance.negative, conditioning, **options)
        return Rows(
            conditioning,
            negative,
            tuple(
                torch.stack([session._condition(t, control, scene) for scene in scenes])
                for t, control in self._controls
            ),
            None if ip is None else torch.cat([session._image_prompt(ip, scene) for scene in scenes]),
        )

    def inputs(self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, rows: Rows) -> dict[str, Any]:
        """Arguments of the denoiser call in which features are read."""
        return self._with(self.backbone.denoiser_inputs(noisy, t, rows.conditioning), rows)

    def predict(self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, rows: Rows) -> Float[Tensor, "b c h w"]:
        """The prediction, guided if guidance is among the techniques (both texts in one call)."""
        backbone, guidance = self.backbone, self._guidance
        if guidance is None or rows.negative is None:
            output = backbone.denoiser(**self.inputs(noisy, t, rows))[0]
            return backbone.family.unpack(output, noisy)[:, : noisy.shape[1]]
        both = Rows(
            joined([rows.negative, rows.conditioning]),
            None,
            tuple(torch.cat([c, c]) for c in rows.controls),
            None if rows.images is None else torch.cat([torch.zeros_like(rows.images), rows.images]),
        )
        twice, times = torch.cat([noisy, noisy]), torch.as_tensor(t)
        output = backbone.denoiser(**self.inputs(twice, torch.cat([times, times]) if times.ndim else times, both))[0]
        away, towards = backbone.family.unpack(output, twice)[:, : noisy.shape[1]].chunk(2)
        return away + guidance.scale * (towards - away)

    def descend(
        self, noisy: Float[Tensor, "b c h w"], timesteps: Sequence[float], rows: Rows
    ) -> Float[Tensor, "b c h w"]:
        """Deterministic steps (see :mod:`diffeat.trajectories.ode`) from ``timesteps[0]`` through the others.

        Returns:
            The latents at the last timestep; -1 is the clean image of a discrete schedule.

        Raises:
            InvalidValueError: If the timesteps do not fall.
        """
        if any(b >= a for a, b in pairwise(timesteps)):
            raise InvalidValueError(f"Timesteps must fall from step to step, got {list(timesteps)}.")
        for t, to in pairwise(timesteps):
            prediction = self.predict(noisy, t, rows)
            clean = self.backbone.estimate_clean(noisy, t, prediction)
            noisy = self.backbone.noise(clean, to, self.backbone.estimate_noise(noisy, t, prediction))
        return noisy

    def arrive(
        self,
        timesteps: Sequence[float],
        noisy_at: Callable[[Sequence[int], Sequence[float]], Float[Tensor, "b c h w"]],
        rows: Rows,
    ) -> Float[Tensor, "b c h w"]:
        """Latents at which features are read, one per row: noised there, or stepped down to there from a noisier start.

        Args:
            timesteps: Where each row is read.
            noisy_at: Noisy latents of these rows at these timesteps.
        """
        paths = {t: self.combination.arrive(t) for t in timesteps}
        noisy = noisy_at(range(len(timesteps)), [paths[t][0] for t in timesteps])
        for t, path in paths.items():
            if len(path) > 1:
                at = [k for k, own in enumerate(timesteps) if own == t]
                reached = self.descend(noisy[at], path, rows.take(at))
                noisy = noisy.index_copy(0, torch.tensor(at, device=noisy.device), reached.to(noisy))
        return noisy

    def _with(self, inputs: dict[str, Any], rows: Rows) -> dict[str, Any]:
        if rows.images is not None:
            added = {**(inputs.get("added_cond_kwargs") or {}), "image_embeds": [rows.images]}
            inputs = {**inputs, "added_cond_kwargs": added}
        residuals: dict[str, Any] = {}
        for (t, control), shown in zip(self._controls, rows.controls, strict=True):
            residuals = add_residuals(residuals, control.residuals(inputs, shown, t.scale, t.mode))
        return {**inputs, **residuals}


def _picture(pixels: Tensor) -> Image.Image:
    """The PIL image of pixels in [-1, 1], for captioners."""
    bytes_ = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())


def _wrote(changed: list[str], repaired: bool) -> str:
    state = "They were put back." if repaired else "Load the model again."
    return (
        f"A technique wrote into {len(changed)} weights of the model ({', '.join(changed[:3])}). {state} A technique "
        "must add layers or hooks instead."
    )
