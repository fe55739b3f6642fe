"""Parts of pictures without words: normalised cuts and k-means of features, merged self-attention."""

from diffeat.tasks.parts.find import METHODS, PartOptions, attention_parts, parts_of

__all__ = ["METHODS", "PartOptions", "attention_parts", "parts_of"]
