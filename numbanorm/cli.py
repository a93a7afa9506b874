"""The command line: `python -m numbanorm demo | normalize | bench | compare | dashboard | info`.

A command imports what it needs when it runs. Whatever a user can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from .commands import signals
from .commands.parsers import CommandError, parser

USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    with signals.interruptible():
        try:
            return _main(argv)
        finally:
            with contextlib.suppress(OSError):
                signals.flushed()


def _main(argv: Sequence[str] | None) -> int:
    """`main`, and the last words of a command that ends early."""
    try:
        options = parser().parse_args(argv)
        status: int | None = COMMANDS[options.command](options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status or 0
    except CommandError as error:
        message = str(error)
    except KeyboardInterrupt:
        return _told("numbanorm: interrupted", INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not signals.flushed():  # of ours, as of `| head`: it has read enough
            return 0
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return _told(f"numbanorm: error: {' '.join(message.split())}", USAGE_ERROR)


def _told(message: str, status: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    return status


def _info(_: argparse.Namespace) -> None:
    import numbanorm

    numbanorm.show_versions()


def _demo(options: argparse.Namespace) -> None:
    if not options.out.resolve().parent.is_dir():
        raise CommandError(f"--out must be in a folder that exists: got {options.out}; make the folder first")
    from numbanorm import demo

    try:
        demo.run(options.out)
    except (ImportError, ValueError) as error:
        raise CommandError(str(error)) from None


def _bench(options: argparse.Namespace) -> None:
    from .bench import command

    both = {"direction": ("forward", "backward"), "layout": ("first", "last")}
    typed = {name: value for name, value in vars(options).items() if name != "command" and value is not None}
    for name, plural in (("direction", "directions"), ("layout", "layouts"), ("dtype", "dtypes")):
        if name in typed:
            value = typed.pop(name)
            typed[plural] = both[name] if value == "both" else (value,) if isinstance(value, str) else value
    try:
        command.run(command.Options(**typed))
    except ValueError as error:
        raise CommandError(str(error)) from None


def _compare(options: argparse.Namespace) -> int:
    from .bench import compare

    try:
        with signals.unwinding():
            return compare.run(options.base, options.factor, options.rounds, options.threads, options.bench)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _dashboard(options: argparse.Namespace) -> None:
    from .bench import dashboard

    try:
        dashboard.run(options.out, options.results, options.port, options.serve)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _normalize(options: argparse.Namespace) -> None:
    from .commands import normalize as normalize_file

    normalize_file.run(options)


COMMANDS = {
    "demo": _demo, "info": _info, "bench": _bench, "compare": _compare, "dashboard": _dashboard, "normalize": _normalize,
}  # fmt: skip
