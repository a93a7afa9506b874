"""The soak script for some seconds: that it ends well, and that it sees a wrong bit, an error that is not of the package, and a
leak."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soak

# what is wrong with one call, or all, where several threads are at work
PLANTED = """
import sys, threading
import soak

real, kept = soak.perform, []

def alone():
    return threading.current_thread() is threading.main_thread()

def bit(seed):
    found = real(seed)
    return found if alone() or seed != 3 * 10**9 + 57 else found[:-1] + chr(ord(found[-1]) ^ 1)

def error(seed):
    if alone() or seed != 3 * 10**9 + 57:
        return real(seed)
    raise IndexError("planted")

def leak(seed):
    kept.append(bytearray(200000))
    return real(seed)

soak.perform = {kind}
sys.exit(soak.main(sys.argv[1:]))
"""


def run(*program: str, minutes: float = 0.08) -> tuple[int, str]:
    """Exit code and the one line of a short soak of three threads."""
    env = os.environ | {"NUMBA_NUM_THREADS": "2"}
    options = ["--minutes", str(minutes), "--threads", "3", "--seed", "3"]
    found = subprocess.run([sys.executable, *program, *options], env=env, capture_output=True, text=True, timeout=600)
    assert found.stderr == ""
    assert found.stdout.count("\n") == 1
    return found.returncode, found.stdout


def test_what_counts_as_another_bit() -> None:
    """The sign of a nan does not, for no standard says what it is; that of a zero does."""
    for dtype in soak.DTYPES:
        one, same, *others = (
            np.array(v).astype(dtype) for v in ([1, 0, np.nan], [1, 0, -np.nan], [1, -0.0, np.nan], [1, 0, 1], [1, np.nan, 0])
        )
        assert one.tobytes() != same.tobytes()
        assert soak.digest(one) == soak.digest(same)
        assert soak.digest(one) not in {soak.digest(other) for other in others}


@pytest.mark.long
def test_ends_well() -> None:
    code, line = run(soak.__file__)
    told = re.fullmatch(
        r"soak: (\d+) calls of 3 threads in (\d+) rounds, seed 3, \w+: all as in a serial run; memory .*\n", line
    )
    assert told, line
    assert code == 0
    assert int(told[1]) == 3 * soak.CALLS * int(told[2])


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("bit", r"call of seed 3000000057: '.*', but '.*' in a serial run"),
        ("error", r"call of seed 3000000057: IndexError, which is not for this call: planted"),
    ],
)
def test_finds_what_goes_wrong_in_threads(kind: str, says: str) -> None:
    code, line = run("-c", PLANTED.replace("{kind}", kind))
    assert re.fullmatch(rf"soak: FAILED after \d+ calls of 3 threads in 1 rounds, seed 3: {says}\n", line), line
    assert code == 1


@pytest.mark.long
@pytest.mark.skipif(soak.resident() is None, reason="this system does not tell how much memory a process holds")
def test_finds_a_leak() -> None:
    code, line = run("-c", PLANTED.replace("{kind}", "leak"), minutes=0.15)
    assert re.fullmatch(r"soak: FAILED after .*: memory \d+ MB after warm-up, then at most \d+ MB\n", line), line
    assert code == 1


def test_every_kind_of_call_is_made() -> None:
    """A call that is refused by mistake would be an error; and what makes a seed's call makes it again."""
    found = {seed: soak.perform(seed) for seed in range(60)}
    kinds = {re.match(r"\w+", text)[0] for text in found.values()}
    assert {"bad", "explain", "moments", "batch", "layer", "group"} <= kinds
    assert any("Error: " in text for text in found.values())
    assert {seed: soak.perform(seed) for seed in found} == found
