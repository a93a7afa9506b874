"""Every bad argument of the norms and of moments, and what its refusal must say.

One table: which functions, what is wrong, the exception, and what its message must say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import numbanorm
from numbanorm import Moments

Array = NDArray[Any]
Kwargs = dict[str, Any]
N, C, S = 4, 6, 5  # x is (N, C, S); layer and RMS norm take the last axis
ROWS, AFFINE, TRACKED = "layer rms", "layer group instance batch", "instance batch"
CHANNELS, NORMS = "group instance batch", "layer rms group instance batch"
READERS = NORMS + " moments update"

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "layer": numbanorm.layer_norm,
    "rms": numbanorm.rms_norm,
    "group": numbanorm.group_norm,
    "instance": numbanorm.instance_norm,
    "batch": numbanorm.batch_norm,
    "moments": numbanorm.moments,
    "update": lambda into, **rest: into.update(**rest),
    "merge": lambda into, other: into.merge(other),
    "rstd": lambda into, **rest: into.rstd(**rest),
    "explain": lambda **rest: numbanorm.explain(rest.pop("function"), **rest),
}


def good(name: str) -> Kwargs:
    """Arguments that the function takes; the norms are asked to update and to write as much as they can."""
    rng = np.random.default_rng(7)
    x = rng.normal(1, 2, (N, C, S)).astype(np.float32)
    into = Moments(axis=0).update(x)
    if name in ("merge", "rstd", "update"):
        return {"into": into} | {"merge": {"other": numbanorm.moments(x + 1, 0)}, "update": {"x": x}}.get(name, {})
    if name in ("moments", "explain"):
        return {"x": x} | ({"axis": 0} if name == "moments" else {"function": numbanorm.layer_norm, "normalized_shape": S})
    a = {"x": x, "weight": rng.uniform(1, 2, S if name in ROWS else C), "out": np.full_like(x, -7.0)}
    a |= {} if name == "rms" else {"bias": rng.uniform(1, 2, a["weight"].size).astype(np.float16)}
    if name in TRACKED:
        a |= {"running_mean": np.full(C, 0.5), "running_var": np.full(C, 2.0, np.float32), "num_batches_tracked": np.array([3])}
    own = {"instance": {"use_input_stats": True}, "batch": {"training": True}, "group": {"num_groups": 3}}
    return a | own.get(name, {"normalized_shape": S})


class Bad(NamedTuple):
    """`change` makes good arguments bad; the message holds the rule, what came and the remedy, in these words."""

    where: str
    what: str
    change: Kwargs | Callable[[Kwargs], Kwargs]
    error: type[Exception]
    rule: str
    got: str
    remedy: str

    @property
    def message(self) -> str:
        return f"{re.escape(self.rule)}.*: .*{re.escape(self.got)}.*; .*{re.escape(self.remedy)}"


def wrong(where: str, what: str, change: Any, *message: str) -> Bad:
    return Bad(where, what, change, ValueError, *message)


def alien(where: str, what: str, change: Any, *message: str) -> Bad:
    return Bad(where, what, change, TypeError, *message)


def each(
    make: Callable[..., Bad], where: str, name: str, rule: str, remedy: str, *bad: Any, got: str | None = None
) -> list[Bad]:
    """Bad values of one argument; `got`: how what came is written, if not by repr, or of an array by dtype and shape."""

    def written(value: Any) -> str:
        if got is not None:
            return got.format(value)
        return f"{value.dtype} array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)

    return [make(where, f"{name} {value!r}"[:50], {name: value}, rule, written(value), remedy) for value in bad]


def of_type(name: str, dtype: Any) -> Callable[[Kwargs], Kwargs]:
    return lambda a: {name: np.ones(a[name].shape, np.int8).astype(dtype)}


def torch_tensor(v: Array) -> Any:
    return pytest.importorskip("torch", reason="torch is not installed, so no tensor can be passed").tensor(v)


def not_numbers(name: str, where: str) -> list[Bad]:
    """What an array of numbers must not be."""
    dtypes: dict[str, Any] = {
        "int64": "i8", "uint8": "u1", "bool": "?", "object": "O", "complex64": "c8", "<U4": "U4", "datetime64[s]": "M8[s]",
        "[('f0', ": "i4,f4", "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "int4": ml_dtypes.int4,
    }  # fmt: skip
    if np.finfo(np.longdouble).nmant > 52:  # else long double is another name of float64
        dtypes[np.dtype(np.longdouble).name] = np.longdouble
    kinds: dict[str, Callable[[Array], Any]] = {
        "list": lambda v: v.tolist(), "tuple": lambda v: tuple(v.tolist()), "memoryview": memoryview,
        "float32": lambda v: v.reshape(-1)[0].astype(np.float32), "str": str, "Tensor": lambda v: torch_tensor(v),
    }  # fmt: skip
    rule, remedy = f"{name} must be a NumPy array", f"write np.asarray({name}"
    return [
        *(
            alien(where, f"{name} of {got}", of_type(name, dtype), f"{name} must hold float", f"got {got}", f"{name}.astype(")
            for got, dtype in dtypes.items()
        ),
        *(
            alien(where, f"{name} a {kind}", lambda a, f=made: {name: f(a[name])}, rule, f"got {kind}", remedy)
            for kind, made in kinds.items()
        ),
        alien(where, f"{name} masked", lambda a: {name: np.ma.array(a[name], mask=a[name] > 1)},
                 f"{name} must not be a masked array", "the mask would be lost", f"pass {name}.filled("),
    ]  # fmt: skip


def read_only(*shape: int, dtype: Any = np.float32) -> Array:
    return np.broadcast_to(np.full(shape, 3, dtype), shape)


def shifted(a: Kwargs) -> Kwargs:
    """x and out overlap by all but one sample."""
    room = np.ones((N + 1, C, S), np.float32)
    return {"x": room[:-1], "out": room[1:]}


def transposed(a: Kwargs) -> Kwargs:
    """out is x with two axes exchanged."""
    x = np.ones((N, S, S), np.float32)
    return {"x": x, "out": x.transpose(0, 2, 1)}


def one_memory(*names: str, **rest: Any) -> Callable[[Kwargs], Kwargs]:
    """Overlapping views of one piece of memory, each of its argument's shape."""

    def change(a: Kwargs) -> Kwargs:
        room = np.ones(N * C * S + len(names), np.float32)
        return {name: room[k : k + a[name].size].reshape(a[name].shape) for k, name in enumerate(names)} | rest

    return change


