"""Every bad argument of `standardize` and its gradients, and what its refusal must say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bad_gradients import OnDevice
from bad_input import LIKE, Bad, C, Kwargs, N, S, alien, each, memory, not_numbers, one_memory, read_only, wrong

import numbanorm

FORWARD, BACKWARD, SUMS = "standardize", "standardize_backward", "standardize_sums"
GRADIENTS, WEIGHTED, ALL = f"{BACKWARD} {SUMS}", f"{FORWARD} {BACKWARD}", f"{FORWARD} {BACKWARD} {SUMS}"
FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(numbanorm, name) for name in ALL.split()}


def good(name: str) -> Kwargs:
    """Arguments that the function takes: x is (N, C, S), and N and S share statistics."""
    rng = np.random.default_rng(9)
    x = rng.normal(1, 2, (N, C, S)).astype(np.float32)
    a: Kwargs = {"x": x, "mean": rng.normal(size=C), "rstd": rng.uniform(1, 2, C), "axis": (0, 2)}
    if name != SUMS:
        a |= {"weight": rng.uniform(1, 2, C).astype(np.float32), "out": np.full_like(x, -7.0)}
    if name == FORWARD:
        return a | {"bias": rng.uniform(1, 2, C)}
    a |= {"dy": x[::-1].copy()}
    return a if name == SUMS else a | {"sums": (rng.normal(size=C), rng.normal(size=C), 3 * x.size // C)}


KEPT = "must broadcast to the axes that are not in axis, (6,)"
OVER = ("got arrays that share memory", "pass a copy")
SHARED = "as moments(x, axis).mean does"


def shapes(name: str, where: str) -> list[Bad]:
    return [wrong(where, f"{name} {s}", {name: np.ones(s)}, f"{name} {KEPT}", f"got {s}", SHARED)
            for s in [(5,), (0,), (4, 6), (1, 6), (6, 1), (1, 6, 1)]]  # fmt: skip


ROWS = [
    *not_numbers("x", ALL),
    *not_numbers("mean", ALL),
    *not_numbers("rstd", ALL),
    *not_numbers("weight", WEIGHTED),
    *not_numbers("bias", FORWARD),
    *not_numbers("dy", GRADIENTS),
    *shapes("mean", ALL),
    *shapes("rstd", ALL),
    *shapes("weight", WEIGHTED),
    *shapes("bias", FORWARD),
    alien(ALL, "x on a device", {"x": OnDevice()}, "x must be in host memory to be standardized", "got OnDevice", "copy it"),
    alien(ALL, "no rstd", {"rstd": None}, "rstd must be given beside a mean", "got None", "write 1 / np.sqrt(var + eps)"),
    *each(wrong, ALL, "axis", "axis must name axes of x", "use -1 for", 3, -4, (0, 5), got="{} for shape (4, 6, 5)"),
    *each(wrong, ALL, "axis", "axis must name each axis once", "", (0, 0), (0, -3), got="{} for shape (4, 6, 5)"),
    *each(alien, ALL, "axis", "axis must be an integer", "write", 1.0, "0", True),
    *each(wrong, ALL, "backend", "backend must be 'cpu' or None, for given statistics", "leave it out", "cuda", "gpu", 0),
    *each(alien, WEIGHTED, "exact", "exact must be True or False", "write bool(exact)", 1, None, "yes"),
    *each(alien, BACKWARD, "sums", "sums must be (sum of dy, sum of dy * normalized x, count)", "standardize_sums returned",
          1.0, (), (np.ones(C),), got=""),
    *(wrong(BACKWARD, f"sums {k}", lambda a, k=k: {"sums": tuple(np.ones(5) if j == k else s for j, s in enumerate(a["sums"]))},
            f"{n} {KEPT}", "got (5,)", SHARED) for k, n in ((0, "the sum of dy"), (1, "the sum of dy * normalized x"))),
    *(alien(BACKWARD, f"count {c!r}", lambda a, c=c: {"sums": (*a["sums"][:2], c)}, "the count of sums must be integers >= 0",
            "got ", "pass that of standardize_sums") for c in (1.5, -1, None, "3", np.ones(C))),
    *(wrong(GRADIENTS, f"dy {s}", {"dy": np.ones(s, "f4")}, "dy must have the shape of x, (4, 6, 5)", f"got {s}", "gradient")
      for s in [(4, 6), (1, 6, 5), ()]),
    alien(GRADIENTS, "dy f8", {"dy": np.ones((N, C, S))}, "dy must have the dtype of x, float32", "got float64", "dy.astype("),
    *each(wrong, BACKWARD, "needs", "needs must be 3 of True or False", "write (True, True, True)", True, None, (True,)),
    wrong(BACKWARD, "out without dx", {"needs": (False, True, True)}, "out is where dx is written", "got needs=", "ask for dx"),
    *(wrong(WEIGHTED, f"out {s}", {"out": np.ones(s, "f4")}, "out must have the shape of x", f"got {s}", LIKE)
      for s in [(4, 6), (1, 6, 5), (120,)]),
    wrong(WEIGHTED, "out read-only", {"out": read_only(N, C, S)}, "out must be writable", "got a read-only array", LIKE),
    wrong(WEIGHTED, "out backwards", lambda a: {"out": a["x"][::-1]}, "out must not overlap x, unless it is x", *OVER),
    *(wrong(WEIGHTED, f"out over {k}", one_memory("out", k), f"out must not overlap {k}, unless it is x", *OVER)
      for k in ("weight", "mean", "rstd")),
]  # fmt: skip

TABLE = [(name, row) for row in ROWS for name in row.where.split()]
IDS = [f"{name}: {row.what}" for name, row in TABLE]


def arguments(name: str, row: Bad) -> Kwargs:
    a = good(name)
    change = row.change(a) if callable(row.change) else row.change
    if "x" in change and "out" not in change:
        a.pop("out", None)
    return a | change


def watched(a: Kwargs) -> dict[str, Any]:
    """All that must stay as it is."""
    return {name: [memory(v) for v in value] if isinstance(value, tuple) else memory(value) for name, value in a.items()}
