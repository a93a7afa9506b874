"""`normalize --norm batch` gives what one call on all of the data gives, however it is cut, in the whole range of float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import numbanorm
from numbanorm import cli
from numbanorm.commands import normalize as normalize_file

Array = NDArray[Any]
CHANNELS = 5


@pytest.fixture(params=[300, 2000, 1 << 20], autouse=True)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows a chunk, more, and all."""
    monkeypatch.setattr(normalize_file, "CHUNK_BYTES", request.param)


def terms(
    x: Array, expected: Array, weight: Any = 1.0, bias: Any = 0.0, channel_axis: int = 1, eps: float = 1e-5, **_: Any
) -> Array:
    """What the error of a result is measured by: its terms, and no less than those of an element that is one deviation off."""
    shape = [-1 if k == channel_axis % x.ndim else 1 for k in range(x.ndim)]
    m = numbanorm.moments(x, tuple(k for k in range(x.ndim) if shape[k] == 1))
    weight, bias, typical = (np.reshape(v, shape) for v in (weight, bias, m.std() * m.rstd(eps)))
    return np.maximum(np.abs(expected - bias) + np.abs(bias), np.abs(weight) * typical)


def check(folder: Path, x: Array, *typed: str, units: float = 4.0, **options: Any) -> None:
    """float64 is within units of 2**-52 of the terms of a result; what is narrower is rounded to the other side at most."""
    source, out = folder / "in.npy", folder / "out.npy"
    np.save(source, x)
    for name in ("weight", "bias"):
        if name in options:
            np.save(folder / f"{name}.npy", options[name])
            typed += (f"--{name}", str(folder / f"{name}.npy"))
    assert cli.main(["normalize", str(source), str(out), "--norm", "batch", "--overwrite", *typed]) == 0
    expected, found, info = numbanorm.batch_norm(x, training=True, **options), np.load(out), np.finfo(x.dtype)
    assert found.dtype == expected.dtype
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    good = ~np.isnan(expected)
    error = np.abs(found.astype(np.longdouble) - expected)[good]
    with np.errstate(invalid="ignore"):  # a constant channel and eps 0
        size = terms(x, expected, **options)[good] if x.dtype == np.float64 else np.abs(expected[good])
    assert (error <= np.maximum(units * info.eps * size, info.smallest_subnormal)).all()


DATA = {
    "three": lambda rng: np.array([[1e200], [-1e200], [3e200]]),
    "squares underflow": lambda rng: 1e-200 * rng.standard_normal((400, CHANNELS)),
    "far": lambda rng: 1e8 + 1e-3 * rng.choice([-1.0, 1.0], (400, CHANNELS)),
    "very far": lambda rng: 1e15 + rng.integers(-4, 5, (400, CHANNELS)) / 8,
    "largest": lambda rng: 1.7e308 * rng.choice([-1.0, 1.0], (400, CHANNELS)),
    "denormal": lambda rng: rng.integers(-(2**20), 2**20, (400, CHANNELS)) * 5e-324,
    "sizes": lambda rng: rng.standard_normal((400, CHANNELS)) * [1.0, 1e200, 1e-200, 1e-310, 1e-5],
    "steps": lambda rng: rng.standard_normal((400, CHANNELS)) * np.geomspace(1e-300, 1e300, 400)[:, None],
    "usual": lambda rng: rng.normal(3, 2, (400, CHANNELS)),
}


@pytest.mark.parametrize("eps", ["0", "1e-5", "1e-300", "1e300"])
@pytest.mark.parametrize("name", list(DATA))
def test_float64(tmp_path: Path, name: str, eps: str, rng: np.random.Generator) -> None:
    check(tmp_path, DATA[name](rng), "--eps", eps, eps=float(eps))


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("name", ["far", "sizes"])
def test_layouts_and_parameters(tmp_path: Path, name: str, axis: int, rng: np.random.Generator) -> None:
    x = DATA[name](rng).reshape(40, 10, CHANNELS)
    x = x if axis == -1 else np.ascontiguousarray(np.moveaxis(x, -1, 1))
    weight, bias = rng.standard_normal((2, CHANNELS))
    check(tmp_path, x, "--channel-axis", str(axis), "--eps", "0", weight=weight, channel_axis=axis, eps=0.0)
    check(tmp_path, x, "--channel-axis", str(axis), "--eps", "0", bias=bias, channel_axis=axis, eps=0.0)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", ">f8"])
@pytest.mark.parametrize("method", ["two_pass", "welford"])
def test_types(tmp_path: Path, dtype: str, method: str, rng: np.random.Generator) -> None:
    x = np.asfortranarray(rng.normal(3, 2, (200, CHANNELS)).astype(dtype))
    units = 4.0 if np.dtype(dtype).itemsize == 8 else 1.0
    check(tmp_path, x, "--method", method, "--exact", units=units, method=method, exact=True)


def test_constant_channels_are_their_bias(tmp_path: Path, rng: np.random.Generator) -> None:
    x, bias = rng.standard_normal((400, CHANNELS)), rng.standard_normal(CHANNELS)
    x[:, 1], x[:, 3] = 0.1, 1e300
    np.save(tmp_path / "in.npy", x)
    np.save(tmp_path / "bias.npy", bias)
    typed = [str(tmp_path / name) for name in ("in.npy", "out.npy")]
    assert cli.main(["normalize", *typed, "--norm", "batch", "--bias", str(tmp_path / "bias.npy")]) == 0
    y = np.load(tmp_path / "out.npy")
    assert (y[:, 1] == bias[1]).all()
    assert (y[:, 3] == bias[3]).all()


def test_nan_and_infinity_spoil_their_channel(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((400, CHANNELS))
    x[3, 0], x[300, 2] = np.nan, np.inf
    check(tmp_path, x)
