"""The one place from which kernels are compiled and started, in one thread or in many."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial, wraps
from typing import Any, ParamSpec, TypeVar

from ..runtime.uninterrupted import unbroken
from ..spec.call import Call
from .arith.arithmetic import Element
from .arith.environment import DEFAULT, KEEP, exchange
from .arith.vectors import STORAGE
from .compile import parts_left_to, types
from .entry.addresses import BACKWARD_AT, FORWARD_AT, run_backward_at, run_forward_at
from .entry.calls import BACKWARD, FORWARD, Program, deal, program, run_backward, run_forward
from .entry.slants import SLANTS, run_slants
from .families.columns import columns
from .families.columns_backward import columns_backward
from .families.rows_backward import rows_backward
from .families.runs import runs
from .families.runs_backward import runs_backward
from .families.turned import turned, turned_backward
from .layout import Turning
from .schedule.forward import Schedule
from .schedule.turned import rows_at_once
from .threads import GUARD as GUARD
from .threads import Launch

KERNELS = (runs, columns, runs_backward, columns_backward, rows_backward)
ANY, NUMBERS, INTEGERS, NUMBER = (*[types.CPointer(t) for t in (types.uint8, types.float64, types.int64)], types.float64)
# what kernels take between the flags and the pieces, behind the arrays of x's type
ARGUMENTS = (NUMBERS, NUMBERS, types.Array(NUMBER, 2, "C"), NUMBERS, NUMBERS, INTEGERS, NUMBER, NUMBER)
GRADIENT_ARGUMENTS = (*[NUMBERS] * 5, INTEGERS, NUMBER)
FAMILIES = {k.__name__: k for k in KERNELS}
P = ParamSpec("P")
T = TypeVar("T")


def compiled(kernel: Any, *signature: Any) -> Any:
    """A kernel for one signature; compiled, or taken from disk, the first time."""
    with nullcontext() if kernel is deal else parts_left_to(kernel):  # what runs in threads is no part of it
        kernel.compile(signature)
    return kernel.overloads[signature]


def machine_code(kernel: Any, *signature: Any) -> int:
    """Its address."""
    result = compiled(kernel, *signature)
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


@cache
def family_address(
    family: str, storage: str, single: bool, at_once: bool, masked: bool, stages: tuple[str, ...] = ("", "", "")
) -> int:
    """Machine code of a family for one storage type and arithmetic, see `arithmetic.Element`; masked: whether x has a mask.

    stages: of x, dy and dx, or x and y.
    """
    stored = getattr(types, storage)

    def pointer(masked: bool = False, stage: str = "") -> Any:
        plain = stored == types.float64 and not masked and not stage
        return types.CPointer(stored if plain else Element(stored, single, at_once, masked, stage))

    backward = family.endswith("backward")
    arrays = (pointer(masked, stages[0]), *[pointer(stage=stage) for stage in stages[1 : 2 + backward]])
    arguments = (*arrays, *(GRADIENT_ARGUMENTS if backward else ARGUMENTS))
    return unbroken(machine_code, FAMILIES[family], types.int64, types.int64, *arguments, *[types.int64] * 3)


def stages_of(call: Call) -> tuple[str, ...]:
    """What joins the arrays, or whether their rows stand apart: of x, dy and dx, or x and y."""
    if call.gaps and not call.turned:
        return "gaps", *["gaps"] * call.backward, "gaps" * call.gaps_out
    if call.backward:
        return "", "gate" * bool(call.activation), "plus" * call.residual
    return "plus" * call.residual, " ".join(["plus"] * call.addend + ["act"] * bool(call.activation))


@cache
def dealer(backward: bool) -> int:
    """Machine code of what deals a kernel's pieces to threads."""
    if not GUARD.layer:
        GUARD.load()  # which Numba would do as it compiles, in whatever thread that is
    arguments = (ANY, ANY, ANY, *GRADIENT_ARGUMENTS) if backward else (ANY, ANY, *ARGUMENTS)
    return unbroken(machine_code, deal, *[types.int64] * 5, types.BaseTuple.from_types(arguments))


@cache
def entry(kernel: Any, signature: tuple[Any, ...]) -> Any:
    """The entry point that Numba's dispatcher would call."""
    return unbroken(compiled, kernel, *signature).entry_point


@cache
def turning_address(backward: bool, itemsize: int) -> int:
    """Machine code of `families.turned` for elements of so many bytes."""
    element = types.CPointer({2: types.uint16, 4: types.float32, 8: types.float64}[itemsize])
    arrays, others = ([element] * 3, GRADIENT_ARGUMENTS) if backward else ([element] * 2, ARGUMENTS)
    wrapper = turned_backward if backward else turned
    return unbroken(machine_code, wrapper, types.int64, types.int64, *arrays, *others, *[types.int64] * 3)


def prepare(s: Schedule, call: Call, places: int, count: int, times: int, alone: bool = False) -> tuple[Any, Program]:
    """Bind a schedule to its kernels: entry point and program. alone: dx alone is written, from sums that are given."""
    shared = any(step.threads > 1 for step in s.steps)
    # without a mean, or with a given one, there is one way: it is in the kernels that are called more often
    at_once = not call.backward and (call.method == "one_read" or call.given or not call.center)
    family = family_address(s.family, STORAGE[call.dtype.name], not call.exact, at_once, call.where, stages_of(call))
    if call.turned:
        itemsize = call.dtype.itemsize
        turning = Turning(family, call.turned, rows_at_once(call.plan, itemsize), itemsize)
        s, family = replace(s, sizes=(*s.sizes, *turning)), turning_address(call.backward, itemsize)
    addresses = family, dealer(call.backward) if shared else 0
    run = entry(*((run_slants, SLANTS) if alone else (run_backward, BACKWARD) if call.backward else (run_forward, FORWARD)))
    return Launch(run, call.plan.size) if shared else run, program(s, addresses, call, places, count, times)


@cache
def entry_at(backward: bool) -> Any:
    """The entry point for addresses, which calls that for arrays."""
    if backward:
        return partial(entry(run_backward_at, BACKWARD_AT), unbroken(machine_code, run_backward, *BACKWARD))
    return partial(entry(run_forward_at, FORWARD_AT), unbroken(machine_code, run_forward, *FORWARD))


def at_addresses(run: Any, call: Call) -> Any:
    """What `prepare` gave for arrays, for addresses."""
    run_at = entry_at(call.backward)
    return Launch(run_at, call.plan.size) if isinstance(run, Launch) else run_at


def in_default_environment(work: Callable[P, T]) -> Callable[P, T]:
    """A function that NumPy computes in: it has the floating-point environment of the kernels."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        switch = entry(exchange, (types.int64,))
        before = switch(KEEP)
        try:
            switch(DEFAULT)
            return work(*args, **kwargs)
        finally:
            switch(before)

    return run
