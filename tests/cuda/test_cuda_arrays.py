"""Arrays on a device, whose memory is pretended: what is known of them, and that a call gives what it gives on the host."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import cases
import device_fakes as fakes
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import numbanorm
from numbanorm.cuda.arrays import described as arrays
from numbanorm.cuda.arrays import libraries as kinds
from numbanorm.cuda.arrays.described import DeviceArray
from numbanorm.cuda.arrays.libraries import CUPY, KINDS, NUMBA, NUMPY, TORCH
from numbanorm.spec import checks

Array = NDArray[Any]

ALL = {**KINDS, "numpy": NUMPY}
every_library = pytest.mark.parametrize("library", list(ALL))
on_device = pytest.mark.parametrize("library", list(KINDS))


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)


def put(library: str, a: Array | None) -> Any:
    return None if a is None else fakes.ONTO[library](a.copy())


def options(library: str) -> dict[str, Any]:
    return {"backend": "cuda"} if library == "numpy" else {}


def put_all(library: str, a: cases.Arguments) -> cases.Arguments:
    names = [f.name for f in dataclasses.fields(a)]
    return cases.Arguments(**{name: put(library, getattr(a, name)) for name in names})


def same(found: Any, expected: Any) -> bool:
    """To the bit; None is only None."""
    if expected is None or found is None:
        return expected is found
    found = fakes.back(found)
    return (found.shape, found.dtype, found.tobytes()) == (expected.shape, expected.dtype, expected.tobytes())


SMALL = [case for case in cases.TABLE if case.size < 4000]


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
@every_library
def test_a_call_gives_what_it_gives_on_the_host(library: str, case: cases.Case) -> None:
    """Forward and backward, to the bit, each result an array of x's kind; nothing but what was asked for is copied."""
    dtype = cases.DTYPES[case.size % 4]
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    y, stats = cases.call(case, a, return_stats=True)
    there, kind = put_all(library, a), options(library)
    fakes.CALLS.clear()
    found, found_stats = cases.call(case, there, return_stats=True, **kind)
    assert type(found) is type(there.x)
    assert same(found, y)
    assert all(map(same, found_stats, stats))
    assert all(s is None or type(s) is type(there.x) for s in found_stats)
    gradients = cases.call_backward(case, a, dy, stats)
    theirs = cases.call_backward(case, there, put(library, dy), found_stats, **kind)
    assert len(theirs) == len(gradients)
    assert all(map(same, theirs, gradients))
    assert all(type(g) is type(there.x) for g in theirs)
    if library != "numpy":
        assert fakes.CALLS == []


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
@pytest.mark.parametrize("norm", ["layer", "rms", "batch"])
@every_library
def test_gradients_that_are_not_wanted(library: str, norm: str, needs: tuple[bool, ...]) -> None:
    case = cases.Case(norm, (7, 12))
    a, dy = cases.arguments(case, cases.FLOAT32), cases.upstream(case, cases.FLOAT32)
    stats = cases.call(case, a, return_stats=True)[1]
    there = put_all(library, a)
    found_stats = type(stats)(*(put(library, s) for s in stats))
    found = cases.call_backward(case, there, put(library, dy), found_stats, needs=needs, **options(library))
    assert all(map(same, found, cases.call_backward(case, a, dy, stats, needs=needs)))


@pytest.mark.parametrize("momentum", [0.25, None])
@pytest.mark.parametrize("convention", ["torch", "keras"])
@pytest.mark.parametrize("norm", [numbanorm.batch_norm, numbanorm.instance_norm])
@every_library
def test_running_statistics(library: str, norm: Any, convention: str, momentum: float | None, rng: np.random.Generator) -> None:
    """Updated in place where they lie, the count with them."""
    own = {"training": True} if norm is numbanorm.batch_norm else {}
    rest = {"momentum": momentum, "convention": convention, **own}
    buffers = [np.zeros(3, np.float32), np.ones(3), np.array(4)]
    there = [put(library, b) for b in buffers]
    for _ in range(3):
        x = rng.normal(size=(4, 3, 5)).astype(np.float32)
        norm(x, *buffers[:2], num_batches_tracked=buffers[2], **rest)
        norm(put(library, x), *there[:2], num_batches_tracked=there[2], **rest, **options(library))
    assert buffers[2] == 7
    assert all(map(same, there, buffers))


