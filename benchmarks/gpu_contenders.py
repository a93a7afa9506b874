"""The contenders of benchmarks/gpu.py: each makes, for a case and its data, a call that runs on one of the sets.

All but numbanorm see tensors of shape (N, C, ...), in the memory format channels_last where the case is: torch has kernels
for that. What a backward pass takes from the forward pass is prepared for each set beforehand.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING or __package__:
    from .gpu_cases import EPS, Case, Data, Tensor, geometry
else:
    from gpu_cases import EPS, Case, Data, Tensor, geometry

Results = tuple[Any, ...]


class Contender(NamedTuple):
    """`run(i)` gives the results for set i; with `first` they are channels first whatever the case's layout."""

    run: Callable[[int], Results]
    first: bool = False


class AbsentError(Exception):
    """This contender does not have this case, and why."""


def array(t: Tensor) -> Any:
    """What numbanorm takes: a CUDA tensor itself, of a CPU tensor the array in the same memory."""
    import torch

    if t.is_cuda:
        return t
    if t.dtype != torch.bfloat16:
        return t.numpy()
    import ml_dtypes

    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def tensor(a: Any) -> Tensor:
    import torch

    if isinstance(a, torch.Tensor):
        return a
    return torch.from_numpy(a.view("int16")).view(torch.bfloat16) if a.dtype.name == "bfloat16" else torch.from_numpy(a)


