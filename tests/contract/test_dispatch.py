"""Which backend a call goes to, and what is said where it cannot go."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cases
import device_fakes as fakes
import ml_dtypes
import numpy as np
import pytest

import numbanorm
from numbanorm.backends import dispatch
from numbanorm.spec import checks

N, C = 4, 6
UNCACHED = dispatch.cuda_backend.__wrapped__
on_device = pytest.mark.parametrize("library", ["torch", "cupy", "numba"])


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch)


def good() -> dict[str, Any]:
    """Arguments of batch norm that are all updated or written."""
    return {
        "x": np.ones((N, C), np.float32), "running_mean": np.zeros(C), "running_var": np.ones(C), "weight": np.ones(C),
        "bias": np.ones(C), "num_batches_tracked": np.array([3]), "out": np.ones((N, C), np.float32),
    }  # fmt: skip


def good_backward() -> dict[str, Any]:
    x = np.ones((N, C), np.float32)
    return {"dy": x.copy(), "x": x, "mean": np.ones(C), "rstd": np.ones(C), "weight": np.ones(C), "out": x.copy()}


def call(a: dict[str, Any], **options: Any) -> Any:
    if "dy" not in a:
        return numbanorm.batch_norm(**a, training=True, **options)
    rest = {k: v for k, v in a.items() if k not in ("mean", "rstd")}
    return numbanorm.batch_norm_backward(**rest, stats=(a["mean"], a["rstd"]), **options)


def put(library: str, a: dict[str, Any]) -> dict[str, Any]:
    return {name: fakes.ONTO[library](v) for name, v in a.items()}


FORWARD = [(good, name) for name in good() if name != "x"]
BACKWARD = [(good_backward, name) for name in good_backward() if name != "x"]
every_other = pytest.mark.parametrize(
    ("make", "name"), FORWARD + BACKWARD, ids=[f"{make.__name__}-{name}" for make, name in FORWARD + BACKWARD]
)


@on_device
@every_other
@pytest.mark.usefixtures("device")
def test_one_argument_in_host_memory(library: str, make: Any, name: str) -> None:
    a = put(library, make())
    a[name] = make()[name]
    where = rf"{name} must be where x is, an array of {library} on CUDA device 0"
    with pytest.raises(TypeError, match=rf"{where}: got ndarray in host memory; write .*{name}.*, or bring x to it"):
        call(a)


@every_other
@pytest.mark.usefixtures("device")
def test_one_argument_on_the_device(make: Any, name: str) -> None:
    a = make()
    a[name] = fakes.Tensor(a[name])
    with pytest.raises(TypeError, match=rf"{name} must .*: got .*Tensor"):
        call(a)
    with pytest.raises(TypeError, match=rf"{name} must .*: got .*Tensor"):
        call(a, backend="cuda")


@every_other
@pytest.mark.usefixtures("device")
def test_one_argument_on_another_device(make: Any, name: str) -> None:
    a = put("torch", make())
    a[name] = fakes.Tensor(make()[name], device=1)
    with pytest.raises(TypeError, match=rf"{name} must be where x is, .* on CUDA device 0: got Tensor .*on CUDA device 1; "):
        call(a)


@every_other
@pytest.mark.usefixtures("device")
def test_one_argument_of_another_library(make: Any, name: str) -> None:
    """Its library may work on another stream."""
    a = put("torch", make())
    a[name] = fakes.CupyArray(make()[name])
    with pytest.raises(TypeError, match=rf"{name} must be where x is, an array of torch .*: got CupyArray of cupy"):
        call(a)


@pytest.mark.parametrize("value", [[1.0] * C, 1.0, "weight"])
@pytest.mark.usefixtures("device")
def test_no_array_at_all(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"weight must be where x is, .*: got {type(value).__name__}; write torch.as_tensor"):
        numbanorm.layer_norm(fakes.Tensor(np.ones((N, C))), C, value)


@pytest.mark.usefixtures("device")
def test_tensors_on_the_cpu() -> None:
    x = fakes.Tensor(np.ones((N, C)), device=None)
    with pytest.raises(TypeError, match=r"x must be a NumPy array: got Tensor; .*x\.numpy\(\), or x\.cuda\(\)"):
        numbanorm.layer_norm(x, C)
    with pytest.raises(TypeError, match=r"weight must be where x is, .*: got Tensor in host memory"):
        numbanorm.layer_norm(fakes.Tensor(np.ones((N, C))), C, fakes.Tensor(np.ones(C), device=None))


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "weight shape": ({"weight": np.ones(C + 1)}, ValueError, r"weight must have shape \(6,\): got \(7,\)"),
    "weight integers": ({"weight": np.ones(C, int)}, TypeError, r"weight must hold float16, .*: got int64; write weight"),
    "x integers": ({"x": np.ones((N, C), int)}, TypeError, r"x must hold float16, .*: got int64; write x"),
    "running shape": ({"running_mean": np.ones(C - 1)}, ValueError, r"running_mean must have shape \(6,\): got \(5,\)"),
    "counter of two": ({"num_batches_tracked": np.array([1, 2])}, TypeError, "num_batches_tracked must be an int.*one element"),
    "counter float": ({"num_batches_tracked": np.ones(1)}, TypeError, "num_batches_tracked must be an int.*one element"),
    "out shape": ({"out": np.ones((C, N), np.float32)}, ValueError, r"out must have the shape of x, \(4, 6\): got \(6, 4\)"),
    "out dtype": ({"out": np.ones((N, C))}, TypeError, "out must have the dtype of x, float32: got float64; write .*_like"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("library", ["torch", "cupy", "numba", "numpy"])
@pytest.mark.usefixtures("device")
def test_the_rules_are_those_of_numpy(library: str, wrong: str) -> None:
    change, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        call(put(library, good() | change), **({"backend": "cuda"} if library == "numpy" else {}))


@pytest.mark.parametrize("name", ["running_mean", "running_var", "num_batches_tracked", "out"])
@pytest.mark.usefixtures("device")
def test_read_only_arrays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a = good()
    a[name].flags.writeable = False
    for arguments, options in ((put("numba", a), {}), (a, {"backend": "cuda"})):
        with pytest.raises(ValueError, match=rf"{name} must be writable.*: got a read-only array; "):
            call(arguments, **options)


@pytest.mark.parametrize("library", ["torch", "cupy", "numba", "numpy"])
@pytest.mark.usefixtures("device")
def test_what_is_updated_is_apart(library: str) -> None:
    room = np.ones(C + 2)
    a = put(library, good() | {"running_mean": room[:C], "running_var": room[2:]})
    with pytest.raises(ValueError, match="running_mean must not share memory with running_var, for it is updated"):
        call(a, **({"backend": "cuda"} if library == "numpy" else {}))
    assert (room == 1).all()


@on_device
@pytest.mark.parametrize("name", ["mean", "rstd"])
@pytest.mark.usefixtures("device")
def test_statistics_are_float64(library: str, name: str) -> None:
    a = good_backward()
    a[name] = a[name].astype(np.float32)
    with pytest.raises(TypeError, match=f"{name} must hold float64: got float32; pass the stats of the forward call"):
        call(put(library, a))
    assert call(a, backend="cuda")[0] is a["out"]


@pytest.mark.usefixtures("device")
def test_broadcast_arrays() -> None:
    a = put("torch", good())
    with pytest.raises(ValueError, match=r"running_mean must have memory for every channel: .*; pass running_mean\.clone"):
        call(a | {"running_mean": fakes.Tensor(np.lib.stride_tricks.as_strided(np.ones(1), (C,), (0,)))})
    with pytest.raises(ValueError, match=r"out must have memory of its own for every element: .*; write torch\.empty_like"):
        call(a | {"out": fakes.Tensor(np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (N, C), (0, 0)))})


# --- the choice ---


@on_device
@pytest.mark.usefixtures("device")
def test_the_cpu_is_no_place_for_device_arrays(library: str) -> None:
    with pytest.raises(TypeError, match=r"x must be in host memory for backend='cpu': got \w+ on a CUDA device; copy it"):
        numbanorm.layer_norm(fakes.ONTO[library](np.ones((N, C))), C, backend="cpu")
    with pytest.raises(TypeError, match=r"x must be in host memory for backend='cpu'"):
        numbanorm.moments(fakes.ONTO[library](np.ones((N, C))), backend="cpu")


@pytest.mark.parametrize("backend", ["gpu", "CUDA", "", 0, np.ones(2), ["cuda"]])
@pytest.mark.parametrize("library", ["numpy", "cupy"])
@pytest.mark.usefixtures("device")
def test_backends_that_there_are_not(library: str, backend: Any) -> None:
    with pytest.raises(ValueError, match=r"backend must be one of 'cpu' or None, or 'cuda' .*: got .*; leave it out"):
        numbanorm.layer_norm(fakes.ONTO[library](np.ones((N, C))), C, backend=backend)


@pytest.mark.parametrize(("library", "backend"), [("torch", None), ("torch", "cuda"), ("numba", None), ("numpy", "cuda")])
@pytest.mark.usefixtures("device")
def test_explain(library: str, backend: str | None) -> None:
    """The device's backend answers; nothing is copied, computed or changed."""
    a = put(library, good())
    before = [fakes.back(v).tobytes() for v in a.values()]
    fakes.CALLS.clear()
    told = numbanorm.explain(numbanorm.batch_norm, **a, training=True, backend=backend)
    assert told == f"cuda, {library}, aligned {fakes.back(a['x']).ctypes.data % 16 == 0 or library == 'numpy'}"
    backward = put(library, good_backward())
    stats = backward.pop("mean"), backward.pop("rstd")
    told = numbanorm.explain(numbanorm.batch_norm_backward, **backward, stats=stats, backend=backend)
    assert told.startswith(f"cuda backward, {library}")
    assert [fakes.back(v).tobytes() for v in a.values()] == before
    assert fakes.CALLS == []