def ones(*shape: int) -> Kwargs:
    return {"x": np.ones(shape, np.float32)}


TOO_FEW, LARGER = "a variance needs more than one value per ", "use a larger batch, or given statistics"

X = [
    *not_numbers("x", READERS),
    alien(READERS, "x None", {"x": None}, "x must be a NumPy array", "got NoneType", "write np.asarray(x"),
    wrong(CHANNELS, "x of 1 axis", ones(C), "x of at least 2 axes, (N, C, ...)", "got shape (6,)", "write x[None]"),
    wrong(CHANNELS, "x of 0 axes", ones(), "x of at least 2 axes, (N, C, ...)", "got shape ()", "write x[None]"),
    wrong(ROWS, "x of 0 axes", ones(), "must be the last axes of x", "(5,) for shape ()", "the last 0 axes"),
    wrong("group", "x of 5 channels", ones(4, 5), "must divide the channels", "got 5 channels and num_groups=3", "1, 5"),
    wrong(TRACKED, "x of 5 channels", ones(4, 5, 5), "must have shape (5,)", "got (6,)", "one number a channel"),
    wrong("batch", "1 value a channel", ones(1, C), TOO_FEW + "channel", "got shape (1, 6)", LARGER),
    wrong("batch", "1x1 picture", ones(1, C, 1, 1), TOO_FEW + "channel", "got shape (1, 6, 1, 1)", LARGER),
    wrong("instance", "1 value a channel", ones(4, C), TOO_FEW + "channel", "got shape (4, 6)", LARGER),
    wrong("instance", "1x1 pictures", ones(4, C, 1, 1), TOO_FEW + "channel", "got shape (4, 6, 1, 1)", LARGER),
    wrong("group", "1 value", ones(1, 3), TOO_FEW + "group", "got shape (1, 3)", LARGER),
]

NOT_AXES = "normalized_shape must be the last axes of x"

