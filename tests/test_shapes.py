"""The checks of shapes that all tests run under do check."""

from __future__ import annotations

import pytest
import torch

from diffeat.geometry import Frame
from diffeat.geometry.frame import sample_grid


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(TypeError, match="typechecking parameter 'y'"):
        sample_grid(torch.zeros(3, 4, 4), torch.zeros(2, 2), torch.zeros(2), "bilinear")


def test_methods_are_checked() -> None:
    frame = Frame((4, 4), (4, 4), (0, 0, 4, 4))
    with pytest.raises(TypeError, match="typechecking parameter 'boxes'"):
        frame.boxes_to_model(torch.zeros(3, 5))
    assert not hasattr(Frame.content_cells, "__wrapped__")  # nothing to check, nothing in between
