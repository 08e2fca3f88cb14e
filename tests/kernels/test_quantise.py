"""Quantising is record-wise, bounded, and monotone; whatever is not finite is reported and becomes zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from pe.kernels.quantise import integer_type, quantise

any_rows = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(width=32))
scales = st.floats(1e-3, 1e5)
limits = st.one_of(st.integers(1, 32767), st.sampled_from([1, 127, 128, 129]))


@given(any_rows, scales, limits)
def test_it_is_scaling_rounding_and_clipping_of_finite_rows(
    vectors: NDArray[np.float32], scale: float, limit: int
) -> None:
    quantised, finite = quantise(vectors, scale, limit)
    assert quantised.dtype == integer_type(limit) == (np.int8 if limit <= 128 else np.int16)
    np.testing.assert_array_equal(finite, [all(np.isfinite(row)) for row in vectors])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.clip(np.round(vectors * np.float32(scale)), -limit, 127 if limit == 128 else limit)
    np.testing.assert_array_equal(quantised, np.where(finite[:, None], expected, 0))


@given(any_rows, scales, limits)
def test_each_row_depends_on_that_row_alone(vectors: NDArray[np.float32], scale: float, limit: int) -> None:
    together, finite = quantise(vectors, scale, limit)
    for row, expected, ok in zip(vectors, together, finite, strict=True):
        alone, alone_ok = quantise(row[None], scale, limit)
        np.testing.assert_array_equal(alone[0], expected)
        assert alone_ok[0] == ok


@given(arrays(np.float64, (1, 6), elements=st.floats(-1e300, 1e300)), scales, limits)
def test_it_is_odd_and_keeps_order(vectors: NDArray[np.float64], scale: float, limit: int) -> None:
    """Also for float64 beyond the range of float32, which is clipped."""
    quantised, finite = quantise(np.sort(vectors), scale, limit)
    assert finite.all()
    assert (np.diff(quantised[0].astype(int)) >= 0).all()
    if limit != 128:
        np.testing.assert_array_equal(quantise(-np.sort(vectors), scale, limit)[0].astype(int), -quantised.astype(int))


def test_pixels_minus_128_are_exact() -> None:
    pixels = np.arange(256, dtype=np.float32)[None] - 128
    quantised, _ = quantise(pixels, 1.0, 128)
    assert quantised.dtype == np.int8
    np.testing.assert_array_equal(quantised, [range(-128, 128)])
    assert quantise(np.full((1, 1), 128, np.float32), 1.0, 128)[0] == 127


def test_the_vectors_are_left_alone() -> None:
    vectors = np.array([[1.5, np.nan], [0.25, -3.0]], np.float32)
    before = vectors.copy()
    quantise(vectors, 1.0, 127)
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize(
    ("scale", "limit"),
    [
        (0.0, 127),
        (-1.0, 127),
        (np.inf, 127),
        (np.nan, 127),
        (1e39, 127),
        (1e-60, 127),
        (1.0, 0),
        (1.0, -5),
        (1.0, 32768),
        (1.0, np.nan),
    ],
)
def test_an_unusable_scale_or_limit_is_refused(scale: float, limit: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= limit"):
        quantise(np.zeros((1, 1), np.float32), scale, limit)


@pytest.mark.parametrize(
    "vectors", [np.zeros(3, np.float32), np.zeros((2, 2, 2), np.float32), np.zeros((2, 2), np.int8)]
)
def test_anything_but_float_vectors_is_refused(vectors: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="expected float vectors"):
        quantise(vectors, 1.0, 127)


def test_no_vectors_quantise_to_none() -> None:
    quantised, finite = quantise(np.empty((0, 4), np.float32), 1.0, 127)
    assert (quantised.shape, finite.shape) == ((0, 4), (0,))
