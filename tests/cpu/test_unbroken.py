"""Work that must be done wholly, where it goes wrong. What signals and forks do to it, `test_torture` shows."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from numbanorm.runtime.uninterrupted import LOCK, unbroken


def fails() -> None:
    raise KeyError("in the work")


def where(found: list[threading.Thread]) -> int:
    found.append(threading.current_thread())
    return 7


def test_main_thread_has_it_done_elsewhere() -> None:
    """For Ctrl-C interrupts the main thread, and no other."""
    found: list[threading.Thread] = []
    assert unbroken(where, found) == 7
    assert found[0] is not threading.current_thread()


def test_another_thread_does_it_itself() -> None:
    found: list[threading.Thread] = []
    thread = threading.Thread(target=unbroken, args=(where, found))
    thread.start()
    thread.join()
    assert found == [thread]


def test_within_other_work_it_is_done_at_once() -> None:
    """Whoever has the lock already must not wait for another thread to get it."""
    found: list[threading.Thread] = []
    with LOCK:
        assert unbroken(where, found) == 7
    assert found == [threading.current_thread()]


def test_errors_come_to_the_caller() -> None:
    with pytest.raises(KeyError, match="in the work"):
        unbroken(fails)
    assert unbroken(where, []) == 7, "the lock was not given back"


def test_without_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may have no more of them."""

    def start(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    found: list[threading.Thread] = []
    assert unbroken(where, found) == 7
    assert found == [threading.current_thread()]
    with pytest.raises(KeyError, match="in the work"):
        unbroken(fails)


def test_at_the_end_nobody_waits_for_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon thread that Python has ended while it compiled never gives the lock back."""
    taken, end = threading.Event(), threading.Event()

    def compiles() -> None:
        with LOCK:
            taken.set()
            end.wait()

    daemon = threading.Thread(target=compiles, daemon=True)
    daemon.start()
    taken.wait()
    try:
        monkeypatch.setattr(sys, "is_finalizing", lambda: True)
        with pytest.raises(RuntimeError, match=r"before Python ends: .*; call numbanorm\.warmup\(\) in the main thread"):
            unbroken(where, [])
    finally:
        end.set()
        daemon.join()
    assert unbroken(where, []) == 7
    assert not LOCK._is_owned()
