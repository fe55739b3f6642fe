"""Words to masks: where a model's attention to its text puts words in a picture, or concepts beside the text do."""

from diffeat.tasks.words.concepts import ConceptOptions, concept_maps, saliency
from diffeat.tasks.words.layers import text_attentions
from diffeat.tasks.words.maps import WordOptions, words

__all__ = ["ConceptOptions", "WordOptions", "concept_maps", "saliency", "text_attentions", "words"]