@pytest.mark.parametrize("library", ["torch", "cupy", "numpy"])
def test_running_statistics_in_strided_memory(library: str, rng: np.random.Generator) -> None:
    x, table = rng.normal(size=(4, 3)).astype(np.float32), np.zeros((3, 2))
    mean, var = np.zeros(3), np.zeros(3)
    numbanorm.batch_norm(x, mean, var, training=True)
    there = fakes.ONTO[library](table)
    numbanorm.batch_norm(put(library, x), *views(there, 2), training=True, **options(library))
    assert np.array_equal(table, np.stack([mean, var], axis=1))


def views(table: Any, n: int) -> list[Any]:
    return [table[:, k] for k in range(n)]


@pytest.mark.parametrize("kind", [np.int32, np.uint8])
def test_counts_of_any_integer_type_are_carried(kind: Any, rng: np.random.Generator) -> None:
    counter = np.array([3], kind)
    numbanorm.batch_norm(rng.normal(size=(4, 3)), training=True, num_batches_tracked=counter, backend="cuda")
    assert (counter[0], counter.dtype) == (4, kind)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4)], ids=str)
@every_library
def test_nothing(library: str, shape: tuple[int, ...]) -> None:
    """Empty arrays, with own statistics and with given ones."""
    x, kind = np.empty(shape, np.float32), options(library)
    numbers = np.arange(1.0, shape[1] + 1), np.arange(2.0, shape[1] + 2)
    for given_, own in ((numbers, False), ((None, None), True)):
        there = [put(library, b) for b in given_]
        for norm, name in ((numbanorm.batch_norm, "training"), (numbanorm.instance_norm, "use_input_stats")):
            y, stats = norm(x, *given_, **{name: own}, return_stats=True)
            found, found_stats = norm(put(library, x), *there, **{name: own}, return_stats=True, **kind)
            assert same(found, y)
            assert all(map(same, found_stats, stats))
    y, stats = numbanorm.layer_norm(x, shape[2:], return_stats=True)
    found_stats = tuple(put(library, s) for s in stats)
    gradients = numbanorm.layer_norm_backward(put(library, x), put(library, x), shape[2:], found_stats, **kind)
    assert all(map(same, gradients, numbanorm.layer_norm_backward(x, x, shape[2:], stats)))


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (1, 2), (0, 1, 2, 3)])
@every_library
def test_moments(library: str, axis: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 4, 5, 2))
    here = numbanorm.moments(x, axis)
    there = numbanorm.moments(put(library, x), axis, **options(library))
    assert there.count == here.count
    assert same(there.mean, here.mean)
    assert same(there.m2, here.m2)


@pytest.mark.parametrize("library", ["torch", "cupy", "numpy"])
def test_moments_of_axes_that_must_be_moved(library: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 4, 5, 2, 3))
    there = numbanorm.moments(put(library, x), (1, 3), **options(library))
    assert same(there.mean, numbanorm.moments(x, (1, 3)).mean)
    with pytest.raises(ValueError, match=r"cannot be moved .*: got shape \(3, 4, 5, 2, 3\); take the moments of a CuPy"):
        numbanorm.moments(put("numba", x), (1, 3))


@every_library
def test_moments_of_nothing(library: str) -> None:
    found = numbanorm.moments(put(library, np.empty((0, 3))), 0, **options(library))
    assert found.count == 0
    assert same(found.mean, np.zeros(3))


OUTS = ["new", "x", "strided", "strided x", "view of x"]


@pytest.mark.parametrize("where", OUTS)
@every_library
def test_out(library: str, where: str, rng: np.random.Generator) -> None:
    """Handed back itself; written in place where it is x, and by a copy where it is not contiguous."""
    values = rng.normal(size=(6, 8)).astype(np.float32)
    x = fakes.ONTO[library](values.copy())
    if "strided" in where:
        room = fakes.ONTO[library](np.full((6, 16), 7.0, np.float32))
        strided = room[:, ::2]
    if where == "strided x":
        fakes.back(strided)[...] = values
        x = strided
    out = {"x": x, "strided x": x, "new": put(library, np.zeros_like(values))}.get(where)
    out = x[:] if where == "view of x" else strided if where == "strided" else out
    if library == "numba" and "strided" in where:
        with pytest.raises(ValueError, match=r"(x|out) must be C-contiguous, .*: got shape \(6, 8\) with strides \(64, 8\); "):
            numbanorm.layer_norm(x, 8, out=out)
        return
    assert numbanorm.layer_norm(x, 8, out=out, **options(library)) is out
    assert same(np.ascontiguousarray(fakes.back(out)), numbanorm.layer_norm(values, 8))
    if "strided" in where:
        assert (fakes.back(room)[:, 1::2] == 7.0).all()


