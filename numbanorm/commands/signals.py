"""Ends of the command line: Ctrl-C, SIGTERM and SIGHUP, and a reader of its output that has gone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from .quiet import QUIET, replace_handler

ENDING = ("SIGTERM", "SIGHUP")  # of a batch system at its time limit; of a terminal that is closed. Windows has one of them


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, as it does in Python but while a command's modules are imported."""
    if not QUIET or not replace_handler(signal.SIG_DFL, signal.default_int_handler):
        yield
        return
    try:
        yield
    finally:
        replace_handler(signal.default_int_handler, signal.SIG_DFL)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Let the signals that end a process unwind the stack, which deletes a half-written file; what is ignored stays so."""
    if threading.current_thread() is not threading.main_thread():  # without handlers the rest works as well
        yield
        return
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    caught = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]

    def stop(number: int, _: object) -> None:
        for other in caught:  # a terminal sends more than one
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in caught:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


def flushed() -> bool:
    """Write out what was printed; False if a reader has gone, and then the rest goes nowhere."""
    everything = True
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
        if reader_gone(stream):
            everything = False
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return everything


def reader_gone(stream: TextIO) -> bool:
    """Whether nobody reads a pipe any more. A stream that is not buffered forgets what it could not write, and has no error."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file, or no `poll` on this system
        return False
