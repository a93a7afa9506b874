"""Peers with kernels of their own: PyTorch, ONNX Runtime, JAX, each called as its own documentation has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import EPS, GROUPS, Array, Case, Data
from .expressions import expression, viewed
from .jobs import Job, UnsupportedError

# ---------------------------------------------------------------------------------------------------------- PyTorch


def _tensor(a: Array) -> Any:
    """The same memory; torch knows NumPy's bfloat16 by its bits only."""
    import torch

    return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype.name == "bfloat16" else torch.from_numpy(a)


def _array(tensor: Any, last: bool) -> Array:
    import torch

    if last and tensor.ndim > 1:
        tensor = tensor.permute(0, *range(2, tensor.ndim), 1)
    tensor = tensor.detach().contiguous()
    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor.numpy())
    import ml_dtypes

    return np.asarray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))


def torch_job(case: Case, a: Data, threads: int) -> Job:
    import torch
    import torch.nn.functional as f

    torch.set_num_threads(threads)
    torch.set_grad_enabled(case.backward)
    x, weight, bias, mean, var = (_tensor(array) for array in a[:5])
    if case.last:  # a tensor of shape (N, C, ...) in the memory format channels_last, which torch has kernels for
        x = x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))
    other = None if a.other is None else _tensor(a.other).as_strided(x.shape, x.stride())
    if case.backward:
        return _torch_around(case, a, other, (x, weight, bias, mean, var))
    c = x.shape[-1:]

    def summed() -> Any:
        return x + other if case.around == "residual" else x

    run: Callable[[], Any] = {
        "layer": lambda: f.layer_norm(summed(), c, weight, bias, EPS),
        "rms": lambda: f.rms_norm(summed(), c, weight, EPS),
        "batch": lambda: f.batch_norm(x, mean, var, weight, bias, True, eps=EPS),
        "eval": lambda: f.batch_norm(x, mean, var, weight, bias, eps=EPS),
        "group": lambda: f.group_norm(x, GROUPS, weight, bias, EPS),
        "instance": lambda: f.instance_norm(x, None, None, weight, bias, eps=EPS),
    }[case.norm]
    if case.around == "relu":  # as torchvision's networks have it
        return Job(lambda: run().add_(other).relu_(), lambda y: (_array(y, case.last),))
    return Job(run, lambda y: (_array(y, case.last),))


def _torch_around(case: Case, a: Data, other: Any, tensors: tuple[Any, ...]) -> Job:
    """torch's gradients; ReLU's, and the sum with what comes beside, are operations of their own, into memory that is there."""
    import torch

    if case.around != "relu":
        job = _torch_backward(case, a, *tensors)
        return Job(lambda: ((found := job.run())[0].add_(other), *found[1:]), job.fetch) if case.around else job
    assert a.dy is not None
    kept = np.zeros_like(a.dy)
    job, (dy, passed) = (
        _torch_backward(case, a._replace(dy=kept), *tensors),
        (_tensor(array).as_strided(other.shape, other.stride()) for array in (a.dy, kept)),
    )
    gate = torch.ops.aten.threshold_backward.grad_input
    return Job(lambda: (gate(dy, other, 0, grad_input=passed), job.run())[1], job.fetch)


def _torch_backward(case: Case, a: Data, x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Job:
    """torch's native operations, called as its autograd calls them. Where it has none autograd runs what it does instead: for
    rms norm, and for instance norm with channels last, which is copied to channels first and back."""
    import torch

    aten, every, n = torch.ops.aten, [True, True, True], x.shape[0]
    assert a.dy is not None
    dy = _tensor(a.dy).as_strided(x.shape, x.stride())
    shape = x.shape

    def fetch(gradients: Any) -> tuple[Array, ...]:
        dx, *rest = gradients
        if case.norm == "instance" and not case.last:  # of all samples and channels: the sums over samples were left out
            dx, rest = dx.reshape(shape), [p.reshape(n, -1).sum(0) for p in rest]
        return (_array(dx, case.last), *(_array(p, False) for p in rest))

    if case.norm == "rms" or (case.norm == "instance" and case.last):
        wanted = (x, weight) if case.norm == "rms" else (x, weight, bias)
        for t in wanted:
            t.requires_grad_()
        f = torch.nn.functional
        y = (
            f.rms_norm(x, shape[-1:], weight, EPS)
            if case.norm == "rms"
            else f.instance_norm(x, None, None, weight, bias, eps=EPS)
        )
        return Job(lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True), fetch)
    if case.norm == "layer":
        c = shape[-1:]
        _, m, r = aten.native_layer_norm(x, c, weight, bias, EPS)
        return Job(lambda: aten.native_layer_norm_backward(dy, x, c, m, r, weight, bias, every), fetch)
    if case.norm == "group":
        c, inner = shape[1], x[0, 0].numel()
        _, m, r = aten.native_group_norm(x, weight, bias, n, c, inner, GROUPS, EPS)
        return Job(lambda: aten.native_group_norm_backward(dy, x, m, r, weight, n, c, inner, GROUPS, every), fetch)
    train = case.norm != "eval"
    if case.norm == "instance":  # in torch, batch norm over samples and channels together
        x, dy = (t.reshape(1, -1, *shape[2:]) for t in (x, dy))
        weight, mean, var = weight.repeat(n), None, None
    _, m, r = aten.native_batch_norm(x, weight, None, mean, var, train, 0.1, EPS)
    return Job(lambda: aten.native_batch_norm_backward(dy, x, weight, mean, var, m, r, train, EPS, every), fetch)


