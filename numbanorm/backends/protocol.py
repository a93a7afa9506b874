"""Protocols of the seam: of an array space, which functions use, and of a backend, which an array space has.

An array space has the arrays of a call: it checks, makes and copies them. The module `host` is the one of NumPy's arrays, and
`cuda.arrays.space.Device` that of arrays on a device, an object for each call. A backend is a module over calls and contiguous
arrays. mypy holds both kinds of both to this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..spec.call import Call, Known
from ..spec.plan import Plan, Shape

Named = tuple[tuple[str, Any], ...]  # arguments and their names
Two = tuple[Any, Any]


class Tracked(Protocol):
    """Running statistics that are to be updated, in their space."""

    mean: Any
    var: Any
    counter: Any
    shares: tuple[float, float] | None  # of old and new; None averages over all batches
    unbiased: bool


class Backend(Protocol):
    """Kernels over contiguous arrays of one space."""

    def normalize(self, call: Call, x: Any, y: Any, weight: Any, bias: Any, eps: float, known: Known, /) -> Any:
        """Write y (which may be x) and return the statistics, float64 (4, B * G): mean, its low part, m2 and rstd."""

    def measure(self, call: Call, x: Any, /) -> Any:
        """Return the statistics of `normalize` with eps 0, and write nothing."""

    def differentiate(self, call: Call, x: Any, dy: Any, dx: Any, weight: Any, stats: Two, grads: Any, /) -> None:
        """Write dx (which may be x or dy) and grads (2, G * K), dweight and dbias, of which only what is wanted is defined."""

    def describe(self, call: Call, x: Any, /) -> str:
        """Say which kernels would run, and why."""


class CompiledEntry(Backend, Protocol):
    """A backend that looks at arguments in compiled code, too."""

    def mask_of(self, call: Call, where: Any, shape: Shape, /) -> Any:
        """A mask of x of this shape, as kernels walk through it."""

    def normalize(
        self, call: Call, x: Any, y: Any, weight: Any, bias: Any, eps: float, known: Known, mask: Any = None, /
    ) -> Any:
        """As `Backend.normalize`; with a mask (5, B * G): how many elements were measured, too. mask: or see `spec.around`."""

    def differentiate(
        self, call: Call, x: Any, dy: Any, dx: Any, weight: Any, stats: Two, grads: Any, mask: Any = None, /
    ) -> None:
        """As `Backend.differentiate`."""

    def fill(self, y: Any, mask: Any, value: float, /) -> None:
        """Write a value where a mask is not set."""

    def measure(self, call: Call, x: Any, scale: Any = None, mask: Any = None, /) -> Any:
        """As `Backend.measure`; scale: ones, where sums that leave float64's range are left divided by something else."""

    def try_forward(self, call: Call, x: Any, y: Any, weight: Any, bias: Any, eps: float, known: Known, stats: Any, /) -> int:
        """As `normalize`, of arguments that nobody has checked: 0, or why it was not done."""

    def try_backward(self, call: Call, x: Any, dy: Any, dx: Any, weight: Any, stats: Two, grads: Any, /) -> int:
        """As `differentiate`, likewise."""

    def slant(self, call: Call, x: Any, dy: Any, dx: Any, stats: Any, weight: Any, /, *sums: Any) -> None:
        """Write dx for statistics (mean, its low part, rstd) and sums over all elements that have them."""

    def try_forward_at(self, call: Call, addresses: Sequence[int], codes: int, eps: float, shares: Any, stats: Any, /) -> int:
        """`try_forward` of the addresses of x, y, weight, bias, mean and variance, 0 for None; codes: of their dtypes."""

    def try_backward_at(self, call: Call, addresses: Sequence[int], codes: int, stats: Any, /) -> int:
        """`try_backward` of those of x, dy, dx, weight, dweight and dbias; stats: what `try_forward_at` wrote."""

    def update_running(self, stats: Any, samples: int, n: int, mean: Any, var: Any, old: float, new: float, /) -> None:
        """Take the statistics of a batch into running statistics."""

    def update_included(self, stats: Any, plan: Plan, unbiased: bool, mean: Any, var: Any, old: float, new: float, /) -> None:
        """As `update_running`, of what a mask let in."""


class Space(Protocol):
    """The arrays of a call. Checks raise TypeError or ValueError, and change nothing."""

    def array(self, name: str, x: Any, /) -> Any:
        """An array of a known dtype."""

    def parameter(self, name: str, value: Any, shape: Shape, /) -> Any:
        """A weight or bias of this shape, or None."""

    def running(self, name: str, value: Any, channels: int, update: bool, /) -> Any:
        """A running statistic, or None."""

    def mask(self, value: Any, shape: Shape, /) -> Any:
        """A mask that broadcasts to x's shape, or None."""

    def counter(self, value: Any, /) -> Any:
        """num_batches_tracked, or None."""

    def like(self, name: str, value: Any, x: Any, /) -> Any:
        """An array of x's shape and dtype."""

    def stats(self, value: Any, shape: Shape, center: bool, /) -> Two:
        """Mean (None without `center`) and rstd, of one axis."""

    def output(self, out: Any, x: Any, others: Named, /, may_be: tuple[str, ...] = ("x",)) -> None:
        """`out` can hold what x can, and shares memory with none of the others but those that it may be."""

    def apart(self, updated: Named, others: Named, /) -> None:
        """Raise if what is updated shares memory with anything else."""

    def shares(self, a: Any, x: Any, /) -> bool:
        """Whether two arrays overlap."""

    def contiguous(self, x: Any, /) -> Any:
        """x itself, or a copy that kernels can read."""

    def ready(self, *arrays: Any) -> tuple[Any, ...]:
        """Small arrays as the backend takes them."""

    def callers(self, x: Any, /) -> Any:
        """The caller's own array behind a checked one."""

    def transposed(self, x: Any, order: Shape, /) -> Any:
        """x with its axes in this order."""

    def target(self, out: Any, *sources: Any) -> Any:
        """Memory for what goes to `out`: the source that it is, `out`, or None if kernels cannot write there."""

    def empty_like(self, x: Any, /) -> Any:
        """Contiguous memory for a result like x."""

    def written(self, out: Any, y: Any, /) -> Any:
        """The caller's result, once y is computed."""

    def full(self, shape: Shape, value: float, /) -> Any:
        """A float64 array of one value."""

    def row(self, stats: Any, k: int, shape: Shape, /) -> Any:
        """A row of the statistics, for the caller."""

    def backend(self) -> Backend:
        """The backend of this space."""

    def try_forward(
        self, call: Call, x: Any, out: Any, weight: Any, bias: Any, eps: float, known: Known, with_stats: bool, /
    ) -> Two | None:
        """(y, statistics) if compiled code takes every argument as it is, else None, and nothing is changed but y."""

    def try_backward(self, call: Call, x: Any, dy: Any, stats: Any, weight: Any, out: Any, /) -> tuple[Any, ...] | None:
        """The gradients, as `try_forward`."""

    def differentiate(self, call: Call, x: Any, dy: Any, dx: Any, weight: Any, stats: Two, where: Any = None, /) -> Two:
        """Write dx, and return dweight and dbias, in the weight's dtype or x's; None for what is not wanted."""

    def measure(self, call: Call, x: Any, where: Any = None, /) -> tuple[Any, Any, Any, Any, Any]:
        """(mean, its low part, m2, scale) for the caller, the low part divided by the scale and m2 by its square; with a mask
        of x, and how many elements each group has, else None."""

    def update(self, stats: Any, plan: Plan, tracked: Tracked, /) -> None:
        """Take the statistics of a batch into running statistics."""
