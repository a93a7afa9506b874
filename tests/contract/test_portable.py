"""Systems without POSIX, as far as one with it can show: what only POSIX has is taken away, and the package does its work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TAKE_AWAY = """
import builtins, mmap, os, signal, sys
import numba, numpy  # which look for themselves, and take what they find
from numba.np.ufunc import parallel

for name in ("geteuid", "getuid", "getegid", "getgid", "fork", "forkpty", "register_at_fork", "sched_getaffinity", "sysconf",
             "kill", "killpg", "getloadavg", "uname", "mkfifo"):
    vars(os).pop(name, None)
for name in [name for name in vars(mmap) if name.startswith(("MADV_", "MAP_", "PROT_"))]:
    delattr(mmap, name)
for name in ("SIGHUP", "SIGQUIT", "SIGSTOP", "SIGCONT", "SIGKILL", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGCHLD", "setitimer",
             "alarm", "pause", "pthread_kill", "pthread_sigmask", "sigwait"):
    vars(signal).pop(name, None)
for module in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[module] = None


def refuse(event, arguments):
    if event in ("open", "os.scandir", "os.listdir") and str(arguments[0]).startswith(("/proc", "/sys/")):
        refused.append(arguments[0])
        raise PermissionError(13, "nothing to read on this system", arguments[0])


refused = []
sys.addaudithook(refuse)
"""
WORK = """
import numpy as np
import numbanorm as nb
from numbanorm import cli
from numbanorm.bench.cases import memory_free
from numbanorm.bench.command import cores, processor
from numbanorm.runtime.cache import cache_folder

x = np.arange(12, dtype=np.float32).reshape(3, 4)
assert abs(nb.layer_norm(x, 4).mean()) < 1e-6
large = np.ones((2**10, 2**13), np.float32)  # 32 MiB: in parallel, and its result would come of kept memory
assert not nb.layer_norm(large, 2**13).any()
assert nb.moments(x).count == 12
assert "layer_norm" not in nb.explain(nb.layer_norm, x, 4)
assert cores() >= 1 and processor() is not None and memory_free() > 0
np.save("in.npy", x)
assert cli.main(["normalize", "in.npy", "out.npy", "--norm", "layer"]) == 0
assert np.load("out.npy").tobytes() == nb.layer_norm(x, 4).tobytes()
assert any(str(path).startswith("/sys") for path in refused) or not sys.platform.startswith("linux")
print(sum(path.is_file() for path in cache_folder().rglob("*")))
"""


@pytest.mark.long
def test_without_what_only_posix_has(tmp_path: Path) -> None:
    """Import, calls in one thread and many, and the command line; kernels are kept, and the next process takes them."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": root}
    printed = []
    for _ in range(2):
        for file in ("in.npy", "out.npy"):
            (tmp_path / file).unlink(missing_ok=True)
        command = [sys.executable, "-c", TAKE_AWAY + WORK]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(int(done.stdout.splitlines()[-1]))  # below what the command says
    assert printed[0] == printed[1] > 2
