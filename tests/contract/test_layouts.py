"""Where the values lie changes no bit: not for x, not for what comes with it. `out` and buffers have tests of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from cases import DTYPES, FLOAT32, METHODS, Case, call, call_backward
from layouts import LAYOUTS, possible
from numpy.typing import NDArray

import numbanorm

Array = NDArray[Any]

# both families, statistics computed and given; parameters of one axis and of several
FAMILIES = [
    Case("layer", (5, 49)),
    Case("layer", (3, 4, 7, 5), dims=3),
    Case("layer", (9, 5000)),
    Case("rms", (5, 9, 29), dims=2),
    Case("group", (2, 6, 49), groups=2),
    Case("group", (2, 49, 6), groups=2, channel_axis=-1),
    Case("instance", (2, 5, 300)),
    Case("instance", (2, 4, 5, 3), channel_axis=-1),
    Case("instance", (2, 5, 7, 7), training=False),
    Case("batch", (9, 35)),
    Case("batch", (4, 7, 5, 3), channel_axis=-1),
    Case("batch", (3, 4, 5000)),
    Case("batch", (4, 6, 7, 5), channel_axis=2),
    Case("batch", (9, 35), training=False),
    Case("batch", (2, 5, 300), training=False),
]

MODES: list[dict[str, Any]] = [*({"method": method} for method in (None, *METHODS)), {"exact": True}]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def placed(a: Array | None, layout: str) -> Array | None:
    return LAYOUTS[layout](a) if a is not None and possible(layout, a) else a


@every_layout
@every_dtype
@every_family
def test_x_in_any_memory(case: Case, dtype: np.dtype[Any], layout: str) -> None:
    a = cases.arguments(case, dtype)
    x = placed(a.x, layout)
    for mode in MODES:
        expected, stats = call(case, a, **mode, return_stats=True)
        y, own = call(case, replace(a, x=x), **mode, return_stats=True)
        assert y.tobytes() == expected.tobytes()
        assert own.rstd.tobytes() == stats.rstd.tobytes()
        assert y.flags.c_contiguous
        assert y.flags.writeable
        assert not np.shares_memory(x, y)


@every_layout
@every_dtype
@every_family
def test_parameters_in_any_memory(case: Case, dtype: np.dtype[Any], layout: str) -> None:
    """Weight and bias of layer norm may be of several axes, and in any order of them."""
    a = cases.arguments(case, dtype)
    changed = {f.name: placed(getattr(a, f.name), layout) for f in fields(a) if f.name != "x"}
    before = {name: p.tobytes() for name, p in changed.items() if p is not None}
    assert call(case, replace(a, **changed)).tobytes() == call(case, a).tobytes()
    assert {name: p.tobytes() for name, p in changed.items() if p is not None} == before


@every_layout
@every_dtype
@every_family
def test_what_the_gradients_are_made_of_in_any_memory(case: Case, dtype: np.dtype[Any], layout: str) -> None:
    """x and dy in the same memory or not, weight and statistics."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    _, stats = call(case, a, return_stats=True)
    x, moved, weight = placed(a.x, layout), placed(dy, layout), placed(a.weight, layout)
    read = [v for v in (x, moved, weight) if v is not None]
    before = [v.tobytes() for v in read]
    of_stats = numbanorm.Stats(*(placed(s, layout) for s in stats))
    different = (
        (replace(a, x=x), moved, stats),
        (replace(a, x=x), dy, stats),
        (a, moved, stats),
        (replace(a, weight=weight), dy, of_stats),
    )
    for exact in cases.MODES:
        expected = [g.tobytes() for g in call_backward(case, a, dy, stats, exact=exact)]
        for b, upstream, given in different:
            found = call_backward(case, b, upstream, given, exact=exact)
            assert [g.tobytes() for g in found] == expected
            assert all(g.flags.c_contiguous and g.flags.writeable for g in found)
            assert not any(np.shares_memory(g, v) for g in found for v in read)
    assert [v.tobytes() for v in read] == before


