"""What a site is: something that can be read at many modules under one name, such as their input or their queries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from diffeat.activations.anatomy import Node
from diffeat.activations.sites.probe import Probe


class NoSuchSite(Exception):
    """The module exists but does not offer the site; the text says why."""


class Site(ABC):
    """A site: the last part of an id, ``MODULE.site``; the output's name is empty, its id the module's path.

    Attributes:
        name: That last part.
        kinds: The kinds of activation that it gives.
        per_head: Whether its channels or matrices belong to attention heads.
    """

    name: str
    kinds: ClassVar[tuple[str, ...]]
    per_head: ClassVar[bool] = False

    @abstractmethod
    def kind_at(self, node: Node) -> str | None:
        """The kind under which a catalogue lists it at a module; ``None`` where it is not listed."""

    @abstractmethod
    def at(self, node: Node) -> Probe:
        """How it is read at a module, listed there or not.

        Raises:
            NoSuchSite: If the module does not have it.
        """
