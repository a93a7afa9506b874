"""What the compiler is asked to leave out, and that nobody else notices."""

from __future__ import annotations

import threading

import numba
import numpy as np
import pytest
from numba.core.codegen import CPUCodeLibrary

from numbanorm.cpu.compile import parts_left_to


def named(name: str) -> object:
    """Something of that name, which is all that is asked of a kernel."""
    found = type(name, (), {})
    return found


def test_numba_is_as_it_was_afterwards() -> None:
    before = CPUCodeLibrary._optimize_final_module
    with parts_left_to(named("kernel")):
        assert CPUCodeLibrary._optimize_final_module is not before
    assert CPUCodeLibrary._optimize_final_module is before
    with pytest.raises(KeyError), parts_left_to(named("kernel")):
        raise KeyError
    assert CPUCodeLibrary._optimize_final_module is before


def test_a_numba_without_that_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(CPUCodeLibrary, "_optimize_final_module")
    with parts_left_to(named("kernel")):
        assert not hasattr(CPUCodeLibrary, "_optimize_final_module")


def test_other_threads_compile_as_ever() -> None:
    """They wait, so what they compile is optimized."""

    def total(n: int) -> int:
        found = 0
        for _ in range(n):
            found += 3
        return found

    other = numba.njit(total)
    with parts_left_to(named("kernel")):
        thread = threading.Thread(target=other, args=(np.int64(7),))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join()
    assert other(np.int64(7)) == 21
