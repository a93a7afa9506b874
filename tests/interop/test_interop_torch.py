"""`numbanorm.interop.torch`: results and gradients are those of the functions for arrays, where torch's would lie in memory."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_norms import (
    CHANNELS,
    CLOSE,
    DTYPES,
    NORMS,
    SHAPE,
    Norm,
    arguments,
    array,
    every_dtype,
    every_norm,
    ours,
    run,
    same,
    tensor,
    theirs,
    torch,
)

import numbanorm
from numbanorm.interop.torch import operators

ONES = torch.ones(2, 6, 4)


@every_dtype
@every_norm
def test_bits_are_those_of_the_functions_for_arrays(norm: Norm, dtype: str, rng: np.random.Generator) -> None:
    dy, arrays = arguments(norm, dtype, rng)
    got = run(norm, ours, tensor(dy), [tensor(a) for a in arrays])
    y, stats = norm.forward(numbanorm, *arrays, return_stats=True)  # updates the running statistics among the arrays
    gradients = [g for g in norm.backward(dy, arrays[0], stats, arrays[1]) if g is not None]
    for a, expected in zip(got, [y, *gradients, *arrays[3:]], strict=True):
        assert same(a, expected)


@pytest.mark.parametrize("dtype", list(CLOSE))
@every_norm
def test_results_are_close_to_those_of_torch(norm: Norm, dtype: str, rng: np.random.Generator) -> None:
    dy, arrays = arguments(norm, dtype, rng)
    t = [tensor(a) for a in arrays]
    for a, expected in zip(run(norm, ours, tensor(dy), t), run(norm, theirs, tensor(dy), t), strict=True):
        assert a.dtype == expected.dtype
        np.testing.assert_allclose(a.numpy(), expected.numpy(), **CLOSE[dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_norm
def test_half_types_are_close_to_torch_in_float64(norm: Norm, dtype: str, rng: np.random.Generator) -> None:
    """Not to torch in these types, which rounds on the way. Half a unit is eps / 2 (eps at most, below a power of two)."""
    dy, arrays = arguments(norm, dtype, rng)
    got = run(norm, ours, tensor(dy), [tensor(a) for a in arrays])
    wide = run(norm, theirs, tensor(dy).double(), [tensor(a).double() for a in arrays])
    assert [t.dtype for t in got[:2]] == [getattr(torch, dtype)] * 2
    terms = np.abs(dy.astype(np.float64)).sum()  # of dweight and dbias, float32 sums, which may lose 4 * 2**-24 of them
    for k, (a, expected) in enumerate(zip(got, wide, strict=True)):
        eps, lost = torch.finfo(a.dtype).eps, 4 * 2.0**-24 * terms if k > 1 else 0.0
        np.testing.assert_allclose(a.double().numpy(), expected.numpy(), rtol=eps, atol=1e-6 + eps / 64 + lost)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_default_eps_of_rms_norm_is_that_of_torch(dtype: str) -> None:
    """On data so small that eps rules the root: for half types it is float32's."""
    x = torch.full((1, 8), 2.0**-12, dtype=getattr(torch, dtype))
    y = ours.rms_norm(x, (8,)).double()
    expected = x.double() / torch.sqrt(x.double() ** 2 + torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps)
    torch.testing.assert_close(y, expected, rtol=torch.finfo(x.dtype).eps, atol=0)  # one rounding
    torch.testing.assert_close(y, theirs.rms_norm(x, (8,)).double(), rtol=4 * torch.finfo(x.dtype).eps, atol=0)  # torch: some


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"])
def test_signatures_are_those_of_torch(name: str) -> None:
    """And `exact` and `where`, by name; and `weight_offset` where elements have weights of their own."""
    a, b = (list(inspect.signature(getattr(f, name)).parameters.values()) for f in (ours, theirs))
    if name in ("layer_norm", "rms_norm"):
        offset = a.pop()
        assert (offset.name, offset.default, offset.kind) == ("weight_offset", 0.0, offset.KEYWORD_ONLY)
    *a, exact, where = a
    assert (exact.name, exact.default, exact.kind) == ("exact", False, exact.KEYWORD_ONLY)
    assert (where.name, where.default, where.kind) == ("where", None, where.KEYWORD_ONLY)
    assert [(p.name, p.default, p.kind) for p in a] == [(p.name, p.default, p.kind) for p in b]


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float16"), ("bfloat16", "float16")], ids="-".join)
def test_any_mix_of_dtypes(dtypes: tuple[str, str], rng: np.random.Generator) -> None:
    """torch refuses these; a gradient has the dtype of what it is the gradient of."""
    dy, arrays = arguments(NORMS["batch"], dtypes[0], rng)
    t = [tensor(a.astype(DTYPES[k])) for a, k in zip(arrays, (dtypes[0], *dtypes[1:] * 4), strict=True)]
    got = run(NORMS["batch"], ours, tensor(dy), t)
    assert [str(g.dtype)[6:] for g in got] == [dtypes[0], dtypes[0], *dtypes[1:] * 4]


