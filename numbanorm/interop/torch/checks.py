"""Checks of tensors that NumPy's arrays do not need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...backends import dispatch
from ...execute.offset import checked
from ...spec import checks
from ...spec.dtypes import DTYPES
from .operators import no_tangent

TORCH_FLOATS = {getattr(torch, name) for name in DTYPES}


@torch.compiler.assume_constant_result
def _no_cuda() -> str:
    """Why tensors on a CUDA device cannot be computed with, or nothing; not for torch.compile to look into."""
    return dispatch.why_no_cuda() or ""


def check_tensors(**tensors: Any) -> None:
    """Every tensor is one that the arrays' functions can read."""
    x = tensors["input"]
    for name, t in tensors.items():
        if t is None and name != "input":
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a tensor: got {type(t).__name__}; write torch.as_tensor({name})")
        if t.device.type not in ("cpu", "cuda", "meta"):
            raise TypeError(f"{name} must be on the CPU or a CUDA device: got {t.device}; write {name}.cpu()")
        if t.is_cuda and _no_cuda():
            raise TypeError(f"{name} must be on the CPU here: got {t.device}; write {name}.cpu(), or mend this: {_no_cuda()}")
        if t.device != x.device:
            raise TypeError(f"{name} must be on the input's device, {x.device}: got {t.device}; write {name}.to(input.device)")
        if t.is_nested:
            raise TypeError(
                f"{name} must not be nested: got {t.layout}; call torch.nn.functional's, or pad: {name}.to_padded_tensor(0.0)"
            )
        if t.is_quantized:
            raise TypeError(
                f"{name} must not be quantized: got {t.dtype}; quantize revert(model), or write {name}.dequantize()"
            )
        if t.layout != torch.strided:
            raise TypeError(f"{name} must be dense: got {t.layout}; write {name}.to_dense()")
        if t.dtype not in TORCH_FLOATS:
            raise TypeError(checks.not_float(name, t.dtype, f"{name}.float()"))
        no_tangent(name, t)
    weight, bias = tensors["weight"], tensors["bias"]
    if weight is not None and bias is not None and weight.dtype != bias.dtype:
        raise TypeError(f"bias must have the dtype of weight, {weight.dtype}: got {bias.dtype}; write bias.to(weight.dtype)")


def with_offset(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, offset: float, exact: bool
) -> tuple[Tensor, Tensor | None]:
    """weight + offset as float32, or float64 where results are; and the bias in the same type, as torch wants them."""
    if weight is None:
        raise ValueError(f"weight_offset is added to weight: got weight_offset={offset} and weight=None; pass a weight")
    check_tensors(input=x, weight=weight, bias=bias)
    kind = torch.float64 if exact or x.dtype == torch.float64 else torch.float32
    return weight.to(kind) + checked(offset), None if bias is None else bias.to(kind)
