"""Peak memory of a process that normalizes 64 MiB, beside one that only has the arrays."""

from __future__ import annotations

import numpy as np

from .problems import run_of

SHAPES = {
    "layer": ((16384, 1024), -1), "batch": ((64, 64, 64, 64), 1), "group": ((64, 64, 64, 64), 1),
    "batch last": ((64, 64, 64, 64), -1),
}  # fmt: skip


class Peak:
    """x and `out`, 64 MiB each; "nothing" is the process without the call."""

    param_names = ("call",)
    params = (("nothing", *SHAPES),)

    def setup(self, call: str) -> None:
        shape, axis = SHAPES.get(call, SHAPES["layer"])
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self.run = run_of(call.split()[0] if call in SHAPES else "layer", x, axis)

    def peakmem_call(self, call: str) -> None:
        if call != "nothing":
            self.run()