def test_gradient_of_a_bias_without_weight_has_its_own_dtype() -> None:
    x, bias = torch.ones(300, 2, 3, dtype=torch.bfloat16), torch.zeros(2, requires_grad=True)
    ours.instance_norm(x, bias=bias).sum().backward()
    assert bias.grad.dtype == torch.float32
    assert bias.grad.tolist() == [900.0, 900.0]  # bfloat16 has 896 and 904


# memory


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Addresses of x and out (or dy, x, out), and `needs`, of every call of batch, group, instance and layer norm."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(operators, "normalized_at", lambda *_: None)  # test_interop_torch_addresses.py has those by addresses

    def watch(function: str, arrays_of: Any) -> None:
        original = getattr(operators, function)

        def spy(*args: Any) -> Any:
            arrays, needs = arrays_of(*args)
            assert all(a is None or a.flags.c_contiguous for a in arrays)
            calls.append((*(a if a is None else a.__array_interface__["data"][0] for a in arrays), needs))
            return original(*args)

        monkeypatch.setattr(operators, function, spy)

    watch("forward", lambda kind, x, which, affine, how, running, where: ((x, how[2]), None))
    watch("backward", lambda kind, dy, x, which, stats, weight, how, own: ((dy, x, how[2]), how[0]))
    return calls


LAYOUTS = {"contiguous": (torch.contiguous_format, SHAPE), "channels_last": (torch.channels_last, SHAPE)}
LAYOUTS["channels_last_3d"] = (torch.channels_last_3d, (2, 6, 3, 2, 4))


@every_dtype
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("name", list(CHANNELS))
def test_nothing_is_copied(name: str, layout: str, dtype: str, seen: list[Any], rng: np.random.Generator) -> None:
    """x, dy and their results are read and written where they lie, with x's strides: torch's, but for instance norm."""
    norm, (memory_format, shape) = NORMS[name], LAYOUTS[layout]
    dy, arrays = arguments(norm, dtype, rng, shape)
    plain = run(norm, ours, tensor(dy), [tensor(a) for a in arrays])
    x, dy_t = (tensor(a).contiguous(memory_format=memory_format) for a in (arrays[0], dy))
    seen.clear()
    t = [x.requires_grad_(), *map(tensor, arrays[1:])]
    y = norm.forward(ours, *t)
    (dx,) = torch.autograd.grad(y, x, dy_t)
    assert seen[0][:2] == (x.data_ptr(), y.data_ptr())
    assert seen[1][0] == dy_t.data_ptr()
    assert seen[1][2] == dx.data_ptr()
    assert seen[1][1] == (dy_t if name.endswith("given") else x).data_ptr()  # what is not read is not kept
    assert y.stride() == dx.stride() == x.stride()
    if not name.startswith("instance"):
        assert norm.forward(theirs, *t).stride() == x.stride()
    for a, b in zip((y, dx), plain, strict=False):
        eps = torch.finfo(a.dtype).eps  # the order of the sums follows the layout: one rounding may go the other way
        torch.testing.assert_close(a, b, rtol=8 * eps, atol=8 * eps)


