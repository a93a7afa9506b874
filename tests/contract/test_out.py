"""`out=`: the same bits in memory of any kind, x's own too, and not a byte beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import cases
import layouts
import numpy as np
import pytest
from cases import DTYPES, FLOAT32, METHODS, Case, call, call_backward
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.typing import NDArray

import numbanorm
import numbanorm.cpu.backend

Array = NDArray[Any]

# both kernel families, statistics computed and given, small enough for one thread and large enough for all
FAMILIES = [
    Case("layer", (5, 49)),
    Case("layer", (3, 4, 7, 5), dims=3),
    Case("layer", (9, 5000)),
    Case("rms", (5, 257)),
    Case("group", (2, 6, 49), groups=2),
    Case("group", (2, 49, 6), groups=2, channel_axis=-1),
    Case("instance", (2, 5, 300)),
    Case("instance", (2, 4, 5, 3), channel_axis=-1),
    Case("instance", (2, 5, 7, 7), training=False),
    Case("batch", (9, 35)),
    Case("batch", (4, 7, 5, 3), channel_axis=-1),
    Case("batch", (3, 4, 5000)),
    Case("batch", (9, 35), training=False),
    Case("batch", (2, 5, 300), training=False),
]
WRITABLE = [name for name in layouts.LAYOUTS if name not in ("read_only", "swapped")]

MODES: list[dict[str, Any]] = [*({"method": method} for method in (None, *METHODS)), {"exact": True}]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.name)
every_layout = pytest.mark.parametrize("layout", WRITABLE)


def root(a: Array) -> Array:
    """The memory that a view is of."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@every_layout
@every_dtype
@every_family
def test_out_of_any_layout(case: Case, dtype: np.dtype[Any], layout: str) -> None:
    a = cases.arguments(case, dtype)
    out = layouts.LAYOUTS[layout](np.zeros(case.shape, dtype))
    around = root(out).tobytes()
    for mode in MODES:
        expected, stats = call(case, a, **mode, return_stats=True)
        y, again = call(case, a, **mode, return_stats=True, out=out)
        assert y is out
        assert same_bits(out, expected)
        assert again.rstd.tobytes() == stats.rstd.tobytes()
        assert (again.mean is None and stats.mean is None) or again.mean.tobytes() == stats.mean.tobytes()
        out[...] = 0
        assert root(out).tobytes() == around, "written beside out"


@every_layout
@every_dtype
@every_family
def test_out_is_x(case: Case, dtype: np.dtype[Any], layout: str) -> None:
    a = cases.arguments(case, dtype)
    for exact in (False, True):
        x = layouts.LAYOUTS[layout](a.x.copy())  # one of the layouts is that of the cached arguments
        assert call(case, replace(a, x=x), out=x, exact=exact) is x
        assert same_bits(x, call(case, a, exact=exact))


@every_layout
@every_dtype
@every_family
def test_dx_of_any_layout(case: Case, dtype: np.dtype[Any], layout: str) -> None:
    """Into memory of its own, into dy and into x; the other gradients are not concerned."""
    a, upstream = cases.arguments(case, dtype), cases.upstream(case, dtype)
    _, stats = call(case, a, return_stats=True)
    place = layouts.LAYOUTS[layout]
    for exact, target in product(cases.MODES, ("out", "dy", "x")):
        expected = call_backward(case, a, upstream, stats, exact=exact)
        x, dy, out = place(a.x.copy()), place(upstream.copy()), place(np.zeros(case.shape, dtype))
        around = root(out).tobytes()
        into = {"out": out, "dy": dy, "x": x}[target]
        found = call_backward(case, replace(a, x=x), dy, stats, exact=exact, out=into)
        assert found[0] is into
        assert all(same_bits(got, g) for got, g in zip(found, expected, strict=True))
        assert target == "x" or same_bits(x, a.x)
        assert target == "dy" or same_bits(dy, upstream)
        out[...] = 0
        assert root(out).tobytes() == around, "written beside out"


@every_layout
@every_family
def test_dx_over_an_array_that_is_both(case: Case, layout: str) -> None:
    a = cases.arguments(case, FLOAT32)
    _, stats = call(case, a, return_stats=True)
    for exact in cases.MODES:
        expected = call_backward(case, a, a.x.copy(), stats, exact=exact)
        x = layouts.LAYOUTS[layout](a.x.copy())
        found = call_backward(case, replace(a, x=x), x, stats, exact=exact, out=x)
        assert found[0] is x
        assert all(same_bits(got, g) for got, g in zip(found, expected, strict=True))


