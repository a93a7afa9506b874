"""numba-cuda with a NumPy that is newer than it: kernels compile, without a warning, and NumPy is left as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("cuda_gates", reason="compiles a kernel: needs what the extras [cuda12] and [cuda13] bring")

#: a process that has the NumPy which is installed, or one without the name that NumPy 2.5 has no more
CODE = """
import numba.np.arrayobj  # Numba's own, which knows the version by its number
import numpy
{before}
names = {{name for name in vars(numpy) if "row_stack" in name}}
import numbanorm.cuda
assert {{name for name in vars(numpy) if "row_stack" in name}} == names

import numba.cuda.dispatcher
from numbanorm.cuda import compiler
from numbanorm.cuda.schedule import plans
numba.cuda.dispatcher.get_current_device = type("Device", (), {{"compute_capability": (9, 0)}})
step = plans.tracking((("mean", "float32"), ("var", "float32"), ("counter", "int64")), 1, 64, True).steps[0]
print(compiler.entry(compiler.linked(compiler.intermediate(step.kernel, step.kinds, (9, 0)), (9, 0))[0]))
"""
MISSING = "vars(numpy).pop('row_stack', None)"


@pytest.mark.parametrize("before", ["", MISSING, f"{MISSING}\nwith __import__('warnings').catch_warnings(action='ignore'):\n"
                                                 "    import numba.cuda"],
                         ids=["this NumPy", "NumPy 2.5", "NumPy 2.5, numba.cuda first"])  # fmt: skip
def test_kernels_compile(before: str) -> None:
    code = CODE.format(before=before)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kernel" in done.stdout