SHAPES = [
    *each(wrong, ROWS, "normalized_shape", NOT_AXES, "the last 1 axes are (5,)", 6, -1, 0, got="=({},) for shape (4, 6, 5)"),
    *each(wrong, ROWS, "normalized_shape", NOT_AXES, "the last 2 axes are (6, 5)", (5, 6), (4, 6), (1, 5)),
    *each(wrong, ROWS, "normalized_shape", NOT_AXES, "the last 3 axes are (4, 6, 5)", (1, 4, 6, 5)),
    *each(wrong, ROWS, "normalized_shape", "must name at least one axis", "pass x.shape[-1:]", ()),
    *each(alien, ROWS, "normalized_shape", "must be an integer or a tuple", "write (3,) or (3, 4)", 5.0, "5", None, {5}),
    *each(alien, ROWS, "normalized_shape", "must be an integer", "write", (5.0,), got="5.0"),
    *each(alien, ROWS, "normalized_shape", "must be an integer", "write", True, (True,), (6, True), got="True"),
    *each(alien, ROWS, "normalized_shape", "normalized_shape must be", "write", np.array([6, 5]), got=""),
    *each(wrong, "group", "num_groups", "must be at least 1", "1 normalizes all 6 channels together", 0, -2),
    *each(wrong, "group", "num_groups", "must divide the channels", "1, 2, 3, 6", 4, 12, got="6 channels and num_groups={}"),
    *each(alien, "group", "num_groups", "must be an integer", "write int(num_groups)", 2.0, True, np.True_, "2", None),
    *each(alien, "group", "num_groups", "num_groups must be an integer", "write int(num_groups)", np.array([2]), got=""),
    *each(wrong, CHANNELS, "channel_axis", "must be an axis of x", "use 1, or -1 for", 3, -4, got="{} for shape (4, 6, 5)"),
    *each(wrong, "group instance", "channel_axis", "must not be the batch axis", "move the", 0, -3, got="(4, 6, 5)"),
    *each(
        wrong,
        "group instance",
        "batch_axis",
        "batch_axis must be 0, or None for one sample alone",
        "move the batch to the",
        1,
        -1,
        True,
        False,
        0.0,
        "0",
    ),
    *each(wrong, "group instance", "batch_axis", "batch_axis must be 0, or None", "move the", np.zeros(1, int), got="int64"),
    *each(alien, CHANNELS, "channel_axis", "must be an integer", "write int(channel_axis)", 1.0, True, "1", None),
]

PARAMETERS = [
    *not_numbers("weight", NORMS),
    *not_numbers("bias", AFFINE),
    *(
        wrong(norm, f"{name} {shape}", {name: np.ones(shape)}, f"{name} must have shape ({n},)", f"got {shape}", remedy)
        for name, where in (("weight", NORMS), ("bias", AFFINE))
        for norm, n in [(norm, S if norm in ROWS else C) for norm in where.split()]
        for shape, remedy in [
            *(((k,), f"{name} needs one element for each of the {n}") for k in (n + 1, 1, 0, 3)),
            *((s, f"write {name}.reshape(({n},))") for s in ((n, 1), (1, n, 1))),
            ((), f"{name} needs one element for each"),
        ]
    ),
]

FLAG = "must be True or False"

NUMBERS = [
    *each(wrong, NORMS + " rstd", "eps", "must be finite and not negative", "eps is 1e-5", -1e-5, np.nan, np.inf, -np.inf),
    *each(alien, NORMS + " rstd", "eps", "must be a number", "write float(eps)", "1e-5", True, 1e-5j, []),
    *each(alien, NORMS + " rstd", "eps", "must be a number", "write float(eps)", np.array(True), np.array("1"), np.array(None)),
    *each(alien, AFFINE + " rstd", "eps", "must be a number", "write float(eps)", np.array([1e-5])),
    *each(alien, "rms", "eps", "rms_norm has no bias", "add the bias to the result", np.ones(S), got="array of shape (5,)"),
    *each(alien, AFFINE + " rstd", "eps", "must be a number", "write float(eps)", None),
    *each(wrong, NORMS, "eps", "must be finite", "the usual eps is 1e-5", 10**400, got=""),
    *each(wrong, TRACKED, "momentum", "must lie in [0, 1]", "default is 0.1", -0.1, 1.1, np.nan, np.inf, 2),
    *each(alien, TRACKED, "momentum", "must be a number", "write float(momentum)", "0.1", True, np.array([0.1])),
    wrong(TRACKED, "momentum None, no counter", {"momentum": None, "num_batches_tracked": None}, "momentum=None averages over",
              "got num_batches_tracked=None", "pass num_batches_tracked=np.array(0)"),
    *each(wrong, READERS, "method", "must be 'two_pass', 'welford' or None", "leave it out", "Welford", "", 1, b"welford"),
    *each(wrong, READERS, "method", "must be 'two_pass', 'welford' or None", "leave it out", "one_read"),
    *each(wrong, TRACKED, "convention", "must be 'torch' or 'keras'", "'torch' is the default", "tf", None, 1),
    *each(wrong, NORMS + " moments", "backend", "must be one of 'cpu' or None", "leave it out", "gpu", "CPU", "", 0),
    *each(alien, NORMS, "exact", FLAG, "write bool(exact)", 1, None, "yes"),
    *each(alien, NORMS, "return_stats", FLAG, "write bool(return_stats)", 1, None, "yes"),
    *each(alien, "batch", "training", FLAG, "write bool(training)", 1, None, "yes"),
    *each(alien, "instance", "use_input_stats", FLAG, "write bool(use_input_stats)", 1, None, "yes"),
]  # fmt: skip