@pytest.mark.parametrize("where", ["x", "dy", "new"])
@every_library
def test_out_of_gradients(library: str, where: str, rng: np.random.Generator) -> None:
    dy, x = rng.normal(size=(2, 6, 8)).astype(np.float32)
    stats = numbanorm.layer_norm(x, 8, return_stats=True)[1]
    there = {"x": put(library, x), "dy": put(library, dy), "new": put(library, np.zeros_like(x))}
    found_stats = tuple(put(library, s) for s in stats)
    found = numbanorm.layer_norm_backward(
        there["dy"], there["x"], 8, found_stats, out=there[where], **options(library)
    )  # fmt: skip
    assert found[0] is there[where]
    assert all(map(same, found, numbanorm.layer_norm_backward(dy, x, 8, stats)))


@pytest.mark.parametrize("library", ["torch", "cupy", "numpy"])
def test_strided_arrays_are_copied(library: str, rng: np.random.Generator) -> None:
    """x, dy, parameters and statistics, whatever they are views of."""
    x, dy = rng.normal(size=(2, 8, 6)).astype(np.float32)
    weight, bias = rng.normal(size=(2, 6))
    y, stats = numbanorm.layer_norm(x, 6, weight, bias, return_stats=True)

    def strided(a: Array) -> Any:
        room = np.full((*a.shape, 2), np.nan, a.dtype)
        room[..., 0] = a
        return fakes.ONTO[library](room)[..., 0]

    found, _ = numbanorm.layer_norm(*map(strided, [x]), 6, *map(strided, [weight, bias]), return_stats=True, **options(library))
    assert same(found, y)
    gradients = numbanorm.layer_norm_backward(
        strided(dy), strided(x), 6, tuple(map(strided, stats)), strided(weight), **options(library)
    )
    assert all(map(same, gradients, numbanorm.layer_norm_backward(dy, x, 6, stats, weight)))


def test_big_endian_arrays_are_carried(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 3)).astype(">f4")
    mean, var = np.zeros(3, ">f8"), np.ones(3, ">f8")
    y = numbanorm.batch_norm(x, mean, var, training=True, backend="cuda")
    expected = np.zeros(3), np.ones(3)
    assert same(y, numbanorm.batch_norm(x.astype("f4"), *expected, training=True))
    assert np.array_equal([mean, var], expected)


# --- what is known of an array ---


def test_tensors_that_require_a_gradient() -> None:
    """They are read as the numbers that they are; out may be one too."""
    x = fakes.Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    assert TORCH.describe(x).address == x.data_ptr()
    assert numbanorm.layer_norm(x, 3, out=x) is x


def test_tensors_with_the_sign_elsewhere() -> None:
    """They are made real for reading, and cannot be written to."""
    x = fakes.Tensor(np.arange(6.0).reshape(2, 3), negative=True)
    assert same(numbanorm.layer_norm(x, 3), numbanorm.layer_norm(-x.a, 3))
    with pytest.raises(ValueError, match="out must be writable"):
        numbanorm.layer_norm(fakes.Tensor(np.ones((2, 3))), 3, out=x)


def test_sparse_tensors_are_refused() -> None:
    x = fakes.Tensor(np.ones((2, 3)))
    x.layout = "sparse"
    with pytest.raises(TypeError, match="tensors must be dense: got sparse; write"):
        numbanorm.layer_norm(x, 3)


