"""Batch norm over the ranks of MPI, which only `mpiexec` makes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'numbanorm[mpi]'")
# beside the interpreter: that of another MPI would start so many worlds of one rank
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
if MPIEXEC is None:
    pytest.skip("there is no mpiexec of the environment: pip install mpich", allow_module_level=True)

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks(ranks: int) -> None:
    """Statistics are the same on all to the bit, y is that of one process, an error is one of all, and nobody hangs."""
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "mpi4py", str(SUPPORT / "mpi_ranks.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{ranks} ranks agree\n"
