"""More than 2**31 elements: an index of 32 bits would wrap to memory that is not there, or that is another's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from cases import METHODS, check_gradients
from numpy.typing import NDArray

import numbanorm

pytestmark = pytest.mark.long

Array = NDArray[Any]

BEYOND = 2**31 + 2**13  # elements
# x of float16, which is y as well; the masks of comparisons take half as much
large = pytest.mark.slow(gigabytes=7)


@pytest.fixture(scope="module")
def buffer() -> Array:
    """For all tests in turn: each of them fills it."""
    return np.empty(BEYOND, np.float16)


def bits(value: float) -> int:
    """Comparing float16 as such takes NumPy several seconds here."""
    return int(np.float16(value).view(np.uint16))


@large
def test_rows(buffer: Array) -> None:
    x = buffer.reshape(-1, 1024)
    tail = np.random.default_rng(0).standard_normal((9, 1024)).astype(np.float16)
    x.view(np.uint64)[:] = 0x0001_0001_0001_0001 * bits(3)  # every row constant
    x[-9:] = tail
    weight, bias = np.full(1024, 2, np.float16), np.full(1024, 0.5, np.float16)
    y = numbanorm.layer_norm(x, 1024, weight, bias, out=x)
    assert y[-9:].tobytes() == numbanorm.layer_norm(tail, 1024, weight, bias).tobytes()
    assert (y[:-9].view(np.uint64) == 0x0001_0001_0001_0001 * bits(0.5)).all()


def zeros_and_ones(buffer: Array) -> int:
    """0, and 1 at both ends and around 2**31. Returns the number of ones."""
    buffer[:] = 0
    parts = (buffer[:1000], buffer[2**31 - 504 : 2**31 + 496], buffer[-1000:])
    for part in parts:
        part[:] = 1
    return sum(part.size for part in parts)


@large
@pytest.mark.parametrize(("family", "method"), [("runs", METHODS[0]), ("columns", METHODS[1])])
def test_one_group(buffer: Array, family: str, method: str) -> None:
    ones = zeros_and_ones(buffer)
    mean = ones / BEYOND
    rstd = 1 / math.sqrt(mean * (1 - mean))
    x = buffer.reshape((1, 1, -1) if family == "runs" else (-1, 1))
    y, stats = numbanorm.batch_norm(x, training=True, eps=0.0, out=x, method=method, exact=True, return_stats=True)
    # sums of 2**31 terms in trees
    assert oracle.relative_error(stats.mean, [mean]) <= 1e-12
    assert oracle.relative_error(stats.rstd, [rstd]) <= 1e-12
    assert y.shape == x.shape
    assert np.shares_memory(y, buffer)
    seen = buffer.view(np.uint16)
    at_one, at_zero = bits((1 - mean) * rstd), bits(-mean * rstd)
    assert (seen[:1000] == at_one).all()
    assert (seen[2**31 - 504 : 2**31 + 496] == at_one).all()
    assert (seen[-1000:] == at_one).all()
    assert np.count_nonzero(seen == at_zero) == BEYOND - ones


@large
def test_one_row(buffer: Array) -> None:
    """The root mean square of zeros and ones: zeros stay, and ones become one number."""
    ones = zeros_and_ones(buffer)
    y = numbanorm.rms_norm(buffer, BEYOND, eps=0.0, out=buffer, exact=True)
    assert y is buffer
    at_one = bits(1 / math.sqrt(ones / BEYOND))
    seen = buffer.view(np.uint16)
    for part in (seen[:1000], seen[2**31 - 504 : 2**31 + 496], seen[-1000:]):
        assert (part == at_one).all()
    assert np.count_nonzero(seen) == ones


@large
def test_gradients_of_rows(buffer: Array, rng: np.random.Generator) -> None:
    """dx over x. Rows under a dy of zeros, which were never written and so take no memory, have none and add nothing."""
    x, dy = buffer.reshape(-1, 1024), np.zeros((BEYOND // 1024, 1024), np.float16)
    x.view(np.uint64)[:] = 0x0001_0001_0001_0001 * bits(3)
    around = np.r_[:2, 2**21 - 2 : 2**21 + 2, len(x) - 2 : len(x)]  # row 2**21 begins with element 2**31
    x[around], dy[around] = rng.normal(1, 2, (2, len(around), 1024)).astype(np.float16)
    truth = oracle.layer_norm_backward(dy[around], x[around], 1)
    _, of_some = numbanorm.layer_norm(x[around], 1024, return_stats=True)
    stats = numbanorm.Stats(np.full(len(x), 3.0), np.full(len(x), 1 / math.sqrt(1e-5)))
    stats.mean[around], stats.rstd[around] = of_some
    dx, *sums = numbanorm.layer_norm_backward(dy, x, 1024, stats, np.ones(1024, np.float32), out=x, exact=True)
    assert dx is x
    check_gradients((dx[around], *sums), truth)
    dx[around] = 0
    assert not dx.any()


@large
def test_moments_of_columns(buffer: Array) -> None:
    ones = zeros_and_ones(buffer)
    m = numbanorm.moments(buffer.reshape(-1, 8), axis=0)
    assert m.count == BEYOND // 8
    # each of the three parts begins at a multiple of 8 and is 125 rows long
    assert m.mean.tolist() == [ones / BEYOND] * 8


@pytest.mark.parametrize("method", METHODS)
def test_pages_that_were_never_written(method: str) -> None:
    """Zeros that nobody has written are one page of memory, read over and over: 4 GB that cost none. They are asked for
    in rows, whose sums are exact, with a few values on both sides of the places where an index may wrap."""
    length = 2**13
    x = np.zeros(BEYOND, np.float16)
    places = [5, 2**30 - 1, 2**31 - 1, 2**31, x.size - 1]
    x[places] = [1, 2, 3, 4, 5]
    m = numbanorm.moments(x.reshape(-1, length), 1, method=method)
    expected = np.zeros(x.size // length)
    np.add.at(expected, np.array(places) // length, np.array([1.0, 2, 3, 4, 5]) / length)
    assert m.count == length
    assert m.mean.tobytes() == expected.tobytes()
    assert np.flatnonzero(m.m2).tolist() == np.flatnonzero(expected).tolist()


@pytest.mark.slow(gigabytes=9)  # of file pages, which the system may drop
def test_file_with_holes(tmp_path: Path) -> None:
    """float32, mapped and read-only: what was never written to a file is zeros, and takes no room on the disk."""
    length, places = 2**13, np.array([5, 2**30 - 1, 2**31 - 1, 2**31, BEYOND - 1])
    path = tmp_path / "x"
    x = np.memmap(path, np.float32, "w+", shape=(BEYOND // length, length))
    x.reshape(-1)[places] = [1, 2, 3, 4, 5]
    x.flush()
    x = np.memmap(path, np.float32, "r", shape=x.shape)
    try:
        m = numbanorm.moments(x, 1)
        rows = np.unique(places // length)
        expected = np.zeros(len(x))
        np.add.at(expected, places // length, np.array([1.0, 2, 3, 4, 5]) / length)
        assert m.mean.tobytes() == expected.tobytes()
        assert np.flatnonzero(m.m2).tolist() == rows.tolist()
        y = numbanorm.layer_norm(x[rows[-2] :], length)  # the rows that lie beyond 2**31 bytes and elements, and one before
        assert y.tobytes() == numbanorm.layer_norm(np.array(x[rows[-2] :]), length).tobytes()
    finally:
        path.unlink()


@pytest.mark.parametrize("family", ["runs", "columns"])
def test_gradients_of_pages_that_were_never_written(family: str) -> None:
    """With mean 0.5 and rstd 2, xh is -1 at every 0: the sums are exact."""
    shape = (1, 1, -1) if family == "runs" else (-1, 8)
    x, dy = np.zeros(BEYOND, np.float16), np.zeros(BEYOND, np.float16)
    places = np.array([5, 2**30 - 1, 2**31 - 1, 2**31, x.size - 1])
    dy[places], x[places[1::2]] = [1, 2, 3, 4, 5], 1
    channel = np.zeros_like(places) if family == "runs" else places % 8
    stats = numbanorm.Stats(*(np.full(channel.max() + 1, v) for v in (0.5, 2.0)))
    dx, dweight, dbias = numbanorm.batch_norm_backward(
        dy.reshape(shape), x.reshape(shape), stats, training=False, needs=(False, True, True), exact=True
    )
    assert dx is None
    assert dweight.tolist() == np.bincount(channel, dy[places] * (2 * x[places] - 1)).tolist()
    assert dbias.tolist() == np.bincount(channel, dy[places]).tolist()
