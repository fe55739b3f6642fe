"""Arithmetic that gives the same bits on every processor.

IEEE 754 rounds ``+ - * / √`` correctly, so a fixed order of them has one result. Matrix products of BLAS, numpy's
``sin``, ``exp``, ``power`` or ``einsum``, and the C library's functions do not: their kernels are chosen for the
processor, and fuse, reorder or approximate as suits it. The toy world is drawn with what is below instead.

``sin`` and ``cos``: ``x = nπ + r`` with ``|r| ≤ π/2`` and Taylor's series of ``r``. ``exp``: ``x = n ln 2 + r`` with
``|r| ≤ ln 2 / 2``, the series, and ``2ⁿ``. ``log``: ``x = m 2ⁿ`` with ``√½ ≤ m < √2`` and the series of
``2 artanh((m - 1) / (m + 1))``. Errors are below 1e-15 (of the value for ``exp``, of ``max(1, |log x|)`` for ``log``)
for arguments below 1000 in size.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
A = TypeVar("A", NDArray[np.float64], NDArray[np.floating])
S = TypeVar("S", float, NDArray[np.float64], NDArray[np.floating])

_NEAREST = 1.5 * 2.0**52  # added and taken away again, it leaves the nearest whole number
_PI = (2 * 1.57079632673412561417, 2 * 6.07710050650619224932e-11)  # the first has 33 bits: n times it is exact
_LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
_SIN = [(-1) ** k / math.factorial(2 * k + 1) for k in range(11)]
_COS = [(-1) ** k / math.factorial(2 * k) for k in range(12)]
_EXP = [1 / math.factorial(k) for k in range(15)]
_ARTANH = [2 / (2 * k + 1) for k in range(11)]


def _series(x: Any, coefficients: list[float]) -> Any:
    total = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        total += c
        total *= x
    return total + coefficients[0]


def _half_turns(x: Any) -> tuple[Any, Any]:
    """``r`` and ``(-1)ⁿ`` of ``x = nπ + r``."""
    n = (x / math.pi + _NEAREST) - _NEAREST
    half = n / 2
    return (x - n * _PI[0]) - n * _PI[1], 1 - 4 * abs(half - ((half + _NEAREST) - _NEAREST))


def _like(x: float | Array, value: Any) -> Any:
    return value.astype(x.dtype) if isinstance(x, np.ndarray) else value


def sin(x: S) -> S:
    r, sign = _half_turns(x.astype(float) if isinstance(x, np.ndarray) else float(x))
    return _like(x, sign * r * _series(r * r, _SIN))


def cos(x: S) -> S:
    r, sign = _half_turns(x.astype(float) if isinstance(x, np.ndarray) else float(x))
    return _like(x, sign * _series(r * r, _COS))


def exp(x: float | Array) -> NDArray[np.float64]:
    x = np.asarray(x, float)
    n = np.rint(x / _LN2[0])
    return np.ldexp(_series((x - n * _LN2[0]) - n * _LN2[1], _EXP), n.astype(np.int32))


def log(x: float | Array) -> NDArray[np.float64]:
    """Of positive numbers."""
    m, n = np.frexp(np.asarray(x, float))
    small = m < math.sqrt(0.5)
    m, n = np.where(small, 2 * m, m), n - small
    s = (m - 1) / (m + 1)
    return n * _LN2[0] + (n * _LN2[1] + s * _series(s * s, _ARTANH))


def power(x: float | Array, exponent: float) -> NDArray[np.float64]:
    """``x ** exponent`` of numbers ≥ 0 for an exponent > 0."""
    x = np.asarray(x, float)
    return np.where(x > 0, exp(exponent * log(np.where(x > 0, x, 1))), 0)


def dot(a: A, b: A) -> A:
    """Inner products of three-vectors ``(..., 3)``."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def norm(v: Array) -> Array:
    """Lengths of three-vectors ``(..., 3)``."""
    return np.sqrt(dot(v, v))


def apply(matrix: A, v: A) -> A:
    """``M v`` for three-by-three matrices ``(..., 3, 3)`` and vectors ``(..., 3)``."""
    return matrix[..., 0] * v[..., :1] + matrix[..., 1] * v[..., 1:2] + matrix[..., 2] * v[..., 2:]


def product(a: A, b: A) -> A:
    """``A B`` for three-by-three matrices ``(..., 3, 3)``."""
    return a[..., :1] * b[..., :1, :] + a[..., 1:2] * b[..., 1:2, :] + a[..., 2:] * b[..., 2:, :]


def inverse(matrix: A) -> A:
    """Inverses of three-by-three matrices ``(..., 3, 3)``, by cross products of their columns."""
    a, b, c = (matrix[..., k] for k in range(3))
    rows = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -2)
    return rows / dot(a, rows[..., 0, :])[..., None, None]


def mean(x: Array) -> float:
    """The mean of numbers below 2¹⁶, through whole multiples of 2⁻³⁰, whose sum knows no order."""
    return int(np.rint(x * 2.0**30).astype(np.int64).sum()) / 2**30 / x.size


@overload
def normal(rng: np.random.Generator, mean: float, deviation: float) -> float: ...
@overload
def normal(
    rng: np.random.Generator, mean: float, deviation: float, size: int | tuple[int, ...]
) -> NDArray[np.float64]: ...
def normal(
    rng: np.random.Generator, mean: float, deviation: float, size: int | tuple[int, ...] | None = None
) -> float | NDArray[np.float64]:
    """Normal draws, rounded to multiples of 2⁻³⁰ deviations: the C library has a say in the last bits of large ones."""
    draw = rng.standard_normal(size)
    return mean + deviation * (((draw * 2.0**30 + _NEAREST) - _NEAREST) / 2.0**30)