@pytest.mark.usefixtures("device")
def test_explain_of_a_copy_is_aligned() -> None:
    x = fakes.Tensor(np.ones((N, 2 * C), np.float32)[:, 1::2])
    assert "aligned True" in numbanorm.explain(numbanorm.layer_norm, x, C)


@pytest.mark.usefixtures("device")
def test_explain_refuses_moments() -> None:
    with pytest.raises(TypeError, match="explain wants one of the norms: got moments"):
        numbanorm.explain(numbanorm.moments, fakes.Tensor(np.ones((N, C))))


# --- where there is no CUDA ---


def without(monkeypatch: pytest.MonkeyPatch, *, numba_cuda: bool, reason: str | None) -> None:
    """numba-cuda is installed or not, and the driver has a reason why it cannot be used."""
    monkeypatch.setitem(sys.modules, "torch", fakes.torch())
    monkeypatch.setattr(dispatch, "cuda_backend", UNCACHED)
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: SimpleNamespace() if numba_cuda else None)
    driver = ModuleType("numbanorm.cuda.driver")
    driver.why_not = lambda: reason  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numbanorm.cuda.driver", driver)
    monkeypatch.setattr(numbanorm.cuda, "driver", driver, raising=False)  # type: ignore[attr-defined]


INSTALL = re.escape("pip install 'numbanorm[cuda13]' (or 'numbanorm[cuda12]'")


