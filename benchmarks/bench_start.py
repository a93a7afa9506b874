"""Time and memory before the first result: in a process of its own each, with kernels on disk or without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

FIRST = "import numpy as np, numbanorm as nn; x = np.ones((8, 16), np.float32); {}"
CALLS = {
    "import": "pass",
    "layer_norm": "nn.layer_norm(x, 16)",
    "layer_norm and its gradients": "y, s = nn.layer_norm(x, 16, return_stats=True); nn.layer_norm_backward(x, x, 16, s)",
    "batch_norm": "nn.batch_norm(x, training=True)",
}


def seconds(call: str, folder: str) -> float:
    """Of a whole process, which has to import and to compile, or to load from `folder`."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST.format(CALLS[call])], env=environment, check=True)
    return time.perf_counter() - start


class Start:
    """A process that makes one call: "cold" with an empty folder for kernels, "warm" with a full one."""

    param_names = ("call", "kernels")
    params = (tuple(CALLS), ("cold", "warm"))
    unit = "seconds"
    timeout = 300

    def setup(self, call: str, kernels: str) -> None:
        if call == "import" and kernels == "cold":
            raise NotImplementedError("importing compiles nothing")

    def track_process(self, call: str, kernels: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            if kernels == "cold":
                return seconds(call, folder)
            seconds(call, folder)
            return min(seconds(call, folder) for _ in range(3))


class Disk:
    """Kernels that a program leaves on disk."""

    unit = "bytes"
    timeout = 300

    def track_kernels(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            seconds("layer_norm and its gradients", folder)
            return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)
