"""Ctrl-C reaches what the tests start, wherever the tests themselves were started."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

ASK = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
IGNORES = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"


def heard_by_a_child() -> bool:
    return subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout == "True\n"


def test_children_hear_it() -> None:
    assert heard_by_a_child()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="only on POSIX is what a process ignores inherited")
def test_children_hear_it_where_it_is_ignored() -> None:
    """As it is in what a script starts in the background: these tests are run as such a job would run them."""
    again = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::{test_children_hear_it.__name__}"]
    done = subprocess.run([sys.executable, "-c", IGNORES, *again], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