@every_family
def test_dy_that_repeats_one_number(case: Case) -> None:
    """The gradient of a plain sum."""
    a = cases.arguments(case, FLOAT32)
    _, stats = call(case, a, return_stats=True)
    one = np.broadcast_to(np.float32(0.75), case.shape)
    found, expected = call_backward(case, a, one, stats), call_backward(case, a, one.copy(), stats)
    assert [g.tobytes() for g in found] == [g.tobytes() for g in expected]


@every_family
def test_parameters_that_repeat_one_number(case: Case) -> None:
    """A broadcast view has no memory for each channel, and is only read."""
    a = cases.arguments(case, FLOAT32)
    names = [f.name for f in fields(a) if f.name != "x" and getattr(a, f.name) is not None]
    views = {name: np.broadcast_to(np.float32(0.75), case.parameter_shape) for name in names}
    copies = {name: view.copy() for name, view in views.items()}
    assert call(case, replace(a, **views)).tobytes() == call(case, replace(a, **copies)).tobytes()


def test_x_that_repeats_one_row(rng: np.random.Generator) -> None:
    row = rng.standard_normal(300).astype(np.float32)
    x = np.broadcast_to(row, (7, 300))
    assert numbanorm.layer_norm(x, 300).tobytes() == numbanorm.layer_norm(x.copy(), 300).tobytes()
    assert not numbanorm.batch_norm(x, training=True).any()  # every column is constant


@pytest.mark.parametrize("order", ["C", "F"])
def test_axes_of_length_one(order: Any, rng: np.random.Generator) -> None:
    """Such an axis may carry any stride, and both orders may call the array their own."""
    for shape in [(1, 6, 1, 1), (2, 6, 1, 5), (4, 1, 7, 1), (1, 1, 1, 9), (3, 6, 4, 1)]:
        x = rng.standard_normal(shape).astype(np.float32)
        again = x.copy(order=order)
        for norm in (
            lambda v: numbanorm.layer_norm(v, v.shape[1:]),
            lambda v: numbanorm.group_norm(v, 1),
            lambda v: numbanorm.rms_norm(v, v.shape[2:]),
        ):
            assert norm(again).tobytes() == norm(x).tobytes()


class Tagged(np.ndarray[Any, Any]):
    """An array class of somebody else's."""


@pytest.mark.parametrize("kind", [Tagged, np.recarray, np.memmap])
def test_subclasses_are_read_as_arrays(kind: type, tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.standard_normal((6, 5)).astype(np.float32)
    x: Array
    if kind is np.memmap:
        values.tofile(tmp_path / "x.bin")
        x = np.memmap(tmp_path / "x.bin", np.float32, "r", shape=(6, 5))
    else:
        x = values.view(kind)
    assert isinstance(x, kind)
    y = numbanorm.batch_norm(x, training=True)
    assert type(y) is np.ndarray
    assert y.tobytes() == numbanorm.batch_norm(values, training=True).tobytes()
    stats = numbanorm.Stats(np.zeros(5), np.ones(5))
    found, expected = (numbanorm.batch_norm_backward(v, v, stats) for v in (x, values))
    assert [type(g) for g in found] == [np.ndarray] * 3
    assert [g.tobytes() for g in found] == [g.tobytes() for g in expected]


# whatever NumPy does to an array's shape without moving it
VIEWS: dict[str, Callable[[Array], Array]] = {
    "transposed": lambda x: x.transpose(0, 2, 1),
    "all axes turned": lambda x: x.T,
    "every third": lambda x: x[::3],
    "a window": lambda x: x[2:7, 1:5, 3:11],
    "backwards": lambda x: x[:, ::-1],
    "axes merged": lambda x: x.reshape(8, -1),
    "an axis more": lambda x: x[:, :, None],
    "picked": lambda x: x[[1, 5, 2]],
}


@every_dtype
@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
    x = VIEWS[view](rng.normal(1.5, 2.0, (8, 6, 12)).astype(dtype))
    plain = np.array(x, order="C")
    assert numbanorm.layer_norm(x, x.shape[-1]).tobytes() == numbanorm.layer_norm(plain, x.shape[-1]).tobytes()
    for axis in range(x.ndim):
        y = numbanorm.batch_norm(x, training=True, channel_axis=axis)
        assert y.tobytes() == numbanorm.batch_norm(plain, training=True, channel_axis=axis).tobytes()
