"""Features as a transformer of scikit-learn: pictures in, rows of numbers out."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from diffeat.errors import InvalidValueError, did_you_mean
from diffeat.extraction import load_source
from diffeat.features import FeatureMap, Images, Prompts, raise_error
from diffeat.tasks.classification import pooled_features


class FeatureTransformer(TransformerMixin, BaseEstimator):
    """Features of pictures, by a recipe. Nothing is learned; ``fit`` loads the model.

    Args:
        recipe: As :func:`~diffeat.load_source` takes it.
        rows: ``"pictures"``: the mean over cells, (n, c). ``"pixels"``: every pixel of the pictures, interpolated
            between cells, picture after picture and row after row, (n·h·w, c).

    Example:
        >>> import torch
        >>> FeatureTransformer("baseline:rgb").fit_transform(torch.rand(3, 3, 32, 32)).shape[0]
        3
    """

    def __init__(
        self,
        recipe: Any = "tiny-unet",
        rows: Literal["pictures", "pixels"] = "pictures",
        prompts: Prompts = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.recipe = recipe
        self.rows = rows
        self.prompts = prompts
        self.device = device
        self.dtype = dtype

    def fit(self, X: Images, y: object = None) -> Self:
        """Load the model.

        Raises:
            InvalidValueError: There are no such rows.
            DiffeatError: As :func:`~diffeat.load_source`.
        """
        if self.rows not in ("pictures", "pixels"):
            raise InvalidValueError(f"No rows {self.rows!r}. {did_you_mean(str(self.rows), ('pictures', 'pixels'))}")
        self.source_ = load_source(self.recipe, device=self.device, dtype=self.dtype)
        return self

    def transform(self, X: Images) -> np.ndarray:
        """Rows of features, float32."""
        check_is_fitted(self, "source_")
        found = self.source_.stream(X, self.prompts, on_error=raise_error)
        return np.concatenate([self._rows(features) for features in found])

    def _rows(self, features: FeatureMap) -> np.ndarray:
        if self.rows == "pictures":
            return pooled_features(features).numpy()[None]
        maps = [features.frame.map_to_original(values.float().cpu()) for values in features.activations.values()]
        return torch.cat(maps).flatten(1).T.numpy()