EVALUATE = {"instance": {"use_input_stats": False}, "batch": {"training": False}}
GIVE = ("running_mean and running_var must be given", "got None", "or pass ")
DO = ("got arrays that do", ".copy()")
COUNTER = ("num_batches_tracked must be an integer array of one element", "write np.array(0)")


def shared(other: str) -> str:
    return f"must not share memory with {other}, for it is updated"


def running(name: str) -> list[Bad]:
    here, copy = (TRACKED, name, f"{name} must have shape (6,)", "it holds one number a channel"), f"pass {name}.copy()"
    return [
        *each(wrong, *here, np.ones(5), np.ones(1), np.ones(7), got="got ({0.size},)"),
        *each(wrong, *here, np.ones((1, C)), np.ones((C, 1)), np.ones(()), got="got {0.shape}"),
        *each(alien, TRACKED, name, f"{name} must be a NumPy array", "write np.asarray(", [0.0] * C, (1.0,), 0.0, got="got "),
        *each(alien, TRACKED, name, f"{name} must hold floating-point numbers", f"write {name}.astype(", np.ones(C, "i8"),
              np.ones(C, "?"), np.ones(C, "c8"), np.ones(C, "O"), np.ones(C, "U4"), got="got {0.dtype}"),
        *each(alien, TRACKED, name, f"{name} must not be a masked array", f"pass {name}.filled(", np.ma.ones(C), got=""),
        wrong(TRACKED, f"{name} read-only", {name: read_only(C)}, f"{name} must be writable", "got a read-only array", copy),
        wrong(TRACKED, f"{name} broadcast", {name: as_strided(np.ones(1), (C,), (0,))}, name, "got a broadcast view", copy),
        *(wrong(TRACKED, f"{name} over {k}", one_memory(k, name), shared(k), *DO) for k in ("x", "weight", "bias")),
        *(wrong(norm, f"no {name}", given | {name: None}, *GIVE) for norm, given in EVALUATE.items()),
        wrong(TRACKED, f"only no {name}", {name: None}, "must be given together", f"got {name}=None", "both, or neither"),
    ]  # fmt: skip


RUNNING = [
    *running("running_mean"),
    *running("running_var"),
    wrong(TRACKED, "running statistics shared", one_memory("running_mean", "running_var"), shared("running_var"), *DO),
    *(wrong(norm, "none", given | {"running_mean": None, "running_var": None}, *GIVE) for norm, given in EVALUATE.items()),
    *each(alien, TRACKED, "num_batches_tracked", *COUNTER, 3, np.int64(3), [3], np.array(3.0), np.array([1, 2]), np.True_),
    wrong(TRACKED, "counter read-only", {"num_batches_tracked": read_only(dtype=int)}, "must be writable", "read-only", "cop"),
    wrong(TRACKED, "counter negative", lambda a: {"num_batches_tracked": np.array(-1), "momentum": None}, "num_ba", "-1", ""),
]  # fmt: skip

LIKE = "write np.empty_like(x)"

OVERLAP = {
    name: (f"out must not overlap {name}, unless it is x", "got arrays that share memory", "pass a copy")
    for name in ("x", "weight", "bias", "running_mean", "running_var")
}

