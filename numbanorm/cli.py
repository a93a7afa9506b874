"""The command line: `python -m numbanorm demo | normalize | bench | compare | dashboard | info`.

A command imports what it needs when it runs. Whatever a user can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        known = parser()
        options = known.parse_args(argv)
        if options.command is None:
            known.print_help()
            return 0
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


def _from_clone(name: str) -> Any:
    """A tool that is in no wheel, for it works on the repository: its commits, benchmarks and results."""
    root = Path(__file__).parents[1]
    if not (root / "tools" / "asv" / f"{name}.py").is_file():
        raise CommandError(
            f"{name} must run in a clone of the repository, whose commits and results it reads: got numbanorm as it is "
            f"installed in {root}; clone it, and pip install -e '.[dashboard]'"
        )
    sys.path.insert(0, str(root))
    return importlib.import_module(f"tools.asv.{name}")


def _compare(options: argparse.Namespace) -> int:
    compare = _from_clone("compare")
    try:
        with signals.unwinding():
            status: int = compare.run(options.base, options.factor, options.rounds, options.threads, options.bench)
            return status
    except ValueError as error:
        raise CommandError(str(error)) from None


def _dashboard(options: argparse.Namespace) -> None:
    dashboard = _from_clone("dashboard")
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
