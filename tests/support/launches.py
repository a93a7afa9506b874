"""Schedules of the CUDA backend, for arrays that need not be there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numbanorm.cuda.schedule import plans
from numbanorm.cuda.schedule.steps import Schedule
from numbanorm.spec.call import Call
from numbanorm.spec.plan import Plan
from numbanorm.spec.sources import GIVEN, OWN


class Asked(NamedTuple):
    """Everything that a schedule depends on beside the plan. Types are dtype names; None for what is not there."""

    types: dict[str, str | None]
    center: bool
    given: bool
    aligned: bool
    one_read: bool = False
    in_place: bool = False
    write: bool = True
    parameters: bool = False
    fast: bool = False  # as a call without options: one read, results in float32

    def schedule(self, plan: Plan) -> Schedule:
        """The launches for a plan, forward or backward as there is a dy."""
        backward, x = "dy" in self.types, self.types["x"]
        weight = self.parameters if backward else self.types["w"] is not None
        bias = self.parameters if backward else self.types["b"] is not None
        source, method = GIVEN if self.given else OWN, "welford" if self.one_read else "two_pass"
        if self.fast and self.center and not (self.given or backward):
            method = "one_read"
        call = Call(
            plan, np.dtype(x), backward, self.center, source, method, not self.fast, write=self.write, weight=weight, bias=bias,
            in_place=self.in_place,
        )  # fmt: skip
        return (plans.backward if backward else plans.forward)(
            Schedule(self.types, self.aligned, call.exact, call.method == "one_read"), call
        )