@every_dtype
@pytest.mark.parametrize("name", list(CHANNELS))
def test_channels_last_has_the_bits_of_arrays_with_channels_last(name: str, dtype: str, rng: np.random.Generator) -> None:
    """Results, gradients and running statistics are those of the functions for arrays with channel_axis=-1."""
    norm, (dy, arrays) = CHANNELS[name], arguments(CHANNELS[name], dtype, rng)
    t = [tensor(a) for a in arrays]
    t[0], dy_t = (a.contiguous(memory_format=torch.channels_last) for a in (t[0], tensor(dy)))
    leaves = [a.requires_grad_() for a in t[:3]]
    y = norm.forward(ours, *t)
    got = [y, *torch.autograd.grad(y, leaves, dy_t)]
    x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (arrays[0], dy))
    y_, stats = norm.forward(numbanorm, x, *arrays[1:], channel_axis=-1, return_stats=True)
    gradients = norm.backward(dy, x, stats, arrays[1], channel_axis=-1)
    expected = [*(np.moveaxis(a, -1, 1) for a in (y_, gradients[0])), *gradients[1:], *arrays[3:]]
    for a, b in zip([*got, *t[3:]], expected, strict=True):
        assert same(a, b)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    assert got[1].is_contiguous(memory_format=torch.channels_last)


@every_norm
def test_other_layouts_are_copied(norm: Norm, rng: np.random.Generator) -> None:
    dy, arrays = arguments(norm, "float32", rng)
    t = [tensor(a) for a in arrays]
    expected = run(norm, ours, tensor(dy), t)
    room = torch.full((8, 6, 3, 10), torch.nan)
    room[::2, ..., ::2] = t[0]
    views = {
        "transposed": t[0].transpose(2, 3).contiguous().transpose(2, 3),
        "strided": room[::2, ..., ::2],
        "channels_last": t[0].contiguous(memory_format=torch.channels_last),
    }
    for name, view in views.items():
        leaves = [view.detach(), *(p.clone() for p in t[1:])]
        y = norm.forward(ours, leaves[0].requires_grad_(), *leaves[1:])
        (dx,) = torch.autograd.grad(y, leaves[0], tensor(dy).transpose(0, 1).contiguous().transpose(0, 1))
        assert torch.equal(y, expected[0])
        # channels last is no copy: float32 sums of eight terms are of others, which is a unit or two of dx's terms
        close = 8 * torch.finfo(dx.dtype).eps if name == "channels_last" else 0.0
        torch.testing.assert_close(dx, expected[1], rtol=close, atol=close)


