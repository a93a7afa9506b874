"""Nothing is computed on memory that nobody has written.

On what looks like denormal numbers a division takes a hundred times as long: a tenth of the time of whole calls came and went
with what had been freed before. A nan there could spoil a result.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from cases import Case

# one of each family, and of each way through it: rows together, a run longer than a tile, few and many columns, folded rows
SHAPES = [
    *(Case("layer", shape) for shape in ((37, 100), (2, 70000), (5000, 7))),
    *(Case("rms", (3, 700)), Case("group", (2, 6, 5, 7), groups=3), Case("group", (3, 7, 9, 24), groups=2, channel_axis=-1)),
    *(Case("batch", shape) for shape in ((40, 19), (2, 3, 200, 201), (5000, 33))),
    *(Case("batch", (4, 9, 11, 3), channel_axis=-1), Case("batch", (40, 19), training=False), Case("instance", (2, 5, 40, 50))),
]

# in a process of its own, for the entries are compiled anew, with work space that is full of what does harm
PROGRAM = """
import sys
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from numbanorm.cpu.entry import calls
from numbanorm.cpu.compile import intrinsic

HARM = np.array([5e-324, np.nan, np.inf, -2e-310, -np.nan])


@numba.njit
def harmful(n):
    space = np.empty(n)
    for k in range(n):
        space[k] = HARM[k % 5]
    return space


@intrinsic
def flags(tc):
    def codegen(ctx, b, sig, a):
        place = cgutils.alloca_once(b, ir.IntType(32))
        at = b.bitcast(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [at.type])
        store, load = (cgutils.get_or_insert_function(b.module, kind, f"llvm.x86.sse.{s}mxcsr") for s in ("st", "ld"))
        b.call(store, [at])
        found = b.load(place)
        b.store(b.and_(found, ir.Constant(found.type, ~63)), place)
        b.call(load, [at])
        return found

    return types.int32(), codegen


taken = numba.njit(lambda: flags()) if sys.argv[2] == "x86_64" else lambda: 0  # and none is left
calls.work_space = harmful
import test_work_space

taken()
print(test_work_space.digest(sys.argv[1]), taken() & 2)  # 2: an operand was denormal
"""


def digest(dtype: str) -> str:
    """Of all results of one type, forward and backward."""
    digest = hashlib.sha256()
    for case in SHAPES:
        a, dy = cases.arguments(case, np.dtype(dtype)), cases.upstream(case, np.dtype(dtype))
        for exact in cases.MODES:
            for method in cases.ALL_METHODS:
                y, stats = cases.call(case, a, method=method, exact=exact, return_stats=True)
                digest.update(y)
                digest.update(stats.rstd)
            for gradient in cases.call_backward(case, a, dy, stats, exact=exact):
                digest.update(gradient)
    return digest.hexdigest()


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_work_space_held_is_in_no_operation(dtype: str) -> None:
    """No bit of a result comes from there, and (where the CPU tells) no operation had one of its denormal numbers."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    own = {"NUMBANORM_CACHE": "0", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": path}  # kernels from disk have the other space
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, dtype, platform.machine()]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, flag = done.stdout.split()
    assert found == digest(dtype)
    assert flag == "0"