OUT = [
    *(wrong(NORMS, f"out {shape}", {"out": np.ones(shape, "f4")}, "the shape of x, (4, 6, 5)", f"got {shape}", LIKE)
      for shape in [(4, 6), (4, 6, 6), (1, 6, 5), (2, 4, 6, 5), (120,), (5, 6, 4), ()]),
    *(alien(NORMS, f"out {dtype}", {"out": np.ones((N, C, S), dtype)}, "dtype of x, float32", f"got {np.dtype(dtype)}", LIKE)
      for dtype in ["f8", "f2", "i4", "O", np.dtype("f4").newbyteorder()]),
    *(alien(NORMS, f"out a {type(o).__name__}", {"out": o}, "out must be a NumPy array", f"got {type(o).__name__}", LIKE)
      for o in [[0.0], "out", 1.0, np.ma.ones((N, C, S), np.float32)]),
    alien(NORMS, "out a Tensor", lambda a: {"out": torch_tensor(a["out"])}, "out must be a NumPy array", "got Tensor", LIKE),
    wrong(NORMS, "out read-only", {"out": read_only(N, C, S)}, "out must be writable", "got a read-only array", LIKE),
    wrong(NORMS, "out shifted", shifted, *OVERLAP["x"]),
    wrong(NORMS, "out reversed", lambda a: {"out": a["x"][::-1]}, *OVERLAP["x"]),
    wrong(ROWS, "out transposed", transposed, *OVERLAP["x"]),
    wrong(NORMS, "out over weight", one_memory("out", "weight"), *OVERLAP["weight"]),
    wrong(AFFINE, "out over bias", one_memory("out", "bias"), *OVERLAP["bias"]),
    *(wrong(norm, f"out over {k}{', evaluation' if given else ''}", one_memory("out", k, **given), *OVERLAP[k])
      for norm in EVALUATE for given in ({}, EVALUATE[norm]) for k in ("running_mean", "running_var")),
]  # fmt: skip

MERGEABLE = [
    *each(wrong, "moments", "axis", "axis must name axes of x", "use -1 for", 3, -4, (0, 5), got="{} for shape (4, 6, 5)"),
    *each(wrong, "moments", "axis", "axis must name each axis once", "", (0, 0), (0, -3), got="{} for shape (4, 6, 5)"),
    *each(alien, "moments", "axis", "axis must be an integer", "write", 1.0, "0", True),
    *each(alien, "moments", "axis", "axis must be an integer", "write", (0, 1.0), got="1.0"),
    *each(alien, "moments update", "where", "where must be a NumPy array of bool", "write np.asarray(where, dtype=bool)",
          np.ones(5, "u1"), [True] * 5, got="got "),
    *each(wrong, "moments", "where", "where must broadcast to the shape of x, (4, 6, 5)", "give it an axis of length 1",
          np.ones(4, bool), got="got {0.shape}"),
    *each(alien, "moments update", "weights", "weights must be a NumPy array of numbers", "write np.asarray(weights", [1.0] * 5,
          np.ones(5, "O"), 1.0, np.ones(5, bool), got="got "),
    *each(wrong, "moments", "weights", "weights must broadcast to the shape of x, (4, 6, 5)", "a weight of each row",
          np.ones(4), np.ones((1, 4, 6, 5)), got="got {0.shape}"),
    *each(wrong, "moments update", "weights", "weights must be finite, and 0 or more", "use 0", np.full(5, -1.0),
          np.full(5, np.nan), np.full(5, np.inf), got="got "),
    *each(wrong, "moments update", "nan", "nan must be 'propagate' or 'omit'", "write 'omit'", "drop", None, True),
    wrong("moments", "welford with nan left out", {"nan": "omit", "method": "welford"},
          "method must be None or 'two_pass' with where", "got 'welford'", "leave it out"),
    wrong("merge", "other axes", {"other": Moments(3)}, "must have the same shape", "(6, 5) and ()", "same axes"),
    wrong("update", "other shape", {"x": np.ones((2, 4, 4))}, "must have the same shape", "(6, 5) and (4, 4)", "the same axes"),
    *each(alien, "merge", "other", "Moments", "", 3, None, np.ones(3), (1, 2, 3), got=""),
    *each(alien, "explain", "function", "one of the norms", "", len, None, "layer_norm", got=""),
]  # fmt: skip

BROADCASTS, WELFORD = "where must broadcast to the shape of x, (4, 6, 5)", "method must be None or 'two_pass' with where"