@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False), (False, True, False), (False, False, True)])
def test_only_what_is_wanted_is_computed_and_kept(needs: tuple[bool, ...], seen: list[Any]) -> None:
    kept: list[int] = []
    leaves = [
        t.requires_grad_(n) for t, n in zip((ONES.cumsum(2)[..., 1].clone(), torch.ones(6), torch.zeros(6)), needs, strict=True)
    ]

    def pack(t: Any) -> Any:
        kept.append(t.data_ptr())
        return t

    for training in (True, False):
        given, given_to_torch = ((torch.zeros(6), torch.ones(6)) for _ in range(2))
        expected = theirs.batch_norm(leaves[0], *given_to_torch, *leaves[1:], training).sum()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            kept.clear()
            y = ours.batch_norm(leaves[0], *given, *leaves[1:], training)
        assert (leaves[0].data_ptr() in kept) == (needs[1] or (needs[0] and training))
        wanted = [t for t, n in zip(leaves, needs, strict=True) if n]
        got = torch.autograd.grad(y.sum(), wanted)
        assert seen[-1][-1] == needs
        for a, b in zip(got, torch.autograd.grad(expected, wanted), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # torch adds float32 in float32


def test_nothing_is_kept_without_gradients() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    with torch.no_grad():
        assert ours.layer_norm(x, (6,)).grad_fn is None
    with torch.inference_mode():
        layer = ours.BatchNorm1d(6)
        assert same(layer.eval()(x), numbanorm.batch_norm(array(x), np.zeros(6), np.ones(6)))


# errors and limits

WRONG: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "array": (lambda f: f.layer_norm(np.ones((2, 3)), (3,)), TypeError, "input must be a tensor: got ndarray"),
    "None": (lambda f: f.rms_norm(None, (3,)), TypeError, "input must be a tensor: got NoneType"),
    "integers": (lambda f: f.layer_norm(torch.ones(2, 3, dtype=torch.int64), (3,)), TypeError, r"write input\.float\(\)"),
    "sparse": (lambda f: f.layer_norm(torch.eye(3).to_sparse(), (3,)), TypeError, r"write input\.to_dense\(\)"),
    "meta": (lambda f: f.layer_norm(torch.ones(2, 3), (3,), torch.ones(3, device="meta")), TypeError, "weight must be on"),
    "bias": (lambda f: f.group_norm(ONES, 3, ONES[0, :, 0], ONES[0, :, 0].double()), TypeError, "bias must have the dtype"),
    "shape": (lambda f: f.layer_norm(ONES, (2,)), ValueError, "normalized_shape must be the last axes"),
    "groups": (lambda f: f.group_norm(ONES, 4), ValueError, "the divisors are 1, 2, 3, 6"),
    "weight": (lambda f: f.group_norm(ONES, 3, torch.ones(3)), ValueError, "weight must have shape"),
    "one value": (lambda f: f.batch_norm(ONES[:1, :, 0], None, None, training=True), ValueError, "more than one value"),
    "one place": (lambda f: f.instance_norm(ONES[:, :, :1]), ValueError, "more than one value"),
    "one group": (lambda f: f.group_norm(ONES[:1, :, :1], 6), ValueError, "more than one value"),
    "no statistics": (lambda f: f.batch_norm(ONES, None, None), ValueError, "must be given to normalize"),
    "statistics": (lambda f: f.batch_norm(ONES, torch.ones(4), torch.ones(4)), ValueError, "running_mean must have"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_refuses_what_torch_refuses(wrong: str) -> None:
    """With ValueError and TypeError where torch has them; its RuntimeError and NotImplementedError are one of the two."""
    call, kind, message = WRONG[wrong]
    with pytest.raises(kind, match=message):
        call(ours)
    with pytest.raises((kind, RuntimeError)):  # NotImplementedError is one
        call(theirs)


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_refuses_other_devices(device: str) -> None:
    from torch._subclasses import FakeTensorMode  # tensors without a device to hold them

    with FakeTensorMode(), pytest.raises(TypeError, match=rf"got {device}:0; write input\.cpu\(\)"):
        ours.layer_norm(torch.ones(2, 3, device=device), (3,))


@pytest.mark.parametrize("shape", [(0, 6, 4), (2, 6, 0)], ids=str)
@pytest.mark.parametrize("name", list(CHANNELS))
def test_empty_tensors(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Nothing in, nothing out; running statistics stay, gradients of parameters are 0."""
    dy, arrays = arguments(CHANNELS[name], "float32", rng, shape)
    t = [tensor(a) for a in arrays]
    got = run(CHANNELS[name], ours, tensor(dy), t)
    assert [g.shape for g in got] == [shape, shape, *[(6,)] * 4]
    assert [float(g.abs().sum()) for g in got[2:4]] == [0.0, 0.0]
    assert all(map(same, got[4:], t[3:]))
    if name.startswith("batch"):  # torch's group norm has dweight nan, its instance norm fails without samples
        assert all(map(same, got, run(CHANNELS[name], theirs, tensor(dy), t)))


def test_one_sample_with_given_statistics() -> None:
    """They are one row, and need no copy to be each sample's: a read-only view, which torch warns of."""
    ones = torch.ones(6)
    assert ours.instance_norm(ONES[:1], ones, ones, use_input_stats=False).abs().sum() == 0


def test_bfloat16_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    monkeypatch.setattr(operators, "normalized_at", lambda *_: None)  # NumPy knows the type here: it was imported before
    with pytest.raises(ImportError, match=r"pip install 'numbanorm\[bfloat16\]'"):
        ours.layer_norm(torch.ones(2, 3, dtype=torch.bfloat16), (3,))
    assert ours.layer_norm(torch.ones(2, 3, dtype=torch.float16), (3,)).tolist() == [[0.0] * 3] * 2


def test_nothing_else_imports_torch() -> None:
    package = Path(numbanorm.__file__).parent
    files = [
        f.relative_to(package) for f in package.rglob("*.py") if re.search(r"^\s*(import|from) torch\b", f.read_text(), re.M)
    ]
    assert {f.parts[0] for f in files} == {"bench", "interop"}
