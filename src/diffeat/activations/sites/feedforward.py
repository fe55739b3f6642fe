"""The hidden layer of a feed-forward."""

from __future__ import annotations

from diffeat.activations.anatomy import Node, class_name, has, inner_of
from diffeat.activations.sites.probe import InputProbe, OutputProbe, Stream
from diffeat.activations.sites.site import NoSuchSite, Site


class Inner(Site):
    """``FEEDFORWARD.inner``: its hidden layer after the activation; ``BLOCK.inner`` where the MLP is no module."""

    name = "inner"
    kinds = ("ffn-inner",)

    def kind_at(self, node: Node) -> str | None:
        if node.role == "block":
            inside = node.rule is not None and node.rule.inner is not None and has(node.module, node.rule.inner)
        else:
            inside = node.role == "ffn"
        return "ffn-inner" if inside else None

    def at(self, node: Node) -> InputProbe | OutputProbe:
        if node.rule is not None and node.rule.inner:
            return OutputProbe(f"{node.path}.{node.rule.inner}", "image", anchor=node.anchor)
        hidden = inner_of(node.module)
        if hidden is None:
            raise NoSuchSite(f"{node.path!r} is a {class_name(node.module)}, not a feed-forward")
        child, where = hidden
        stream: Stream = "text" if node.text else "image"
        probe = InputProbe if where == "input" else OutputProbe
        return probe(f"{node.path}.{child}", stream, anchor=node.anchor)