@pytest.mark.parametrize(("numba_cuda", "reason", "said"), [
    (False, None, f"numba-cuda is not installed; {INSTALL}"),
    (True, "CUDA must have a driver: none", "CUDA must have a driver"),
], ids=["no numba-cuda", "no driver"])  # fmt: skip
def test_without_cuda(numba_cuda: bool, reason: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error, and only for who asks for CUDA."""
    without(monkeypatch, numba_cuda=numba_cuda, reason=reason)
    x = np.ones((N, C), np.float32)
    for function in (numbanorm.moments, lambda x, **rest: numbanorm.layer_norm(x, C, **rest), numbanorm.batch_norm):
        own = {"training": True} if function is numbanorm.batch_norm else {}
        with pytest.raises(ValueError, match=f"backend must be 'cpu' or None here: .* no CUDA backend .*; .*{said}"):
            function(x, backend="cuda", **own)
        with pytest.raises(TypeError, match=f"x must be in host memory here: got Tensor on a CUDA device, .*; copy.*{said}"):
            function(fakes.Tensor(x), **own)
        assert function(x, **own) is not None
    assert re.search(said, str(dispatch.why_no_cuda()))


def test_explain_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs none; but numba-cuda."""
    x = np.ones((N, C), np.float32)
    without(monkeypatch, numba_cuda=True, reason="CUDA must have a driver: none")
    monkeypatch.setattr(numbanorm.cuda.backend, "describe", fakes.describe, raising=False)  # type: ignore[attr-defined]
    assert numbanorm.explain(numbanorm.layer_norm, x, C, backend="cuda") == "cuda, numpy, aligned True"
    without(monkeypatch, numba_cuda=False, reason=None)
    with pytest.raises(ValueError, match="numba-cuda is not installed"):
        numbanorm.explain(numbanorm.layer_norm, x, C, backend="cuda")


def test_with_cuda_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, numba_cuda=True, reason=None)
    assert dispatch.why_no_cuda() is None
    assert dispatch.cuda_backend(True) is numbanorm.cuda.backend  # type: ignore[attr-defined]


