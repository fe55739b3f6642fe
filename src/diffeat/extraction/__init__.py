"""Recipes, and what runs them.

* :class:`Recipe` is what all kinds of recipes share; :meth:`Recipe.load` finds one by its name.
* :func:`load_source` loads a recipe's models; :class:`Extractor` runs one diffusion model, :class:`Views` several
  recipes of one model over the same pictures.
* :func:`extract_to_store` fills a feature store, and goes on where it was stopped.
"""

from diffeat.extraction.baselines import Daisy, RgbPatches
from diffeat.extraction.contained import published_folder
from diffeat.extraction.detect import calibration_pictures
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.gdf_config import recipe_from_gdf
from diffeat.extraction.generated import generate, generation_twin, save_generated
from diffeat.extraction.joined import JoinedSource
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.joins.aggregation_files import load_aggregation, save_aggregation
from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig, load_amalgamation, save_amalgamation
from diffeat.extraction.kinds import Baseline, Joined, Vision, join_recipes
from diffeat.extraction.plan import Cost, Plan
from diffeat.extraction.reading import Reading
from diffeat.extraction.recipe import Recipe, preset_names
from diffeat.extraction.sources import load_source
from diffeat.extraction.to_store import Summary, extract_to_store
from diffeat.extraction.views import Views
from diffeat.extraction.vision import VisionExtractor

__all__ = [
    "AggregationConfig",
    "AggregationNetwork",
    "Amalgamation",
    "AmalgamationConfig",
    "Baseline",
    "Cost",
    "Daisy",
    "Extractor",
    "Joined",
    "JoinedSource",
    "Plan",
    "Reading",
    "Recipe",
    "RgbPatches",
    "Summary",
    "Views",
    "Vision",
    "VisionExtractor",
    "calibration_pictures",
    "extract_to_store",
    "generate",
    "generation_twin",
    "join_recipes",
    "load_aggregation",
    "load_amalgamation",
    "load_source",
    "preset_names",
    "published_folder",
    "recipe_from_gdf",
    "save_aggregation",
    "save_amalgamation",
    "save_generated",
]
