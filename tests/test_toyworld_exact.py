"""The toy world's own arithmetic against numpy, scipy and brute force; and that it uses no other."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

import diffeat.datasets.toyworld
from diffeat.datasets.toyworld import exact, lens, noise
from diffeat.datasets.toyworld.figure import slope, turn

RNG = np.random.default_rng(0)
#: What numpy leaves to kernels chosen for the processor, to BLAS or to the C library.
INEXACT = {
    "linalg", "fft", "dot", "inner", "outer", "vdot", "matmul", "einsum", "tensordot", "convolve", "correlate", "sin",
    "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "exp", "exp2", "expm1", "log",
    "log2", "log10", "log1p", "power", "float_power", "cbrt", "hypot", "mean", "average", "std", "var", "interp",
    "normal", "standard_normal", "exponential", "gamma", "beta", "dirichlet",
}  # fmt: skip
#: The generator's normal draws behind one wrapper and as sensor noise.
ALLOWED = {("exact.py", "standard_normal"), ("lens.py", "standard_normal")}


def test_only_exactly_rounded_operations_are_used():
    for path in Path(diffeat.datasets.toyworld.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.BinOp):
                assert not isinstance(node.op, ast.MatMult), where
                constant = isinstance(node.left, ast.Constant | ast.UnaryOp)  # (-1) ** k and 2**30 are exact
                assert not isinstance(node.op, ast.Pow) or constant, where
            elif isinstance(node, ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                kernels = INEXACT if owner in ("np", "math", "rng") else {"dot", "mean", "std", "var"}
                inexact = node.attr in kernels
                assert not inexact or (path.name, node.attr) in ALLOWED, f"{where} {node.attr}"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not any(n.startswith(("scipy", "torch")) for n in names), where


@pytest.mark.parametrize(
    ("own", "reference", "x"),
    [
        (exact.sin, np.sin, RNG.uniform(-1000, 1000, 10_000)),
        (exact.cos, np.cos, RNG.uniform(-1000, 1000, 10_000)),
        (exact.exp, np.exp, RNG.uniform(-30, 1, 10_000)),
        (exact.log, np.log, RNG.uniform(0.01, 100, 10_000)),
        (lambda x: exact.power(x, 0.77), lambda x: x**0.77, np.append(RNG.uniform(0, 4, 10_000), 0)),
    ],
    ids=["sin", "cos", "exp", "log", "power"],
)
def test_functions_are_accurate(own, reference, x):
    np.testing.assert_allclose(own(x), reference(x), rtol=0, atol=4e-15)
    assert [own(float(value)) for value in x[:20]] == list(own(x)[:20])


def test_exp_and_log_are_accurate_relatively_and_each_other_s_inverse():
    x = RNG.uniform(-700, 700, 10_000)
    np.testing.assert_allclose(exact.exp(x), np.exp(x), rtol=1e-14)
    np.testing.assert_allclose(exact.log(exact.exp(x)), x, rtol=1e-14, atol=1e-14)


def test_small_matrices():
    a, b = RNG.normal(size=(2, 50, 3, 3))
    v = RNG.normal(size=(50, 3))
    np.testing.assert_allclose(exact.product(a, b), a @ b, atol=1e-13)
    np.testing.assert_allclose(exact.apply(a, v), np.einsum("nij,nj->ni", a, v), atol=1e-13)
    np.testing.assert_allclose(exact.norm(v), np.linalg.norm(v, axis=1), atol=1e-13)
    np.testing.assert_allclose(a @ exact.inverse(a), np.broadcast_to(np.eye(3), a.shape), atol=1e-10)


def test_turn_is_yaw_after_pitch_after_roll_and_slope_is_a_pitch():
    a, b, c = np.deg2rad([33, 21, 50])
    y = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    x = [[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]]
    np.testing.assert_allclose(turn(33, 21, 50), np.array(y) @ z @ x, atol=1e-15)
    np.testing.assert_allclose(slope(2.0, -1.0), turn(pitch=np.rad2deg(np.arctan2(-1, 2))), atol=1e-15)


def test_the_mean_does_not_depend_on_the_order():
    x = RNG.uniform(0, 2, 50_000).astype(np.float32)
    assert exact.mean(x) == pytest.approx(x.astype(float).mean(), abs=1e-9)
    assert exact.mean(x) == exact.mean(x[::-1]) == exact.mean(np.sort(x))


def test_normal_draws_are_the_generator_s_to_thirty_bits():
    own = exact.normal(np.random.default_rng(3), 2, 5, 1000)
    np.testing.assert_allclose(own, np.random.default_rng(3).normal(2, 5, 1000), atol=5 * 2**-30)
    assert ((own - 2) / 5 * 2**30 == np.rint((own - 2) / 5 * 2**30)).mean() > 0.2


def test_blur_is_gaussian():
    picture = RNG.uniform(size=(24, 24, 3)).astype(np.float32)
    for sigma in (0.4, 1.3, 2.4):
        expected = gaussian_filter(picture, (sigma, sigma, 0), mode="nearest")
        np.testing.assert_allclose(lens.blur(picture, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("exponent", [0.6, 1 / 1.3, 1.0, 1.7])
def test_the_tone_curve_is_a_power(exponent):
    picture = np.append(RNG.uniform(0, 3, 5000), [0, -0.1, 3.0]).astype(np.float32)
    own = lens._curve(picture, exponent)
    np.testing.assert_allclose(own, np.maximum(picture, 0).astype(float) ** exponent, atol=4e-5)


def test_the_noise_bank_s_transform_and_cells():
    tile, other = RNG.normal(size=(2, noise.SIDE, noise.SIDE))
    real, imaginary = noise._fourier(tile, other)
    np.testing.assert_allclose(real + 1j * imaginary, np.fft.fft2(tile + 1j * other), atol=1e-9)
    points = np.random.default_rng(5).uniform(0, noise.SIDE, (9, 2))
    y, x = np.mgrid[: noise.SIDE, : noise.SIDE]
    distance, _ = KDTree(points, boxsize=noise.SIDE).query(np.stack([y, x], -1).reshape(-1, 2))
    own = noise._cells(np.random.default_rng(5), 9).ravel()
    assert (np.diff(distance[np.argsort(own)]) > -1e-9).all()
