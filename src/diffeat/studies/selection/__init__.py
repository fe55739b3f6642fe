"""From every activation of a model to a small set that works: measure, filter, rank, choose."""

from diffeat.studies.selection.labels import Labels, open_labels, open_several
from diffeat.studies.selection.properties import Measurement, Property, measure
from diffeat.studies.selection.rules import judge, load_rules
from diffeat.studies.selection.search import Selection, SelectionSettings, select

__all__ = [
    "Labels",
    "Measurement",
    "Property",
    "Selection",
    "SelectionSettings",
    "judge",
    "load_rules",
    "measure",
    "open_labels",
    "open_several",
    "select",
]
