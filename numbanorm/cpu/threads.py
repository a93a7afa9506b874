"""In how many threads a call may run, and what Numba's threading layers want to be spared.

No layer lives through everything: a child that is forked after its parent has launched may be killed or hang, workqueue aborts
when two threads launch at once or a worker launches again. The bits do not depend on threads, so there a call stays in its one
thread, or waits for its turn.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from time import perf_counter
from typing import Any

import numba
from numba.np.ufunc import parallel

from ..runtime.uninterrupted import LOCK

TBB = {"win32": "tbb12.dll", "darwin": "libtbb.12.dylib"}.get(sys.platform, "libtbb.so.12")

# A thread of GNU OpenMP that waits spins for 15 ms and keeps others from its core; 100000 rounds are 5 ms, a little more than
# the 4 ms after which Linux moves a thread that was woken on the caller's core to a free one. With half a millisecond it stayed
# there for dozens of calls, each of which waited for the caller's spinning to end (0.6 ms, for 0.1).
SPIN = {"GOMP_SPINCOUNT": "100000"}
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # by the user, who knows better
# a launch that takes more than LATE times its own least, and SLACK, waited for a core. Data in memory takes up to twice as
# long as in the cache. COLD in place of SLACK where no launch ended SOON before: then threads sleep, and the first of them may
# have to be moved to another core
LATE, SLACK, COLD, SOON = 3.0, 3e-4, 5e-3, 1e-3
RATE = 1e-9  # seconds an element: the least of a launch is at most this, or one that waits from the first would never be late
LONGEST = 0.2  # seconds in one thread before another launch finds out whether cores are free again


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


@contextlib.contextmanager
def short_spin() -> Iterator[None]:
    """Let what is loaded meanwhile spin no longer than SPIN says, unless the user has chosen; children inherit nothing."""
    mine = not any(name in os.environ for name in CHOSEN)
    if mine:
        os.environ.update(SPIN)
    try:
        yield
    finally:
        if mine:
            for name in SPIN:
                os.environ.pop(name, None)


class Launch:
    """A call that deals out work to threads, and is timed: each of its kind has a least time."""

    __slots__ = ("least", "run")

    def __init__(self, run: Any, size: int) -> None:
        self.run, self.least = run, RATE * size

    def __call__(self, *args: Any) -> Any:
        start = perf_counter()
        if GUARD.layer != "workqueue":
            done = self.run(*args)
        else:
            with GUARD.lock:
                done = self.run(*args)
        self.judge(start, perf_counter())
        return done

    def judge(self, start: float, end: float) -> None:
        """Tell the guard whether this launch waited for cores that others keep busy."""
        seconds, slack = end - start, SLACK if start - GUARD.ended < SOON else COLD
        GUARD.ended, late = end, seconds > LATE * self.least + slack
        self.least = self.least * 1.05 if late else min(self.least, seconds)  # what is always late is how long it takes
        if late:
            GUARD.wait(seconds)
        elif GUARD.pause:
            GUARD.pause *= 0.9


class Guard:
    """Knows whether this process may launch in parallel, and takes the turns that workqueue wants."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.layer = ""
        self.serial = False
        self.pause = self.resume = 0.0  # how long calls stay in one thread, for cores are busy, and until when
        self.ended = 0.0  # when the last launch did
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
        with LOCK, short_spin():
            find_tbb()
            numba.get_num_threads()
            self.layer = numba.threading_layer()

    def threads(self) -> int:
        """Threads that the caller may use: fewer than Numba says where its layer would not live through them."""
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

    def wait(self, seconds: float) -> None:
        """Keep calls in one thread for as long as a launch has lost, and twice as long each time that it is in vain."""
        self.pause = min(max(2 * self.pause, seconds), LONGEST)
        self.resume = perf_counter() + self.pause

    def waits(self) -> bool:
        """Whether cores were busy a moment ago."""
        return self.pause > 0 and perf_counter() < self.resume


GUARD = Guard()
