"""Words to masks: where a model's attention to its text puts words in a picture."""

from diffeat.tasks.words.layers import text_attentions
from diffeat.tasks.words.maps import WordOptions, words

__all__ = ["WordOptions", "text_attentions", "words"]
