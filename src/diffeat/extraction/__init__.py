"""One recipe over a stream of images."""

from diffeat.extraction.extractor import Extractor
from diffeat.extraction.presets import preset_names
from diffeat.extraction.recipe import Recipe
from diffeat.extraction.to_store import Summary, extract_to_store

__all__ = ["Extractor", "Recipe", "Summary", "extract_to_store", "preset_names"]
