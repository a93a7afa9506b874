"""The cases of benchmarks/gpu.py, their data, and their truth in float64, on whichever device the data are.

torch is imported inside the functions: asv imports every file of this folder, also where torch is not installed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

Tensor = Any
EPS = 1e-5
# digits of the significand (the hidden one counted) and exponent of the smallest normal number
FORMATS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}
SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    family: str  # layer, rms, group, instance, batch (training), eval (batch)
    shape: tuple[int, ...]  # channels first
    dtype: str = "float32"
    last: bool = False  # the same, stored channels last
    backward: bool = False  # all gradients, from the statistics of the forward pass

    @property
    def layout(self) -> str:
        return "rows" if self.rows else "last" if self.last else "first"

    @property
    def direction(self) -> str:
        return "backward" if self.backward else "forward"

    @property
    def size(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def name(self) -> str:
        return f"{self.family} {self.size} {self.layout} {self.dtype} {self.direction}"

    @property
    def rows(self) -> bool:
        return self.family in ("layer", "rms")

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def groups(self) -> int:
        return 32 if self.channels % 32 == 0 else self.channels // 2

    @property
    def stored(self) -> tuple[int, ...]:
        return (self.shape[0], *self.shape[2:], self.shape[1]) if self.last else self.shape

    @property
    def axis(self) -> int:
        return len(self.shape) - 1 if self.last else 1

    @property
    def parameters(self) -> str:
        """Their dtype: torch's batch norm wants float32 ones for half types, its other norms want x's own."""
        wide = self.family in ("batch", "eval", "instance") and SIZES[self.dtype] == 2
        return "float32" if wide else self.dtype

    @property
    def results(self) -> tuple[str, ...]:
        return ("y",) if not self.backward else ("dx", "dweight") if self.family == "rms" else ("dx", "dweight", "dbias")

    @property
    def inputs(self) -> int:
        """Bytes of x, and of dy where it is read."""
        return math.prod(self.shape) * SIZES[self.dtype] * (2 if self.backward else 1)

    @property
    def bytes(self) -> int:
        """What has to move: each input read once, each result written once."""
        vectors = len(self.results) if self.backward else {"rms": 1, "eval": 4}.get(self.family, 2)  # dx's is the weight
        return self.inputs + math.prod(self.shape) * SIZES[self.dtype] + vectors * self.channels * SIZES[self.parameters]


Row = tuple[tuple[str, ...], tuple[tuple[int, ...], ...], tuple[str, ...], tuple[bool, ...]]
FIRST, LAST, BOTH = (False,), (True,), (False, True)
HALF, SINGLE = ("bfloat16",), ("float32",)
# families, shapes, dtypes, whether channels last; the most important first
QUICK: tuple[Row, ...] = (
    (("layer", "rms"), ((16384, 4096),), ("bfloat16", "float32"), FIRST),
    (("batch", "group"), ((64, 256, 56, 56),), SINGLE, BOTH),
    (("instance", "eval"), ((32, 64, 128, 128),), SINGLE, FIRST),
    (("layer",), ((512, 768),), HALF, FIRST),
)
TABLE: tuple[Row, ...] = (
    *QUICK,
    (("layer", "rms"), ((8192, 8192), (131072, 128), (4096, 16384), (1024, 12288), (512, 768)), HALF, FIRST),
    (("batch", "group", "instance"), ((32, 64, 128, 128),), HALF, BOTH),
    (("layer",), ((8192, 8192), (32768, 1024), (131072, 128), (4096, 16384), (1024, 12288), (512, 768)), SINGLE, FIRST),
    (("batch",), ((256, 512, 7, 7), (128, 128, 28, 28), (32, 64, 112, 112)), SINGLE, BOTH),
    (("group",), ((1, 256, 256, 256), (2, 512, 64, 64)), SINGLE, BOTH),
    (("instance",), ((1, 32, 128, 128, 128), (8, 3, 512, 512)), SINGLE, BOTH),
    (("eval",), ((64, 256, 56, 56),), ("float32", "bfloat16"), BOTH),
    (("layer", "rms"), ((16384, 4096),), ("float16", "float64"), FIRST),
    (("layer",), ((1048576, 64), (262144, 256), (32768, 2048), (2048, 32768)), HALF, FIRST),
    (("rms",), ((1048576, 64), (262144, 256), (32768, 2048), (2048, 32768), (8192, 5120)), HALF, FIRST),
    (("batch", "group"), ((64, 256, 56, 56),), ("float16", "bfloat16"), BOTH),
    (("rms",), ((8192, 8192), (131072, 128), (512, 768)), SINGLE, FIRST),
    (("batch", "eval"), ((8, 3, 224, 224), (4096, 1024), (256, 84)), SINGLE, FIRST),
)
#: for --device cpu, which tests this program and measures nothing
TINY_QUICK: tuple[Row, ...] = (
    (("layer", "rms"), ((6, 40),), SINGLE, FIRST),
    (("layer",), ((6, 40),), HALF, FIRST),
    (("batch", "eval", "group", "instance"), ((4, 6, 5, 3),), SINGLE, BOTH),
)
TINY: tuple[Row, ...] = (
    *TINY_QUICK,
    (("layer", "rms", "batch", "eval", "group", "instance"), ((4, 64),), ("float16", "float64"), FIRST),
)


def cases(rows: Iterable[Row]) -> list[Case]:
    """All combinations of each row, forward and backward, without repetitions."""
    found: dict[Case, None] = {}
    for row in rows:
        for family, shape, dtype, last in itertools.product(*row):
            if family == "instance" and len(shape) == 2:
                continue  # a single value a channel
            found.update({Case(family, shape, dtype, last, backward): None for backward in (False, True)})
    return list(found)


@dataclass
class Data:
    """`x`, `dy` and `out` hold one tensor for each set, of shape case.stored; the rest is shared, (C,)."""

    x: list[Tensor]
    dy: list[Tensor]
    out: list[Tensor]
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor

    def clear(self) -> None:
        for field in fields(self):
            setattr(self, field.name, None)


def pool(sets: int, shape: tuple[int, ...], dtype: Any, device: str, shift: float = 0.0) -> list[Tensor]:
    """Normal numbers around `shift`, each set at an address that is a multiple of 512 bytes."""
    import torch

    count = math.prod(shape)
    step = -(-count // 512) * 512
    memory = torch.randn(sets * step, dtype=dtype, device=device).add_(shift)
    return [memory[i * step : i * step + count].view(shape) for i in range(sets)]


def data(case: Case, sets: int, device: str) -> Data:
    import torch

    torch.manual_seed(0)
    kind, own = getattr(torch, case.dtype), getattr(torch, case.parameters)
    x = pool(sets, case.stored, kind, device, 0.5)
    dy = pool(sets, case.stored, kind, device) if case.backward else []
    out = [torch.empty_like(t) for t in x]
    w, b, m = (torch.randn(case.channels, dtype=own, device=device) for _ in range(3))
    return Data(x, dy, out, w, b, m, torch.rand(case.channels, dtype=own, device=device).add_(0.5))


def geometry(case: Case) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shape to view x in, its axes that share a mean, and the shape in which parameters broadcast there."""
    shape, axis, c = case.stored, case.axis, case.channels
    if case.family == "group":
        split = (*shape[:axis], case.groups, c // case.groups, *shape[axis + 1 :])
        axes = tuple(i for i in range(1, len(split)) if i != axis)
        return split, axes, tuple(n if i in (axis, axis + 1) else 1 for i, n in enumerate(split))
    kept = {"layer": (0,), "rms": (0,), "instance": (0, axis)}.get(case.family, (axis,))
    axes = tuple(i for i in range(len(shape)) if i not in kept)
    return shape, axes, tuple(n if i == axis else 1 for i, n in enumerate(shape))


def reference(case: Case, d: Data) -> list[tuple[Tensor, Tensor]]:
    """Each result of set 0 by its definition, in two passes of float64, and the scale of its terms: tests/support/oracle.py."""
    import torch

    split, axes, params = geometry(case)
    x, w = d.x[0].to(torch.float64, copy=True).view(split), d.weight.double().view(params)
    given, center = case.family == "eval", case.family not in ("eval", "rms")
    if given:
        x -= d.mean.double().view(params)
        var = d.var.double().view(params)
    else:
        if center:
            x -= x.mean(axes, keepdim=True)
            x -= x.mean(axes, keepdim=True)  # what the rounded mean left
        var = x.square().mean(axes, keepdim=True)
    rstd = 1 / (var + EPS).sqrt()
    xh = x.mul_(rstd)
    if not case.backward:
        y = xh * w if case.family == "rms" else xh * w + d.bias.double().view(params)
        return [(y.view(case.stored), w.abs().expand(split).reshape(case.stored))]
    dy = d.dy[0].double().view(split)
    u = dy * w
    size = xh.abs().clamp(min=1) if center else xh.abs()  # xh has its rounding at the scale of 1 where it is smaller
    dx, terms = u, u.abs()
    if not given:
        dx = dx - xh * (u * xh).mean(axes, keepdim=True)
        terms = terms + size * (u.abs() * size).mean(axes, keepdim=True)
    if center:
        dx, terms = dx - u.mean(axes, keepdim=True), terms + u.abs().mean(axes, keepdim=True)
    shared = tuple(i for i, n in enumerate(params) if n == 1)
    whole = [(dx * rstd, terms * rstd)]
    sums = [(dy * xh, dy.abs() * size)] + ([] if case.family == "rms" else [(dy, dy.abs())])
    summed = [tuple((t.sum(shared) if shared else t).reshape(-1) for t in pair) for pair in sums]
    return [*((v.view(case.stored), t.view(case.stored)) for v, t in whole), *summed]


def ulp(got: Tensor, value: Tensor, scale: Tensor) -> float:
    """Largest |got - value| in units of the last place of got's dtype, at the scale max(|got|, scale)."""
    import torch

    digits, lowest = FORMATS[str(got.dtype).removeprefix("torch.")]
    if got.shape != value.shape or not bool(torch.isfinite(got).all()):
        return math.inf
    wide = got.double()
    exponent = torch.frexp(torch.maximum(wide.abs(), scale)).exponent.sub_(1).clamp_(min=lowest)
    units = (digits - 1 - exponent).double().exp2_()
    return float(units.mul_((wide - value).abs_()).max())