MASKS = [
    *each(alien, NORMS, "where", "where must be a NumPy array of bool", "write np.asarray(where, dtype=bool)", np.ones(5, "u1"),
          np.ones((N, C, S)), np.ones(5, "O"), got="got an array of {0.dtype}"),
    *each(alien, NORMS, "where", "where must be a NumPy array of bool", "or where != 0", [True] * 5, True,
          np.True_, "x", got="got "),
    alien(NORMS, "where masked", {"where": np.ma.ones(S, bool)}, "must be a NumPy array of bool", "got MaskedArray", "write"),
    alien(NORMS, "where a Tensor", lambda a: {"where": torch_tensor(a["x"] > 0)}, "a NumPy array of bool", "got Tensor", ""),
    *each(wrong, NORMS, "where", BROADCASTS, "give it an axis of length 1", np.ones(4, bool), np.ones((6, 1, 5), bool),
          np.ones((1, 4, 6, 5), bool), np.ones((0,), bool), got="got {0.shape}"),
    *each(alien, "batch", "comm", "comm must be a communicator of mpi4py", "write mpi4py.MPI.COMM_WORLD", 5, "world"),
    *each(wrong, NORMS, "fill", "fill is for what where leaves out", "pass where, or no fill", 0.0, np.nan, got="got fill="),
    *(alien(NORMS, f"fill {bad!r}", {"where": np.ones(S, bool), "fill": bad}, "fill must be a number", f"got {bad!r}", "write")
      for bad in ("0", True, [0.0])),
    wrong(AFFINE, "welford", {"where": np.ones(S, bool), "method": "welford"}, WELFORD, "got 'welford'", "leave it out"),
    wrong(NORMS, "out over where", lambda a: {"where": a["out"].view(bool)[..., :S]}, "out must not overlap where",
          "got arrays that share memory", "pass a copy"),
    *(wrong(TRACKED, f"{name} over where", lambda a, n=name: {n: a[n], "where": a[n].view(bool)[:S]}, shared("where"), *DO)
      for name in ("running_mean", "running_var")),
]  # fmt: skip

# what is added to weights, axes that are named, and weights of elements
OTHERS = [
    *each(wrong, NORMS, "weight_offset", "weight_offset must be finite", "1.0 is that of Gemma", np.nan, np.inf),
    *each(alien, NORMS, "weight_offset", "weight_offset must be a number", "write float(", "1", None, True, [1.0]),
    wrong(NORMS, "weight_offset without a weight", {"weight": None, "weight_offset": 1.0}, "weight_offset is added to weight",
          "weight=None", "pass a weight"),
    *each(wrong, ROWS, "axis", "axis must name axes of x", "use -1 for", 3, -4, got="{} for shape (4, 6, 5)"),
    wrong(ROWS, "axis twice", {"axis": (1, 1)}, "axis must name each axis once", "(1, 1)", "leave out"),
    wrong(ROWS, "axis from last to first", {"axis": (2, 1)}, "axis must name axes from first to last", "(2, 1)", "write (1,"),
    wrong(ROWS, "axis of another size", {"axis": 1}, "have the sizes of the axes that axis names, (6,)", "(5,)", "x.shape"),
    *each(alien, ROWS, "axis", "axis must be an integer", "write", "1", 1.0, got="got "),
    wrong(ROWS, "out beside axis", {"axis": 1, "normalized_shape": C, "out": np.zeros((N, S, C), np.float32)},
          "out must have the shape of x, (4, 6, 5)", "got (4, 5, 6)", "write np.empty_like(x)"),
    *each(alien, "batch", "weights", "weights must be a NumPy array of numbers", "write np.asarray(weights", [1.0], 1.0,
          got="got "),
    *each(wrong, "batch", "weights", "weights must broadcast to the shape of x, (4, 6, 5)", "a weight of each row", np.ones(4),
          got="got {0.shape}"),
    *each(wrong, "batch", "weights", "weights must be finite, and 0 or more", "use 0", np.full(5, -1.0), got="got "),
    wrong("batch", "weights of given statistics", {"weights": np.ones(5), "training": False}, "weights must be None with",
          "got an array", "leave it out"),
    *(alien("batch", f"{name} beside weights", {"weights": np.ones(5), name: 1}, f"{name} must be True or False", "got 1",
            f"write bool({name})") for name in ("exact", "return_stats")),
]  # fmt: skip

