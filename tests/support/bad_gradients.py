"""Every bad argument of the backward functions: those that both have, in the words of the forward pass, and a table of its own
for dy, stats, needs and where dx goes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import bad_input as forward
import numpy as np
from bad_input import LIKE, NORMS, Bad, C, Kwargs, N, S, alien, each, not_numbers, read_only, wrong
from numpy.typing import NDArray

import numbanorm
from numbanorm import Stats

Array = NDArray[Any]
FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(numbanorm, f"{name}_norm_backward") for name in NORMS.split()}
CENTRED = "layer group instance batch"  # RMS norm takes no mean
STATS_SHAPE = {"layer": (N, C), "rms": (N, C), "group": (N, 3), "instance": (N, C), "batch": (C,)}


def taken(name: str) -> set[str]:
    return set(inspect.signature(FUNCTIONS[name]).parameters)


def good(name: str) -> Kwargs:
    """Those of the forward pass that the function takes, and what it wants besides."""
    a = {k: v for k, v in forward.good(name).items() if k in taken(name)}
    rng = np.random.default_rng(8)
    mean, rstd = rng.normal(size=STATS_SHAPE[name]), rng.uniform(1, 2, STATS_SHAPE[name])
    needs = (True, True) if name == "rms" else (True, True, True)
    return a | {"dy": a["x"][::-1].copy(), "stats": Stats(None if name == "rms" else mean, rstd), "needs": needs}


def touched(row: Bad, a: Kwargs) -> Kwargs:
    """What a row changes; a tensor is not made before its test, for torch may be missing."""
    if "Tensor" in row.what:
        return {row.what.split()[0]: None}
    return row.change(a) if callable(row.change) else row.change


def of_the_norms() -> list[tuple[str, Bad]]:
    """Faults of what both take. But a backward function can do with one value, and knows no running statistics; and the
    statistics are those of x, so that x of another shape is a fault before any other."""
    found = []
    for name, row in forward.TABLE:
        if name not in FUNCTIONS or row.rule.startswith(forward.TOO_FEW) or row.remedy == "one number a channel":
            continue
        if row.what.startswith("running"):
            continue
        bad = touched(row, forward.good(name))
        if set(bad) <= taken(name) and not ("out" in bad and getattr(bad.get("x"), "shape", (N, C, S)) != (N, C, S)):
            found.append((name, row))
    return found


def changed(name: str, **bad: Callable[[Array], Any]) -> Callable[[Kwargs], Kwargs]:
    """One of the statistics."""
    return lambda a: {"stats": a["stats"]._replace(**{name: bad["to"](a["stats"].rstd)})}


def shifted(a: Kwargs) -> Kwargs:
    """dy and out overlap by all but one sample; and out is x, which it may be."""
    room = np.ones((N + 1, C, S), np.float32)
    return {"x": room[:-1], "dy": room[1:], "out": room[:-1]}


def over_statistic(name: str) -> Callable[[Kwargs], Kwargs]:
    """One of them in the memory of out."""

    def change(a: Kwargs) -> Kwargs:
        out, shape = np.ones((N, C, S), np.float32), a["stats"].rstd.shape
        values = out.reshape(-1).view(np.float64)[: np.prod(shape)].reshape(shape)
        return {"out": out, "stats": a["stats"]._replace(**{name: values})}

    return change


class OnDevice:
    """What an array in the memory of a GPU looks like."""

    def __init__(self) -> None:
        self.__cuda_array_interface__ = {"shape": (N, C, S), "typestr": "<f4", "data": (0, False), "version": 3}


COPY = ("must be in host memory", "got OnDevice", "copy it to the host")
OF_X = ("dy must have the shape of x, (4, 6, 5)", "the gradient of the norm's result")

DY = [
    *not_numbers("dy", NORMS),
    alien(NORMS, "dy None", {"dy": None}, "dy must be a NumPy array", "got NoneType", "write np.asarray(dy"),
    *(alien(NORMS, f"{k} on a device", {k: OnDevice()}, f"{k} {COPY[0]}", *COPY[1:]) for k in ("x", "dy", "weight")),
    *(wrong(NORMS, f"dy {shape}", {"dy": np.ones(shape, "f4")}, OF_X[0], f"got {shape}", OF_X[1])
      for shape in [(4, 6), (4, 6, 6), (1, 6, 5), (2, 4, 6, 5), (120,), (5, 6, 4), (1,), ()]),
    *(alien(NORMS, f"dy {d}", {"dy": np.ones((N, C, S), d)}, "dy must have the dtype of x, float32", f"got {np.dtype(d)}",
            "write dy.astype(x.dtype)") for d in ["f8", "f2"]),
    wrong(NORMS, "x of other shape", {"x": np.ones((N + 1, C, S), "f4")}, "dy must have the shape of x, (5, 6, 5)",
              "got (4, 6, 5)", OF_X[1]),
    alien(NORMS, "x float64", {"x": np.ones((N, C, S))}, "dy must have the dtype of x, float64", "got float32", "dy.astype(")
]  # fmt: skip


def of_weight(a: Kwargs) -> Kwargs:
    """The forward call had a weight, and this one has none."""
    stats = Stats(*a["stats"])
    stats.weighted = True
    return {"stats": stats, "weight": None}


PAIR = ("stats must be (mean, rstd)", "pass what the norm returned with return_stats=True")
AS_THEY_CAME = "pass the stats of the forward call as they came"

STATS = [
    *each(alien, NORMS, "stats", *PAIR, None, 1.0, "stats", [], {}, got=""),
    *(alien(NORMS, f"stats {what}", change, PAIR[0], f"got {got}", PAIR[1]) for what, got, change in [
        ("an array", "ndarray", lambda a: {"stats": np.ones((2, N, C))}),
        ("rstd alone", "ndarray", lambda a: {"stats": a["stats"].rstd}),
        ("of one", "", lambda a: {"stats": (a["stats"].rstd,)}),
        ("of three", "", lambda a: {"stats": (*a["stats"], a["stats"].rstd)}),
        ("what the norm returns", "", lambda a: {"stats": (a["x"], *a["stats"])}),
    ]),
    *(wrong(name, f"{s} {bad}", changed(s, to=lambda v, b=bad: np.ones(b)), f"{s} must have shape {STATS_SHAPE[name]}",
            f"got {bad}", AS_THEY_CAME)
      for s, where in (("mean", CENTRED), ("rstd", NORMS)) for name in where.split()
      for bad in [(), (1,), (N,), (C + 1,), (N, C, 1), (1, C), (C, N), (N * C,)] if bad != STATS_SHAPE[name]),
    *(alien(where, f"{s} {got}", changed(s, to=lambda v, f=bad: f(v)), f"{s} must be a NumPy array", f"got {got}", "write ")
      for s, where in (("mean", CENTRED), ("rstd", NORMS)) for got, bad in [
        ("NoneType", lambda v: None), ("list", lambda v: v.tolist()), ("float", lambda v: 1.0), ("float64", np.max)]),
    *(alien(where, f"{s} {got}", changed(s, to=lambda v, d=got: v.astype(d)), f"{s} must hold float", f"got {got}", ".astype(")
      for s, where in (("mean", CENTRED), ("rstd", NORMS)) for got in ["int64", "bool", "complex128", "object"]),
    *(alien(where, f"{s} masked", changed(s, to=np.ma.array), f"{s} must not be a masked array", "the mask would", "pass ")
      for s, where in (("mean", CENTRED), ("rstd", NORMS))),
    wrong("rms", "stats with a mean", lambda a: {"stats": (a["stats"].rstd, a["stats"].rstd)}, "stats of rms_norm have no mean",
          "got one", "write (None, rstd)"),
    wrong(NORMS, "weight left out", of_weight, "weight must be given, for the forward call had one", "got None",
          "pass the same weight"),
]  # fmt: skip

NEEDS = [
    *each(wrong, CENTRED, "needs", "needs must be 3 of True or False, for dx, dweight, dbias", "write (True, True, True)",
          True, None, (), (True,), (True, True), (True,) * 4, "yes", {True}, 3),
    *each(wrong, "rms", "needs", "needs must be 2 of True or False, for dx, dweight", "write (True, True)",
          True, None, (), (True,), (True, True, True), "no", 2),
    *each(wrong, CENTRED, "needs", "needs must be 3", "write", np.ones(3, bool), got="bool array of shape (3,)"),
    *each(alien, CENTRED, "needs", "needs must be True or False", "write bool(needs)", (1, 1, 1), (True, True, 1), got="got 1"),
]  # fmt: skip

OVER = ("got arrays that share memory", "pass a copy")

OUT = [
    *(wrong(where, f"out without dx {needs}", {"needs": needs}, "out is where dx is written", f"got needs={needs}",
            "leave out away, or ask for dx")
      for where, needs in [(CENTRED, (False, True, True)), (CENTRED, (False,) * 3), ("rms", (False, True))]),
    wrong(NORMS, "out over dy", shifted, "out must not overlap dy, unless it is x or dy itself", *OVER),
    wrong(NORMS, "out dy backwards", lambda a: {"out": a["dy"][::-1]}, "out must not overlap dy, unless it is x or dy", *OVER),
    *(wrong(where, f"out over {s}", over_statistic(s), f"out must not overlap {s}, unless it is x or dy itself", *OVER)
      for s, where in (("mean", CENTRED), ("rstd", NORMS))),
    *(alien(NORMS, f"out {kind}", {"out": bad}, "out must be a NumPy array", f"got {kind}", LIKE)
      for kind, bad in [("OnDevice", OnDevice()), ("MaskedArray", np.ma.ones((N, C, S), "f4"))]),
    wrong(NORMS, "out one row", {"out": read_only(N, C, S)}, "out must be writable", "got a read-only array", LIKE),
]  # fmt: skip

TABLE = [*of_the_norms(), *((name, row) for row in DY + STATS + NEEDS + OUT for name in row.where.split())]
IDS = [f"{name}: {row.what}" for name, row in TABLE]


def arguments(name: str, row: Bad) -> Kwargs:
    """Bad ones; what else would no longer fit, and so be a second fault, is left away."""
    a = good(name)
    change = row.change(a) if callable(row.change) else row.change
    if "x" in change and "out" not in change:
        a.pop("out")
    if "x" in change and "dy" not in change and "out" in change:
        a["dy"] = np.ones_like(change["x"])
    return a | change
