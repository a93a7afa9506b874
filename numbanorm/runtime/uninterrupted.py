"""Work that must be done wholly: what Numba compiles, imports and loads, which a signal or a fork would leave half done.

A compiler that is broken off has registered half of what it knows, and misses the rest for ever; a child that is forked while
another thread compiles finds locks taken that nobody gives back.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel

T = TypeVar("T")

LOCK: Any = global_compiler_lock._lock
# those that a fork waits for, in the order in which whoever wants both takes them
HELD_AT_FORK: tuple[Any, ...] = (LOCK, parallel._backend_init_thread_lock)


def before_fork() -> None:
    for lock in HELD_AT_FORK:
        lock.acquire()


def after_fork() -> None:
    for lock in HELD_AT_FORK:
        with contextlib.suppress(RuntimeError):  # Ctrl-C has ended the wait
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=after_fork)


def unbroken(work: Callable[..., T], *args: Any) -> T:
    """The result of a call that no signal breaks off: those end what the main thread does, so another thread does it."""
    if sys.is_finalizing():
        if not LOCK.acquire(blocking=False):  # whoever has it is dead
            raise RuntimeError("kernels must be compiled before Python ends: it ended while a daemon thread compiled one; "
                               "call numbanorm.warmup() in the main thread")  # fmt: skip
        LOCK.release()
    # a thread that has the lock is one that compiles, and no other could go on before it ends
    if threading.current_thread() is threading.main_thread() and not LOCK._is_owned():
        return elsewhere(work, *args)
    with LOCK:
        return work(*args)


def elsewhere(work: Callable[..., T], *args: Any) -> T:
    """The result of a call in a thread of its own, which goes on to its end if this one is told to stop waiting."""
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Lock()

    def run() -> None:
        try:
            with LOCK:
                results.append(work(*args))
        except BaseException as error:
            errors.append(error)
        finally:
            done.release()

    done.acquire()
    try:
        threading.Thread(target=run, name="numbanorm compiles").start()
    except RuntimeError:  # the system has no more threads, or Python is ending
        run()
    done.acquire()
    for error in errors:
        raise error
    return results[0]