SUMMED = "layer rms group"  # norms that take x + residual
RELU = {"activation": "relu"}

# what stands around a norm
AROUND = [
    *(wrong(where, f"{name} of other shape", {name: np.ones(shape, np.float32)}, f"{name} must have the shape of x, (4, 6, 5)",
            f"got {shape}", "") for where, name in ((SUMMED, "residual"), (NORMS, "addend")) for shape in ((1, 6, 5), (5,))),
    *(alien(where, f"{name} float64", {name: np.ones((N, C, S))}, f"{name} must have the dtype of x, float32", "got float64",
            f"write {name}.astype(x.dtype)") for where, name in ((SUMMED, "residual"), (NORMS, "addend"))),
    *(wrong(where, f"out over {name}", lambda a, n=name: {n: a["out"]}, f"out must not overlap {name}", "share memory", "copy")
      for where, name in ((SUMMED, "residual"), (NORMS, "addend"))),
    *each(wrong, NORMS, "activation", "activation must be None, one of 'relu'", "call others on the result", "gelu", "silu", 1,
          ("relu", 0.5), got="got "),
    *each(wrong, NORMS, "activation", "activation must have a slope in [0, 1)", "write ('leaky_relu', 0.01)",
          ("leaky_relu", -0.5), ("leaky_relu", 1), got="got "),
    alien(NORMS, "slope no number", {"activation": ("leaky_relu", "0.1")}, "activation must be a number", "got '0.1'", "write"),
    wrong(SUMMED, "nothing to return", {"return_residual": True}, "return_residual returns x + residual", "residual=None",
          "pass one"),
    alien(SUMMED, "return_residual 1", {"return_residual": 1}, "return_residual must be", "got 1", ""),
    wrong(NORMS, "fill around", {**RELU, "where": np.ones(S, bool), "fill": 0.0}, "where and fill must be left out beside",
          "got both", "add and activate apart"),
    wrong(ROWS, "axis around", {**RELU, "axis": 1, "normalized_shape": 6}, "axis must be left out beside residual", "got both",
          "add and activate apart"),
    wrong("batch", "weights around", {**RELU, "weights": np.ones(5)}, "weights must be left out beside residual", "got both",
          "add and activate apart"),
    wrong("batch", "weights and comm", {"comm": 5, "weights": np.ones(5)}, "comm must be left out beside weights", "got both",
          "call `standardize`"),
]  # fmt: skip

TABLE = [
    (name, row)
    for row in X + SHAPES + PARAMETERS + NUMBERS + RUNNING + OUT + MERGEABLE + MASKS + OTHERS + AROUND
    for name in row.where.split()
]
IDS = [f"{name}: {row.what}" for name, row in TABLE]


def arguments(name: str, row: Bad) -> Kwargs:
    a = good(name)
    change = row.change(a) if callable(row.change) else row.change
    if "x" in change and "out" not in change:
        a.pop("out", None)  # it would not fit, and so be a second fault
    return a | change


def memory(value: Any) -> Any:
    """All bytes behind an argument, those around a view too."""
    if isinstance(value, Moments):
        return value.count, memory(value.mean), memory(value.m2), value.axis
    if not isinstance(value, np.ndarray):
        return repr(value)
    mask = np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b""
    while isinstance(value.base, np.ndarray):
        value = value.base
    return value.dtype, value.shape, np.asarray(value).tobytes(), mask


def check_refused(call: Callable[[], Any], a: Kwargs, row: Bad) -> None:
    before = {name: memory(value) for name, value in a.items()}
    with pytest.raises(row.error, match=row.message) as caught:
        call()
    assert type(caught.value) is row.error
    assert {name: memory(value) for name, value in a.items()} == before


def no_groups() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The call in words, and the call."""
    for shape in ((2, 6, 4), (2, 0, 4), (0, 0)):
        yield f"group_norm(zeros({shape}), 0)", partial(numbanorm.group_norm, np.zeros(shape, np.float32), 0)


NO_GROUPS = list(no_groups())

# dtype, and bytes from one channel's number to the next
STEPS = [("f4", 0), ("f4", 2), ("f4", 1), ("f4", -3), ("f8", 4)]


def overlapping_itself(dtype: str, step: int) -> tuple[Array, Array]:
    """Room, and running statistics in it."""
    room = np.ones(2 * C, dtype)
    return room, as_strided(room[C:], (C,), (step,))
