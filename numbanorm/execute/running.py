"""Running statistics of a call: checked on the way in, used or updated on the way out."""

from __future__ import annotations

from typing import Any

from ..backends.protocol import Space
from ..spec import blend, checks
from ..spec.call import Known
from ..spec.plan import Plan

# running_mean, running_var, momentum, num_batches_tracked, convention, and whether x's own statistics normalize it
RunningArguments = tuple[Any, Any, Any, Any, Any, bool]


def plain(arguments: RunningArguments) -> Known | None:
    """Running statistics as compiled code takes them and looks at them; None if they are for `Running` to check."""
    mean, var, momentum, counter, convention, own = arguments
    if counter is not None or convention.__class__ is not str or convention != "torch":
        return None
    if momentum.__class__ is not float or not 0.0 <= momentum <= 1.0:
        return None
    if (mean is None) is not (var is None) or not (own or mean is not None):
        return None
    return mean, var, blend.of_momentum(momentum) if own else None, None


class Running:
    """Running statistics, checked. `own` is the argument that says whether x's own statistics normalize it."""

    __slots__ = ("counter", "mean", "own", "shares", "space", "unbiased", "var")

    def __init__(self, space: Space, arguments: RunningArguments, channels: int, own: str) -> None:
        mean, var, momentum, counter, convention, self.own = arguments
        self.space = space
        self.mean = space.running("running_mean", mean, channels, self.own)
        self.var = space.running("running_var", var, channels, self.own)
        share = checks.momentum(momentum)
        self.counter = space.counter(counter)
        self.unbiased = checks.choice("convention", convention, ("torch", "keras")) == "torch"
        self.shares = blend.of_momentum(share, self.unbiased)
        if not self.own and (self.mean is None or self.var is None):
            raise ValueError(f"running_mean and running_var must be given to normalize with them: got None; or pass {own}=True")
        if (self.mean is None) is not (self.var is None):
            got = "running_mean=None" if self.mean is None else "running_var=None"
            raise ValueError(f"running_mean and running_var must be given together: got {got}; pass both, or neither")
        if self.own and self.shares is None and self.counter is None and self.mean is not None:
            raise ValueError("momentum=None averages over all batches and must know their number: got "
                             "num_batches_tracked=None; pass num_batches_tracked=np.array(0) and keep it")  # fmt: skip

    def arrays(self) -> tuple[tuple[str, Any], ...]:
        return (("running_mean", self.mean), ("running_var", self.var), ("num_batches_tracked", self.counter))

    def update(self, stats: Any, p: Plan) -> None:
        """Take in the statistics of a batch, float64 (4, B * G), if there is anything to update."""
        if p.B and p.count and not (self.mean is None and self.counter is None):
            self.space.update(stats, p, self)