@every_family
def test_out_is_another_view_of_x(case: Case) -> None:
    """Not the same object, but the same elements in the same places."""
    a = cases.arguments(case, FLOAT32)
    x = layouts.strided(a.x)
    out = x[...]
    assert call(case, replace(a, x=x), out=out) is out
    assert same_bits(x, call(case, a))


def test_rows_of_one_are_x_whatever_their_stride() -> None:
    """The stride of an axis of length 1 leads nowhere, and so two views that differ in it are one memory."""
    x = np.arange(4, dtype=np.float32).reshape(4, 1)
    out = x.reshape(1, 4).T
    assert numbanorm.rms_norm(x, 1, out=out) is out
    assert same_bits(x, numbanorm.rms_norm(np.arange(4, dtype=np.float32).reshape(4, 1), 1))


@pytest.fixture
def tiny_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which everything exceeds the cache, so that y is written past it, in lines of 64 bytes."""
    modules = [import_module(f"numbanorm.cpu.schedule.{name}") for name in ("forward", "backward", "machine")]

    def forget() -> None:
        numbanorm.cpu.backend.prepared.cache_clear()

    for module in modules:
        monkeypatch.setattr(module, "cache_bytes", lambda level: 1024)
    forget()
    yield
    forget()


STREAMED = [
    Case("layer", (5, 2049)),
    Case("rms", (40, 3000)),
    Case("instance", (2, 3, 5003)),
    Case("batch", (7, 3, 2100)),
    Case("batch", (3, 4, 2005), training=False),
    Case("batch", (90, 64)),
    Case("batch", (7, 9, 9, 48), channel_axis=-1),
    Case("batch", (60, 36), training=False, channel_axis=-1),
    Case("group", (2, 45, 96), groups=4, channel_axis=-1),
]
SHIFTS = (0, 1, 3, 4, 8, 16, 31)  # elements after the beginning of a line


def room_for(case: Case, dtype: np.dtype[Any], shift: int) -> tuple[Array, Array]:
    """Zeros, and a part of them that can hold a result and lies so many elements after the beginning of a cache line."""
    room = np.zeros(case.size + 128, dtype)
    first = -(room.ctypes.data // room.itemsize) % (64 // room.itemsize) + shift
    return room, room[first : first + case.size].reshape(case.shape)


@every_dtype
@pytest.mark.parametrize("case", STREAMED, ids=lambda c: c.name)
def test_out_past_the_cache(case: Case, dtype: np.dtype[Any], request: pytest.FixtureRequest) -> None:
    """Rows that start anywhere in a line, in memory that starts anywhere in one."""
    a = cases.arguments(case, dtype)
    expected = [call(case, a, exact=exact) for exact in cases.MODES]
    request.getfixturevalue("tiny_cache")
    assert "y is written past the cache" in numbanorm.explain(cases.norm_of(case, a))
    for exact, shift in product(cases.MODES, SHIFTS):
        room, out = room_for(case, dtype, shift)
        assert same_bits(call(case, a, exact=exact, out=out), expected[exact])
        out[...] = 0
        assert not room.view(np.uint8).any(), "written beside out"


@every_dtype
@pytest.mark.parametrize(
    "case",
    [
        *STREAMED,
        Case("batch", (40, 3000)),
        Case("group", (2, 6, 999), groups=2),
        Case("layer", (40, 96)),
        Case("rms", (60, 40)),
    ],
    ids=lambda c: c.name,
)
def test_dx_past_the_cache(case: Case, dtype: np.dtype[Any], request: pytest.FixtureRequest) -> None:
    """As above; dx is dy or x, too, which are read before they are written."""
    a, upstream = cases.arguments(case, dtype), cases.upstream(case, dtype)
    _, stats = call(case, a, return_stats=True)
    expected = [call_backward(case, a, upstream, stats, exact=exact)[0] for exact in cases.MODES]
    request.getfixturevalue("tiny_cache")
    for exact, shift, target in product(cases.MODES, SHIFTS, ("out", "dy", "x")):
        room, out = room_for(case, dtype, shift)
        out[...] = {"out": 0, "dy": upstream, "x": a.x}[target]
        x, dy = out if target == "x" else a.x, out if target == "dy" else upstream
        assert same_bits(call_backward(case, replace(a, x=x), dy, stats, exact=exact, out=out)[0], expected[exact])
        out[...] = 0
        assert not room.view(np.uint8).any(), "written beside out"


# views (x, out) of shape (2, 6) that lie between each other and share no element
INTERLEAVED: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "every second column": lambda r: (r.reshape(2, -1)[:, 0:12:2], r.reshape(2, -1)[:, 1:12:2]),
    "halves of rows": lambda r: (r.reshape(2, -1)[:, :6], r.reshape(2, -1)[:, 6:12]),
    "every second row": lambda r: (r.reshape(-1, 6)[0:4:2], r.reshape(-1, 6)[1:4:2]),
    "rows backwards": lambda r: (r.reshape(-1, 6)[3::-2], r.reshape(-1, 6)[0:4:2]),
    "real and imaginary parts": lambda r: (r[:24].reshape(2, 6, 2)[..., 0], r[:24].reshape(2, 6, 2)[..., 1]),
    "out on both sides of x": lambda r: (r.reshape(3, 2, 6)[1], r.reshape(3, 2, 6)[::2, 0]),
    "x on both sides of out": lambda r: (r.reshape(3, 2, 6)[::2, 0], r.reshape(3, 2, 6)[1]),
}


@pytest.mark.parametrize("views", list(INTERLEAVED))
def test_out_between_the_elements_of_x(views: str, rng: np.random.Generator) -> None:
    x, out = INTERLEAVED[views](rng.normal(size=36).astype(np.float32))
    before = x.tobytes()
    for norm in (lambda v, **o: numbanorm.layer_norm(v, 6, **o), lambda v, **o: numbanorm.batch_norm(v, training=True, **o)):
        expected = norm(x.copy())
        assert norm(x, out=out) is out
        assert x.tobytes() == before
        assert same_bits(out, expected)


# x of 60 elements at room[30:90], and an out of its shape that shares some
OVERLAPPING: dict[str, Callable[[Array], Array]] = {
    "one element further": lambda r: r[31:91].reshape(10, 6),
    "one row further": lambda r: r[36:96].reshape(10, 6),
    "last element only": lambda r: r[89:149].reshape(10, 6),
    "one row earlier": lambda r: r[24:84].reshape(10, 6),
    "rows backwards": lambda r: r[30:90].reshape(10, 6)[::-1],
    "all backwards": lambda r: r[89:29:-1].reshape(10, 6),
    "columns first": lambda r: r[30:90].reshape(6, 10).T,
    "every second element": lambda r: r[30:150:2].reshape(10, 6),
    "bytes apart": lambda r: r.view(np.uint8)[122:362].view(np.float32).reshape(10, 6),
}


@pytest.mark.parametrize("view", list(OVERLAPPING))
def test_out_that_shares_a_part_of_x_is_refused(view: str) -> None:
    room = np.arange(160, dtype=np.float32)
    x, out, before = room[30:90].reshape(10, 6), OVERLAPPING[view](room), room.tobytes()
    assert np.shares_memory(x, out)
    for norm in (lambda: numbanorm.layer_norm(x, 6, out=out), lambda: numbanorm.batch_norm(x, training=True, out=out)):
        with pytest.raises(ValueError, match=r"out must not overlap x.*: got arrays that share memory; pass a copy"):
            norm()
    assert room.tobytes() == before


@pytest.mark.parametrize("view", list(OVERLAPPING))
def test_dx_that_shares_a_part_of_x_or_dy_is_refused(view: str) -> None:
    room = np.arange(160, dtype=np.float32)
    part, out, before = room[30:90].reshape(10, 6), OVERLAPPING[view](room), room.tobytes()
    other, stats = np.ones((10, 6), np.float32), numbanorm.Stats(np.zeros(10), np.ones(10))
    for name, dy, x in (("x", other, part), ("dy", part, other)):
        with pytest.raises(ValueError, match=rf"out must not overlap {name}, unless it is x or dy itself: .*; pass a copy"):
            numbanorm.layer_norm_backward(dy, x, 6, stats, out=out)
    assert room.tobytes() == before


# two elements of each stand in one place
FOLDED: dict[str, Callable[[Array], Array]] = {
    "broadcast rows": lambda r: as_strided(r, (4, 6), (0, 4)),
    "broadcast columns": lambda r: as_strided(r, (4, 6), (4, 0)),
    "sliding window": lambda r: sliding_window_view(r[:9], 6, writeable=True),
    "sliding window with gaps": lambda r: as_strided(r, (4, 6), (8, 8)),
    "rows that overlap by one": lambda r: as_strided(r, (4, 6), (20, 4)),
    "three rows on as two columns": lambda r: as_strided(r, (4, 6), (16, 24)),
}


@pytest.mark.parametrize("view", list(FOLDED))
def test_out_that_shares_memory_with_itself_is_refused(view: str) -> None:
    """Each of its elements would have to be two numbers."""
    room = np.zeros(48, np.float32)
    out = FOLDED[view](room)
    assert (out.shape, out.flags.writeable) == ((4, 6), True)
    with pytest.raises(ValueError, match=r"out must have memory of its own for every element: got .*; write np.empty_like"):
        numbanorm.layer_norm(np.ones((4, 6), np.float32), 6, bias=np.ones(6), out=out)
    assert not room.any()


@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("into", ["file", "x", "array"])
def test_memory_mapped_files(mode: str, into: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """x from a file (read-only, or a private copy on write), the result to another."""
    values = rng.normal(size=(40, 1000)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    x = np.load(tmp_path / "x.npy", mmap_mode=mode)
    assert isinstance(x, np.memmap)
    if into == "x" and mode == "r":
        with pytest.raises(ValueError, match="out must be writable: got a read-only array"):
            numbanorm.layer_norm(x, 1000, out=x)
        return
    file = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, values.shape)
    out = {"file": file, "x": x, "array": np.empty_like(values)}[into]
    assert numbanorm.layer_norm(x, 1000, out=out) is out
    expected = numbanorm.layer_norm(values, 1000)
    assert type(expected) is np.ndarray
    assert out.tobytes() == expected.tobytes()
    if into == "file":
        file.flush()
        assert np.load(tmp_path / "y.npy").tobytes() == expected.tobytes()
    assert np.load(tmp_path / "x.npy").tobytes() == values.tobytes()


@pytest.mark.parametrize("into", ["file", "x", "dy"])
def test_gradients_of_memory_mapped_files(into: str, tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(2, 40, 1000)).astype(np.float32)
    for name, v in zip(("x", "dy"), values, strict=True):
        np.save(tmp_path / f"{name}.npy", v)
    x, dy = (np.load(tmp_path / f"{name}.npy", mmap_mode="r+" if name == into else "r") for name in ("x", "dy"))
    _, stats = numbanorm.layer_norm(values[0], 1000, return_stats=True)
    expected = numbanorm.layer_norm_backward(values[1], values[0], 1000, stats)
    file = np.lib.format.open_memmap(tmp_path / "dx.npy", "w+", np.float32, values.shape[1:])
    out = {"file": file, "x": x, "dy": dy}[into]
    dx, *sums = numbanorm.layer_norm_backward(dy, x, 1000, stats, out=out)
    assert dx is out
    assert isinstance(out, np.memmap)
    assert [type(s) for s in sums] == [np.ndarray] * 2
    assert [g.tobytes() for g in (dx, *sums)] == [g.tobytes() for g in expected]
    out.flush()
    assert np.load(tmp_path / f"{into if into != 'file' else 'dx'}.npy").tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("shape", [(0, 6), (3, 0), (0,)])
def test_empty_dx_is_handed_back(shape: tuple[int, ...]) -> None:
    x, out = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _, stats = numbanorm.layer_norm(x, shape[-1], return_stats=True)
    assert numbanorm.layer_norm_backward(x, x, shape[-1], stats, out=out)[0] is out


@pytest.mark.parametrize("shape", [(0, 6), (3, 0), (0,)])
def test_empty_out_is_handed_back(shape: tuple[int, ...]) -> None:
    out = np.empty(shape, np.float32)
    assert numbanorm.layer_norm(np.empty(shape, np.float32), shape[-1], out=out) is out