# ----------------------------------------------------------------------------------------------------- ONNX Runtime

OPERATORS: dict[str, tuple[str, int, dict[str, Any]]] = {  # name, version of the operator set, attributes
    "layer": ("LayerNormalization", 17, {"axis": -1}),
    "rms": ("RMSNormalization", 23, {"axis": -1}),
    "batch": ("BatchNormalization", 15, {"training_mode": 1}),
    "eval": ("BatchNormalization", 15, {}),
    "group": ("GroupNormalization", 21, {"num_groups": GROUPS}),
    "instance": ("InstanceNormalization", 22, {}),
}


# not of the standard: contributed by who made the library
SKIP = {"layer": "SkipLayerNormalization", "rms": "SkipSimplifiedLayerNormalization"}


def onnxruntime_job(case: Case, a: Data, threads: int) -> Job:
    import onnxruntime as ort

    if case.backward or case.last or case.dtype == "bfloat16":
        raise UnsupportedError("no operator for it on a CPU")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    session = ort.InferenceSession(_model(case, a), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in (("x", a.x), ("other", a.other)):
        if array is not None:
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    results = [ort.OrtValue.ortvalue_from_shape_and_type(end.shape, a.x.dtype.type) for end in session.get_outputs()]
    for end, result in zip(session.get_outputs(), results, strict=True):
        binding.bind_ortvalue_output(end.name, result)
    return Job(lambda: session.run_with_iobinding(binding), lambda _: (results[0].numpy(),))


def _model(case: Case, a: Data) -> bytes:
    """One node, and two more for what is added and ReLU; its parameters are constants of the model."""
    from onnx import helper, numpy_helper

    operator, version, attributes = OPERATORS[case.norm]
    values = {"rms": (a.weight,), "eval": a[1:5], "batch": a[1:5]}.get(case.norm, (a.weight, a.bias))
    names = ["weight", "bias", "mean", "var"][: len(values)]
    constants = [numpy_helper.from_array(value, name) for value, name in zip(values, names, strict=True)]
    kind = helper.np_dtype_to_tensor_dtype(a.x.dtype)
    shapes = {"y": a.x.shape} | ({"new_mean": a.mean.shape, "new_var": a.var.shape} if case.norm == "batch" else {})
    node = helper.make_node(operator, ["x", *names], list(shapes), epsilon=EPS, **attributes)
    nodes = [node]
    if case.around == "residual":
        shapes["h"] = a.x.shape
        ends = ["y", "", "", "h"]  # mean and rstd between them are not computed on a CPU
        nodes = [helper.make_node(SKIP[case.norm], ["x", "other", *names], ends, domain="com.microsoft", epsilon=EPS)]
    elif case.around:
        node.output[0] = "normalized"
        nodes += [helper.make_node("Add", ["normalized", "other"], ["sum"]), helper.make_node("Relu", ["sum"], ["y"])]
    outputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    inputs = [helper.make_tensor_value_info(name, kind, a.x.shape) for name in ("x", "other")[: 2 if case.around else 1]]
    graph = helper.make_graph(nodes, case.norm, inputs, outputs, constants)
    sets = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString())


# -------------------------------------------------------------------------------------------------------------- JAX


def jax_job(case: Case, a: Data, threads: int) -> Job:
    """The expression, compiled; the half types in float32, rounded at the end. Backward is the pullback alone."""
    import jax
    import jax.numpy as jnp

    if case.around:
        raise UnsupportedError("the norm alone")
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    inner = jnp.float64 if case.dtype == "float64" else jnp.float32
    v = viewed(case, a)
    x, weight, bias, mean, var = (jax.device_put(p) for p in v[:5])

    def forward(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        wide = v._replace(**{k: p.astype(inner) for k, p in zip(v._fields, (x, weight, bias, mean, var), strict=False)})
        return expression(case, wide, jnp).astype(x.dtype)

    if not case.backward:
        compiled = jax.jit(forward)
        return Job(lambda: compiled(x, weight, bias, mean, var).block_until_ready(), lambda y: (np.asarray(y),))
    if case.norm == "rms":
        _, pull = jax.vjp(lambda x, weight: forward(x, weight, bias, mean, var), x, weight)
    else:
        _, pull = jax.vjp(lambda x, weight, bias: forward(x, weight, bias, mean, var), x, weight, bias)
    apply, dy = jax.jit(lambda pull, dy: pull(dy)), jax.device_put(v.dy)
    return Job(lambda: jax.block_until_ready(apply(pull, dy)), lambda gradients: tuple(map(np.asarray, gradients)))
