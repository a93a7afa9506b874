"""In how many threads a call may run, and what Numba's threading layers want to be spared.

None lives through everything: a child that is forked after its parent has launched may be killed or hang, and workqueue aborts
when two threads launch at once or a worker launches again. The bits do not depend on threads, so there a call stays in its one
thread, or waits for its turn.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from importlib import metadata
from typing import Any

import numba
from numba.np.ufunc import parallel

from ..unbroken import LOCK

TBB = {"win32": "tbb12.dll", "darwin": "libtbb.12.dylib"}.get(sys.platform, "libtbb.so.12")


def find_tbb() -> None:
    """Load the TBB that pip installs where no loader looks, if Numba is going to ask for it by name."""
    layers = ("tbb", "default", "safe", "threadsafe", "forksafe")
    if parallel._is_initialized or str(numba.config.THREADING_LAYER).lower() not in layers:
        return
    try:
        ctypes.CDLL(TBB)
    except OSError:
        with contextlib.suppress(metadata.PackageNotFoundError, OSError):
            for file in metadata.files("tbb") or ():
                if file.name == TBB:
                    ctypes.CDLL(str(file.locate()), ctypes.RTLD_GLOBAL)


class Guard:
    """Knows whether this process may launch in parallel, and takes the turns that workqueue wants."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.layer = ""
        self.serial = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        """In the child: no thread of the parent's pool came along, nor whoever held the lock.

        omp kills a child that launches. tbb and workqueue begin anew, but hang where another thread had loaded the layer or
        was about to launch.
        """
        self.lock, self.serial = threading.RLock(), parallel._is_initialized

    def load(self) -> None:
        """Have Numba load its layer, while no fork can come between."""
        with LOCK:
            find_tbb()
            numba.get_num_threads()
            self.layer = numba.threading_layer()

    def threads(self) -> int:
        """How many the caller may use: fewer than Numba says where its layer would not live through them."""
        if self.serial or sys.is_finalizing():  # then the pool is dead, and so is whoever has the lock
            return 1
        if not self.layer:
            self.load()
        if type(threading.current_thread()) is threading._DummyThread and self.in_kernel():
            return 1
        # Numba's own function, which makes sure that the layer is loaded, takes 1.4 us in place of 0.3
        return int(getattr(parallel, "_get_num_threads", numba.get_num_threads)())

    def in_kernel(self) -> bool:
        """Whether a thread that Python has not started is a worker of Numba's pool, and calls from a kernel of the user's."""
        return self.layer == "workqueue" or numba.get_thread_id() > 0

    def launch(self, run: Any, *args: Any) -> Any:
        """Call what will deal out work to threads."""
        if self.layer != "workqueue":
            return run(*args)
        with self.lock:
            return run(*args)


GUARD = Guard()