def copy(case: Case, d: Data) -> Contender:
    """A copy that moves as many bytes as the case has to."""
    import torch

    half = case.bytes // 2
    memory = torch.zeros(len(d.x), 2, -(-half // 512) * 512, dtype=torch.uint8, device=d.weight.device)
    memory[:, 0] = 1
    pairs = [(m[0, :half], m[1, :half]) for m in memory]
    return Contender(lambda i: (pairs[i][1].copy_(pairs[i][0]),))


def numbanorm(case: Case, d: Data) -> Contender:
    """In the mode that CUDA computes whatever is asked for, so that figures of a CPU mean the same."""
    x, dy, out = ([array(t) for t in tensors] for tensors in (d.x, d.dy, d.out))
    return Contender(own(case, x, dy, out, [array(t) for t in (d.weight, d.bias, d.mean, d.var)], exact=True))


def own(case: Case, x: list[Any], dy: list[Any], out: list[Any], vectors: list[Any], exact: bool) -> Callable[[int], Results]:
    """numbanorm's call, of arrays of any library; vectors: weight, bias, mean and variance."""
    import numbanorm as nn

    w, b, mean, var = vectors
    c, axis, train = case.channels, case.axis, case.family == "batch"
    forward: dict[str, Callable[..., Any]] = {
        "layer": lambda x, **o: nn.layer_norm(x, c, w, b, EPS, **o),
        "rms": lambda x, **o: nn.rms_norm(x, c, w, EPS, **o),
        "group": lambda x, **o: nn.group_norm(x, case.groups, w, b, EPS, channel_axis=axis, **o),
        "instance": lambda x, **o: nn.instance_norm(x, weight=w, bias=b, eps=EPS, channel_axis=axis, **o),
        "batch": lambda x, **o: nn.batch_norm(x, mean, var, w, b, train, eps=EPS, channel_axis=axis, **o),
    }
    forward["eval"] = forward["batch"]
    call = forward[case.family]

    def into(i: int) -> dict[str, Any]:
        return {"out": out[i], "exact": exact}

    if not case.backward:
        return lambda i: (call(x[i], **into(i)),)
    stats = [call(t, return_stats=True, exact=exact)[1] for t in x]
    backward: dict[str, Callable[[int], Results]] = {
        "layer": lambda i: nn.layer_norm_backward(dy[i], x[i], c, stats[i], w, **into(i)),
        "rms": lambda i: nn.rms_norm_backward(dy[i], x[i], c, stats[i], w, **into(i)),
        "group": lambda i: nn.group_norm_backward(dy[i], x[i], case.groups, stats[i], w, channel_axis=axis, **into(i)),
        "instance": lambda i: nn.instance_norm_backward(dy[i], x[i], stats[i], w, channel_axis=axis, **into(i)),
        "batch": lambda i: nn.batch_norm_backward(dy[i], x[i], stats[i], w, channel_axis=axis, training=train, **into(i)),
    }
    backward["eval"] = backward["batch"]
    return backward[case.family]


def channels_first(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    """Views of shape (N, C, ...)."""
    return [t.movedim(-1, 1) for t in tensors] if case.last else tensors


def native(case: Case, d: Data) -> Contender:
    """torch.nn.functional; for gradients the operations that its autograd calls."""
    import torch.nn.functional as f

    x, w, b, c = channels_first(case, d.x), d.weight, d.bias, (case.channels,)
    if case.backward:
        return Contender(native_backward(case, d, x, channels_first(case, d.dy)), first=case.last)
    train = case.family == "batch"
    calls: dict[str, Callable[[int], Tensor]] = {
        "layer": lambda i: f.layer_norm(x[i], c, w, b, EPS),
        "rms": lambda i: f.rms_norm(x[i], c, w, EPS),
        "group": lambda i: f.group_norm(x[i], case.groups, w, b, EPS),
        "instance": lambda i: f.instance_norm(x[i], None, None, w, b, eps=EPS),
        "batch": lambda i: f.batch_norm(x[i], d.mean, d.var, w, b, train, eps=EPS),
    }
    calls["eval"] = calls["batch"]
    call = calls[case.family]
    return Contender(lambda i: (call(i),), first=case.last)


def native_backward(case: Case, d: Data, x: list[Tensor], dy: list[Tensor]) -> Callable[[int], Results]:
    import torch

    aten, w, b, every = torch.ops.aten, d.weight, d.bias, [True, True, True]
    if case.family == "layer":
        c = [case.channels]
        kept = [aten.native_layer_norm(t, c, w, b, EPS)[1:] for t in x]
        return lambda i: aten.native_layer_norm_backward(dy[i], x[i], c, *kept[i], w, b, every)
    if case.family == "group":
        return native_group_backward(case, d, x, dy)
    if case.family == "rms":
        return native_rms_backward(case, w, x, dy)
    return native_batch_backward(case, d, x, dy)


def native_group_backward(case: Case, d: Data, x: list[Tensor], dy: list[Tensor]) -> Callable[[int], Results]:
    """Where the operation refuses channels last, as on GPUs, autograd copies dy, and has x as the forward pass copied it."""
    import torch

    aten, w, every = torch.ops.aten, d.weight, [True, True, True]
    sizes = x[0].shape[0], case.channels, x[0][0, 0].numel(), case.groups
    try:
        kept = [aten.native_group_norm(t, w, d.bias, *sizes, EPS)[1:] for t in x]
        aten.native_group_norm_backward(dy[0], x[0], *kept[0], w, *sizes, every)
    except RuntimeError:
        x = [t.contiguous() for t in x]
        kept = [aten.native_group_norm(t, w, d.bias, *sizes, EPS)[1:] for t in x]
        return lambda i: aten.native_group_norm_backward(dy[i].contiguous(), x[i], *kept[i], w, *sizes, every)
    return lambda i: aten.native_group_norm_backward(dy[i], x[i], *kept[i], w, *sizes, every)


def native_rms_backward(case: Case, w: Tensor, x: list[Tensor], dy: list[Tensor]) -> Callable[[int], Results]:
    """The fused operation where this build has it for this device, else what autograd makes of F.rms_norm."""
    import torch

    aten, c = torch.ops.aten, [case.channels]
    try:
        kept = [aten._fused_rms_norm(t, c, w, EPS)[1] for t in x]
        aten._fused_rms_norm_backward(dy[0], x[0], c, kept[0], w, [True, True])
    except (AttributeError, RuntimeError):  # NotImplementedError, where a device lacks it, is a RuntimeError
        leaves = [(t.detach().requires_grad_(), w.detach().requires_grad_()) for t in x]
        with torch.enable_grad():
            ys = [torch.nn.functional.rms_norm(t, c, v, EPS) for t, v in leaves]
        return lambda i: torch.autograd.grad(ys[i], leaves[i], dy[i], retain_graph=True)
    return lambda i: aten._fused_rms_norm_backward(dy[i], x[i], c, kept[i], w, [True, True])


def native_batch_backward(case: Case, d: Data, x: list[Tensor], dy: list[Tensor]) -> Callable[[int], Results]:
    """Of batch norm by torch's own choice, which may be cuDNN; instance norm is in torch batch norm of (1, N * C, ...)."""
    import torch

    aten, cudnn, own = torch.ops.aten, torch.backends.cudnn.enabled, case.family != "eval"
    n, w, b, mean, var = 1, d.weight, d.bias, d.mean, d.var
    if case.family == "instance":
        n, mean, var = x[0].shape[0], None, None
        w, b = w.repeat(n), b.repeat(n)

    def merged(t: Tensor) -> Tensor:
        """Copies tensors that are channels last, as torch does."""
        return t.reshape(1, -1, *t.shape[2:]) if case.family == "instance" else t

    kept = [aten._batch_norm_impl_index(merged(t), w, b, mean, var, own, 0.1, EPS, cudnn)[1:] for t in x]

    def run(i: int) -> Results:
        m, r, reserve, index = kept[i]
        args = index, merged(x[i]), merged(dy[i]), w, mean, var, m, r, own, EPS, [True, True, True], reserve
        dx, dw, db = aten._batch_norm_impl_index_backward(*args)
        if case.family == "instance":
            dx, dw, db = dx.view(x[i].shape), dw.view(n, -1).sum(0), db.view(n, -1).sum(0)
        return dx, dw, db

    return run


def compiled(case: Case, d: Data) -> Contender:
    """torch.compile of the formula, in float32 (float64 for float64), on x as it is stored, without running statistics."""
    import torch

    torch._dynamo.reset()  # after eight shapes of one function it would not compile any more, and say so only in a log
    split, axes, params = geometry(case)
    wide = torch.float64 if case.dtype == "float64" else torch.float32
    given, center = case.family == "eval", case.family not in ("eval", "rms")
    shared = tuple(i for i, n in enumerate(params) if n == 1)

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        v = x.view(split).to(wide)
        if given:
            return d.mean.view(params).to(wide), torch.rsqrt(d.var.view(params).to(wide) + EPS)
        if not center:
            return torch.zeros((), dtype=wide, device=x.device), torch.rsqrt(v.square().mean(axes, keepdim=True) + EPS)
        var, mean = torch.var_mean(v, axes, correction=0, keepdim=True)
        return mean, torch.rsqrt(var + EPS)

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Results:
        mean, rstd = moments(x)
        v = x.view(split).to(wide)
        y = (v - mean if case.family != "rms" else v) * rstd * w.view(params).to(wide)
        y = y if case.family == "rms" else y + b.view(params).to(wide)
        return (y.to(x.dtype).view(x.shape),)

    def backward(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, w: Tensor) -> Results:
        v, g = x.view(split).to(wide), dy.view(split).to(wide)
        xh, u = (v - mean if case.family != "rms" else v) * rstd, g * w.view(params).to(wide)
        dx = u if given else u - xh * (u * xh).mean(axes, keepdim=True)
        dx = dx - u.mean(axes, keepdim=True) if center else dx
        sums = [(g * xh).sum(shared).reshape(-1).to(w.dtype), g.sum(shared).reshape(-1).to(w.dtype)]
        return ((dx * rstd).to(x.dtype).view(x.shape), *sums[: 1 if case.family == "rms" else 2])

    backend = "inductor" if d.weight.is_cuda else "eager"  # for the CPU, where nothing is measured: without a C++ compiler
    options: dict[str, Any] = {"backend": backend, "dynamic": False, "fullgraph": True}
    if not case.backward:
        call = torch.compile(forward, **options)
        return Contender(lambda i: call(d.x[i], d.weight, d.bias))
    stats = [moments(t) for t in d.x]
    call = torch.compile(backward, **options)
    return Contender(lambda i: call(d.dy[i], d.x[i], *stats[i], d.weight))


def liger(case: Case, d: Data) -> Contender:
    """Liger's Triton kernels, with its defaults but for gradients in place."""
    if case.family not in ("layer", "rms", "group"):
        raise AbsentError("Liger has no batch norm and no instance norm")
    if case.last:
        raise AbsentError("Liger has no channels last")
    if not d.weight.is_cuda:
        raise AbsentError("Liger runs on GPUs only")
    try:
        layer_norm, rms_norm, group_norm = (
            importlib.import_module(f"liger_kernel.ops.{n}") for n in ("layer_norm", "rms_norm", "group_norm")
        )
    except ImportError as e:
        raise AbsentError(f"Liger is not installed (pip install liger-kernel): {e}") from e
    x, dy, w, b, c, g = d.x, d.dy, d.weight, d.bias, case.channels, case.groups
    forward: dict[str, Callable[[Tensor], Any]] = {
        "layer": lambda x: layer_norm.layer_norm_forward(x, w, b, EPS),
        "rms": lambda x: rms_norm.rms_norm_forward(x, w, EPS, 0.0, "llama", None),
        "group": lambda x: group_norm.group_norm_forward(x, c, g, w, b, EPS),
    }
    call = forward[case.family]
    if not case.backward:
        return Contender(lambda i: call(x[i])[:1])
    kept = [call(t)[2:] for t in x]
    if case.family == "rms":
        rstd, block, warps, mode = zip(*kept, strict=True)
        return Contender(
            lambda i: rms_norm.rms_norm_backward(dy[i], x[i], w, rstd[i], 0.0, mode[0], block[0], warps[0], False, None)
        )
    if case.family == "layer":
        return Contender(lambda i: layer_norm.layer_norm_backward(dy[i], x[i], w, b, *kept[i][:2]))
    return Contender(lambda i: group_norm.group_norm_backward(dy[i], x[i], w, b, *kept[i][:2], c, g))


MAKERS: dict[str, Callable[[Case, Data], Contender]] = {
    "copy": copy,
    "numbanorm": numbanorm,
    "torch": native,
    "compile": compiled,
    "liger": liger,
}