def test_bfloat16_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has it, NumPy need not; later NumPy may, and the two names mean one type."""
    values = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    monkeypatch.delitem(arrays.DTYPES, "bfloat16", raising=False)
    monkeypatch.delitem(sys.modules, "ml_dtypes")
    x = fakes.Tensor(values)
    a = TORCH.describe(x)
    assert (a.dtype.name, a.itemsize, a.nbytes, str(a.dtype)) == ("bfloat16", 2, 12, "bfloat16")
    assert a.dtype == values.dtype
    assert values.dtype == a.dtype
    assert same(numbanorm.layer_norm(x, 3), numbanorm.layer_norm(values, 3))
    with pytest.raises(TypeError, match=r"out must have the dtype of x, bfloat16: got float32; write torch\.empty_like"):
        numbanorm.layer_norm(x, 3, out=fakes.Tensor(np.ones((2, 3), np.float32)))


@pytest.mark.parametrize(("kind", "x", "stream"), [
    (TORCH, fakes.Tensor(np.ones(3), device=1), 1001), (CUPY, fakes.CupyArray(np.ones(3), device=1), 2001),
    (NUMBA, fakes.Simulated(np.ones(3)), 0), (NUMPY, np.ones(3), 0),
], ids=["torch", "cupy", "numba", "numpy"])  # fmt: skip
def test_streams(kind: arrays.Kind, x: Any, stream: int) -> None:
    """That on which the caller works, on x's device."""
    assert kind.stream(kind.describe(x)) == stream


@pytest.mark.parametrize(("entry", "handle"), [({}, 0), ({"stream": None}, 0), ({"stream": 1}, 0), ({"stream": 77}, 77)])
def test_streams_of_the_interface(entry: Any, handle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "ordinal", lambda address: 0)
    assert NUMBA.stream(NUMBA.describe(fakes.Foreign(np.ones(3), **entry))) == handle


#: what an array says of its stream, and what results computed on it say
NAMED = [(None, None), (1, 1), (2, 2), (77, 77)]


def streams(*results: Any) -> set[int | None]:
    return {a.__cuda_array_interface__["stream"] for a in results if a is not None}


@pytest.mark.parametrize(("said", "expected"), NAMED)
@pytest.mark.parametrize("maker", ["numba", "other"])
def test_results_say_on_which_stream_they_are_computed(
    maker: str, said: int | None, expected: int | None, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """x's: who reads them on another one must know for what to wait. So do statistics, gradients and results of nothing."""
    fakes.on_numba_hardware(monkeypatch)
    own = 0 if said is None else fakes.Stream(said)

    def array(values: Array) -> Any:
        return fakes.NumbaArray.of(values, own) if maker == "numba" else fakes.Foreign(values, stream=said)

    values, dy = rng.normal(size=(2, 4, 6)).astype(np.float32)
    weight = rng.normal(size=6).astype(np.float32)
    y, stats = numbanorm.layer_norm(array(values), 6, array(weight), return_stats=True)
    gradients = numbanorm.layer_norm_backward(array(dy), array(values), 6, stats, array(weight))
    assert streams(y, *stats, *gradients) == {expected}
    found = numbanorm.moments(array(values), 0)
    nothing, none = numbanorm.batch_norm(array(values[:0]), training=True, return_stats=True)
    assert streams(found.mean, found.m2, nothing, *none) == {expected}
    expected_y, expected_stats = numbanorm.layer_norm(values, 6, weight, return_stats=True)
    expected_gradients = numbanorm.layer_norm_backward(dy, values, 6, expected_stats, weight)
    assert all(map(same, (y, *stats, *gradients), (expected_y, *expected_stats, *expected_gradients)))


def test_the_simulators_results_say_it_too(rng: np.random.Generator) -> None:
    stream = object()
    x = fakes.Simulated(rng.normal(size=(4, 6)), stream)
    y, stats = numbanorm.layer_norm(x, 6, return_stats=True)
    assert all(a.stream is stream for a in (y, *stats))


def test_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything that has it is described by it, and gets Numba's arrays back."""
    monkeypatch.setattr(kinds, "ordinal", lambda address: 3)
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    a = NUMBA.describe(fakes.Foreign(values))
    assert (a.address, a.shape, a.contiguous, a.strides, a.readonly) == (values.ctypes.data, (3, 4), True, None, False)
    assert (a.device, a.dtype, a.nbytes, a.memory) == (3, np.float32, 48, None)
    a = NUMBA.describe(fakes.Foreign(values[:, 1:]))
    assert (a.address, a.contiguous, a.strides) == (values.ctypes.data + 4, False, (16, 4))
    values.flags.writeable = False
    assert NUMBA.describe(fakes.Foreign(values)).readonly
    assert NUMBA.describe(fakes.Foreign(values, data=(None, False), shape=(0,))).address == 0
    with pytest.raises(TypeError, match="must not be masked"):
        NUMBA.describe(fakes.Foreign(values, mask=object()))


def test_the_interface_in_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "ordinal", lambda address: 0)
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    found = numbanorm.layer_norm(fakes.Foreign(values), 4)
    assert isinstance(found, fakes.Simulated)
    assert same(found, numbanorm.layer_norm(values, 4))