def test_numpy_arrays_bring_no_cuda_along() -> None:
    """Not even the question whether an argument is on a device, nor the refusal of a tensor on the CPU."""
    code = (
        "import sys, numpy, numbanorm\n"
        "numbanorm.batch_norm(numpy.ones((4, 3)), training=True)\n"
        "try: numbanorm.layer_norm([1.0], 1)\n"
        "except TypeError: pass\n"
        "print([m for m in sys.modules if m.startswith(('numba.cuda', 'numbanorm.cuda', 'cupy', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- torch ---


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real one, whose tensors on the CPU are taken for those of a device."""
    torch = pytest.importorskip("torch", reason="torch is not installed, so there are no tensors of its own")
    monkeypatch.setattr(checks, "device_library", lambda x: "torch" if isinstance(x, torch.Tensor) else None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(dispatch, "cuda_backend", lambda compute: fakes.BACKEND)
    return torch


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("case", [c for c in cases.TABLE if c.size < 300], ids=lambda c: c.name)
def test_real_tensors(case: cases.Case, dtype: str, torch: Any) -> None:
    """All that torch is asked for is there, and means what is thought."""

    def tensor(a: Any) -> Any:
        return None if a is None else torch.from_numpy(a.astype(np.float64)).to(getattr(torch, a.dtype.name))

    def same(t: Any, a: Any) -> bool:
        if a is None or t is None:
            return t is a
        return isinstance(t, torch.Tensor) and t.dtype == tensor(a).dtype and torch.equal(t, tensor(a))

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    a, dy = cases.arguments(case, kind), cases.upstream(case, kind)
    there = cases.Arguments(*(tensor(getattr(a, field.name)) for field in dataclasses.fields(a)))
    y, stats = cases.call(case, a, return_stats=True)
    found, found_stats = cases.call(case, there, return_stats=True)
    assert same(found, y)
    assert all(map(same, found_stats, stats))
    gradients = cases.call_backward(case, a, dy, stats)
    assert all(map(same, cases.call_backward(case, there, tensor(dy), found_stats), gradients))
    leaf, folded = there.x.clone().requires_grad_(), there.x.expand(2, *case.shape)[1]
    for x in (leaf, folded, there.x.unsqueeze(-1).repeat_interleave(2, -1)[..., 1]):
        assert same(cases.call(case, dataclasses.replace(there, x=x)), y)
        out = x if x is leaf else torch.empty(*case.shape, 2, dtype=x.dtype)[..., 0]
        assert cases.call(case, dataclasses.replace(there, x=x), out=out) is out
        assert same(out.detach(), y)


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
@pytest.mark.parametrize("norm", ["BatchNorm2d", "InstanceNorm2d", "GroupNorm", "LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("training", [True, False])
def test_drop_ins_on_a_device(norm: str, layout: str, training: bool, torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors themselves are handed to the functions; results, gradients and buffers are those of the CPU."""
    from numbanorm.interop.torch import modules as ours

    torch.manual_seed(1)
    sizes = {"GroupNorm": (2, 4), "LayerNorm": (5,), "RMSNorm": (5,)}.get(norm, (4,))
    options = {"affine": True, "track_running_stats": True} if "2d" in norm else {}
    x = torch.randn(3, 4, 6, 5).to(memory_format=getattr(torch, layout))
    dy, results = torch.randn(3, 4, 6, 5), []
    pretended = checks.device_library
    for library in (pretended, lambda t: None):
        monkeypatch.setattr(checks, "device_library", library)
        layer, leaf = getattr(ours, norm)(*sizes, **options).train(training), x.clone().requires_grad_()
        y = layer(leaf)
        (g,) = torch.autograd.grad(y, leaf, dy, create_graph=True)
        (g * y).sum().backward()
        tensors = [y, g, leaf.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]
        results.append([(t.stride(), t.detach().numpy().tobytes()) for t in tensors])
    assert results[0] == results[1]


def test_moments_of_tensors(torch: Any, rng: np.random.Generator) -> None:
    """They add up, and give variances, as tensors."""
    data = rng.normal(size=(2, 7, 3))
    here, there = (numbanorm.Moments(axis=0) for _ in "ab")
    for x in data:
        here.update(x)
        there.update(torch.from_numpy(x))
    for name in ("mean", "m2"):
        assert isinstance(getattr(there, name), torch.Tensor)
        assert np.array_equal(getattr(there, name).numpy(), getattr(here, name))
    for name in ("var", "std", "rstd"):
        np.testing.assert_allclose(getattr(there, name)().numpy(), getattr(here, name)(), rtol=1e-15)
    assert there.var(ddof=14).isnan().all()


# --- layers ---


@on_device
@pytest.mark.usefixtures("device")
def test_layers_with_parameters_are_numpys(library: str) -> None:
    """Their parameters lie in host memory, and x must too; the refused call changes nothing."""
    x = fakes.ONTO[library](np.ones((N, C), np.float32))
    layer = numbanorm.BatchNorm1d(C)
    before = {name: a.copy() for name, a in layer.state_dict().items()}
    with pytest.raises(TypeError, match=r"running_mean must be where x is, .*: got ndarray in host memory"):
        layer(x)
    assert all(np.array_equal(a, before[name]) for name, a in layer.state_dict().items())
    with pytest.raises(TypeError, match=r"weight must be where x is, .*: got ndarray in host memory"):
        numbanorm.LayerNorm(C)(x)


@pytest.mark.parametrize("shape", [(C, 8), (N, C, 8)])
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.usefixtures("device")
def test_layers_without_parameters(library: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Nothing of theirs lies anywhere, so they work where x lies."""
    x, dy = rng.normal(size=(2, *shape)).astype(np.float32)
    onto = fakes.ONTO[library]
    for make in (lambda: numbanorm.InstanceNorm1d(C), lambda: numbanorm.LayerNorm(8, elementwise_affine=False)):
        here, there = make(), make()
        assert fakes.back(there(onto(x))).tobytes() == here(x).tobytes()
        found = there.backward(onto(dy))
        assert isinstance(found, onto)
        assert fakes.back(found).tobytes() == here.backward(dy).tobytes()
    out = onto(x.copy())
    layer = numbanorm.LayerNorm(8, elementwise_affine=False)
    assert layer(out, out=out) is out
    with pytest.raises(ValueError, match="written over, for out was x"):
        layer.backward(onto(dy))


@pytest.mark.usefixtures("device")
def test_layers_that_carry(rng: np.random.Generator) -> None:
    x, dy = rng.normal(size=(2, N, C)).astype(np.float32)
    here, there = numbanorm.BatchNorm1d(C), numbanorm.BatchNorm1d(C, backend="cuda")
    assert there(x).tobytes() == here(x).tobytes()
    assert there.backward(dy).tobytes() == here.backward(dy).tobytes()
    assert {n: a.tobytes() for n, a in there.state_dict().items()} == {n: a.tobytes() for n, a in here.state_dict().items()}
    assert {n: a.tobytes() for n, a in there.grad.items()} == {n: a.tobytes() for n, a in here.grad.items()}


def test_what_is_told_of_the_extras() -> None:
    """The error names extras that there are."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"numbanorm\[(\w+)\]", dispatch.INSTALL))
    assert named == {"cuda12", "cuda13"} <= set(project["optional-dependencies"])


def stats(on: Any) -> Any:
    return on(np.zeros(N)), on(np.ones(N))


def mask(on: Any) -> Any:
    return on(np.ones((N, C), bool))


def each(on: Any) -> Any:
    """A parameter of each sample, or row."""
    return on(np.ones((N, C)))


SHAPE = "must have shape (6,) on a CUDA device, where all samples have the same: got (4, 6)"
MASKS = "where must be None on a CUDA device, for masks are computed on the CPU alone"
WEIGHTS = "weights must be None on a CUDA device, where nothing is weighted"
ONLY_HERE: dict[str, tuple[Any, str]] = {  # ways to call, and what is said before the remedy
    "where": (lambda on, x: numbanorm.layer_norm(x, C, where=mask(on)), MASKS),
    "where backward": (lambda on, x: numbanorm.layer_norm_backward(x, x, C, stats(on), where=mask(on)), MASKS),
    "where of moments": (lambda on, x: numbanorm.moments(x, 0, where=mask(on)), MASKS),
    "nan": (lambda on, x: numbanorm.moments(x, 0, nan="omit"), "nan must be 'propagate' on a CUDA device"),
    "weights of moments": (lambda on, x: numbanorm.moments(x, 0, weights=each(on)), WEIGHTS),
    "weights": (lambda on, x: numbanorm.batch_norm(x, training=True, weights=each(on)), WEIGHTS),
    "weight": (lambda on, x: numbanorm.layer_norm(x, C, each(on)), f"weight {SHAPE}"),
    "bias": (lambda on, x: numbanorm.group_norm(x, 2, bias=each(on)), f"bias {SHAPE}"),
    "weight backward": (lambda on, x: numbanorm.layer_norm_backward(x, x, C, stats(on), each(on)), f"weight {SHAPE}"),
    "axis": (lambda on, x: numbanorm.layer_norm(x, N, axis=0), "axis must name the last axes of x on a CUDA device"),
    "weight_offset": (lambda on, x: numbanorm.rms_norm(x, C, on(np.ones(C)), weight_offset=1.0), "weight_offset must be 0 for"),
    "residual": (lambda on, x: numbanorm.layer_norm(x, C, residual=x), "residual, addend and activation are for NumPy arrays"),
}


@on_device
@pytest.mark.parametrize("name", ONLY_HERE)
@pytest.mark.usefixtures("device")
def test_what_the_cpu_alone_does(library: str, name: str) -> None:
    """Refused on a device, with the remedy."""
    on, (run, words) = fakes.ONTO[library], ONLY_HERE[name]
    with pytest.raises(ValueError, match=re.escape(words) + ".*;"):
        run(on, on(np.ones((N, C), np.float32)))
