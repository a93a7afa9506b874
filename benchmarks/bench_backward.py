"""Time of the backward functions: norm and shape x dtype, and what it saves to want less."""

from __future__ import annotations

from .problems import DTYPES, SHAPES, TIMER, problem


class Backward:
    """All gradients, from the statistics of the forward call."""

    param_names = ("norm and shape", "dtype")
    params = (tuple(f"{norm} {shape}" for norm in SHAPES for shape in SHAPES[norm]), DTYPES)
    warmup_time = 0.2
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 3.0)  # fewer than 10 samples can never be found different from 10 others

    def setup(self, what: str, dtype: str) -> None:
        norm, shape = what.split()
        self.run, self.number = problem(norm, shape, dtype, backward=True)

    def time_backward(self, what: str, dtype: str) -> None:
        self.run()


class Needs:
    """Some of the gradients, float32."""

    param_names = ("norm and shape", "wanted")
    params = (("layer 512x768", "batch 32x64x56x56", "batch 32x56x56x64"), ("dx", "dweight dbias", "dbias"))
    warmup_time = 0.2
    timer = TIMER
    rounds = 2
    repeat = (10, 40, 3.0)

    def setup(self, what: str, wanted: str) -> None:
        norm, shape = what.split()
        needs = tuple(name in wanted.split() for name in ("dx", "dweight", "dbias"))
        self.run, self.number = problem(norm, shape, "float32", backward=True, needs=needs, out=None)

    def time_backward(self, what: str, wanted: str) -> None:
        self.run()