def test_numba_hides_the_strides_of_broadcast_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interface says None, as for C order: its arrays are asked for their strides instead."""
    monkeypatch.setattr(kinds, "ordinal", lambda address: 0)
    x = fakes.Foreign(np.ones((3, 4)), strides=None)
    x.gpu_data, x.strides = object(), (0, 8)  # type: ignore[attr-defined]
    a = NUMBA.describe(x)
    assert (a.contiguous, a.strides) == (False, (0, 8))


@on_device
def test_parts(library: str) -> None:
    kind = KINDS[library]
    a = kind.describe(put(library, np.arange(24.0).reshape(4, 6)))
    part = a.part(12, 6, (2, 3))
    assert (part.address, part.shape, part.size, part.owner) == (a.address + 96, (2, 3), 6, a.owner)
    assert same(kind.result(part), np.arange(12.0, 18.0).reshape(2, 3))
    assert same(kind.result(part.part(3, 3)), np.arange(15.0, 18.0))
    assert same(kind.result(part.part(2, 1, ())), np.array(14.0))
    if library == "numba":
        assert np.array_equal(part.memory, np.arange(12.0, 18.0))
    for bad in ((-1, 2), (20, 5), (3, -1)):
        with pytest.raises(ValueError, match="a part must lie within a contiguous array"):
            a.part(*bad)


# --- strides, addresses, overlap: as NumPy sees them ---

AXES = st.tuples(st.integers(0, 4), st.integers(-3, 6))


@given(axes=st.lists(AXES, max_size=4), itemsize=st.sampled_from([2, 4, 8]))
def test_c_order(axes: list[tuple[int, int]], itemsize: int) -> None:
    shape, strides = tuple(n for n, _ in axes), tuple(s * itemsize for _, s in axes)
    view = as_strided(np.empty(0, f"V{itemsize}"), shape, strides)
    assert arrays.c_order(shape, strides, itemsize) is view.flags.c_contiguous
    assert arrays.c_order(shape, None, itemsize)


@given(shape=st.lists(st.integers(0, 4), max_size=4), order=st.randoms())
def test_c_order_of_what_numpy_makes(shape: list[int], order: Any) -> None:
    a = np.empty(shape, np.float32)
    moved = a.transpose(order.sample(range(a.ndim), a.ndim))
    assert arrays.c_order(moved.shape, moved.strides, 4) is moved.flags.c_contiguous


@st.composite
def slices(draw: st.DrawFn) -> tuple[tuple[int, int, int], ...]:
    """Two axes: start, stop and step of a slice of 12."""
    return tuple((draw(st.integers(0, 11)), draw(st.integers(0, 12)), draw(st.sampled_from([1, 2, 3, -1, -2]))) for _ in "ab")


@given(one=slices(), other=slices(), far=st.integers(1 << 40, 1 << 46))
def test_overlap_is_that_of_numpy(one: Any, other: Any, far: int) -> None:
    """For views of one piece of device memory, at an address that no process can read."""
    room = np.empty((12, 12), np.float32)

    def pretended(view: Array) -> DeviceArray:
        address = far + view.ctypes.data - room.ctypes.data
        contiguous = view.flags.c_contiguous
        strides = None if contiguous else view.strides
        return DeviceArray(NUMBA, view, address, view.shape, view.dtype, strides=strides, contiguous=contiguous)

    a, b = (room[slice(*x), slice(*y)] for x, y in (one, other))
    p, q = map(arrays.placed, map(pretended, (a, b)))
    assert checks.shares_memory(p, q) is checks.shares_memory(a, b)
    assert checks.overlaps_itself(p) is checks.overlaps_itself(a)
    if a.size and a.shape == b.shape:
        assert checks.same_memory(p, q) is checks.same_memory(a, b)


@given(start=st.integers(0, 40), size=st.integers(0, 40), offset=st.integers(0, 40), part=st.integers(0, 40))
def test_parts_are_where_they_say(start: int, size: int, offset: int, part: int) -> None:
    room = np.arange(80.0, dtype=np.float32)
    a = NUMBA.describe(fakes.Simulated(room[start : start + size]))
    if offset + part > size:
        with pytest.raises(ValueError, match="a part must lie within"):
            a.part(offset, part)
        return
    p = a.part(offset, part)
    assert p.memory is not None
    assert np.array_equal(p.memory, room[start + offset :][:part])
    if size:  # where nothing is, NumPy's address may be any
        assert p.address == room.ctypes.data + 4 * (start + offset)


BOUNDS = st.tuples(st.integers(0, 30), st.integers(1, 12))


@given(x=BOUNDS, out=BOUNDS, weight=BOUNDS)
def test_out_overlaps_by_addresses(x: Any, out: Any, weight: Any) -> None:
    """Contiguous pieces of one memory: refused where they share bytes, unless out is x itself."""
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch)
        room = np.ones(64, np.float32)
        n = x[1]
        pieces = [fakes.Tensor(room[start : start + n]) for start, _ in (x, out, weight)]
        starts = [start for start, _ in (x, out, weight)]
        meets_x, meets_w = (abs(starts[1] - starts[k]) < n for k in (0, 2))
        if meets_w or (meets_x and starts[0] != starts[1]):
            with pytest.raises(ValueError, match="out must not overlap"):
                numbanorm.layer_norm(pieces[0], n, pieces[2], out=pieces[1])
            assert (room == 1).all()
        else:
            assert numbanorm.layer_norm(pieces[0], n, pieces[2], out=pieces[1]) is pieces[1]


# --- Numba's own simulator ---

SIMULATED = """
import ml_dtypes, numpy as np, numba
import device_fakes as fakes, numbanorm
from numba import cuda
from numbanorm.backends import dispatch
dispatch.cuda_backend = lambda compute: fakes.BACKEND
rng = np.random.default_rng(1)
for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
    x, dy = rng.normal(size=(2, 6, 8)).astype(dtype)
    weight = rng.normal(size=8).astype(np.float32)
    y, stats = numbanorm.layer_norm(x, 8, weight, return_stats=True)
    there = cuda.to_device(x)
    found, found_stats = numbanorm.layer_norm(there, 8, cuda.to_device(weight), return_stats=True)
    assert type(found) is type(there)
    assert found.copy_to_host().tobytes() == y.tobytes()
    grads = numbanorm.layer_norm_backward(dy, x, 8, stats, weight)
    theirs = numbanorm.layer_norm_backward(cuda.to_device(dy), there, 8, found_stats, cuda.to_device(weight))
    assert [g.copy_to_host().tobytes() for g in theirs] == [g.tobytes() for g in grads]
    carried = numbanorm.layer_norm_backward(dy, x, 8, stats, weight, backend="cuda")
    assert [g.tobytes() for g in carried] == [g.tobytes() for g in grads]
    for a in (found, *found_stats, *theirs):
        assert numbanorm.cuda.arrays.libraries.NUMBA.describe(a).memory.size == a.size
    mean, var, count = np.zeros(8), np.ones(8), np.array(0)
    numbanorm.batch_norm(x, mean, var, training=True, num_batches_tracked=count, backend="cuda")
    devices = [cuda.to_device(a) for a in (np.zeros(8), np.ones(8), np.zeros(1, np.int64))]
    numbanorm.batch_norm(there, *devices[:2], training=True, num_batches_tracked=devices[2])
    assert [d.copy_to_host().tobytes() for d in devices] == [mean.tobytes(), var.tobytes(), np.int64(1).tobytes()]
print("done", numba.cuda.implementation if hasattr(numba.cuda, "implementation") else "")
"""


def test_numba_simulator() -> None:
    """Device arrays of the simulator, in a process of its own: the simulator must be chosen before Numba is imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SIMULATED],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done")
