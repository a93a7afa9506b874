"""The command line: `python -m numbanorm demo | normalize | bench | compare | dashboard | info`.

Only argparse and NumPy are imported here; a command imports what it needs when it runs. Whatever a user
can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.lib.format import open_memmap

Array = np.ndarray[Any, np.dtype[Any]]
Block = tuple[int | slice, ...]

CHUNK_BYTES = 64 << 20  # large enough that a chunk keeps every core busy, small enough for any machine
USAGE_ERROR = 2
INTERRUPTED = 130

# Which options say something to which norm; an option that would be ignored is refused.
NORM_OPTIONS = {
    "layer": ("normalized_shape", "weight", "bias"),
    "rms": ("normalized_shape", "weight"),
    "batch": ("channel_axis", "weight", "bias"),
    "instance": ("channel_axis", "weight", "bias"),
    "group": ("num_groups", "channel_axis", "weight", "bias"),
}


class CommandError(Exception):
    """A mistake of the user's: rule, what came, and the remedy, in one line."""


class Progress:
    """Percent, rate and time left on one line of a terminal; silent elsewhere, so that logs stay clean."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total, self.stream, self.done = max(total, 1), stream, 0
        self.shown = stream.isatty()
        self.start = time.perf_counter()
        self.next_draw = self.start

    def advance(self, amount: int) -> None:
        """Count `amount` more bytes; draw at most ten times a second."""
        self.done += amount
        now = time.perf_counter()
        if not self.shown or (now < self.next_draw and self.done < self.total):
            return
        self.next_draw = now + 0.1
        rate = self.done / max(now - self.start, 1e-9)
        left = round((self.total - self.done) / rate) if rate else 0
        bar = "#" * (24 * self.done // self.total)
        line = f"[{bar:<24}] {self.done / self.total:4.0%} {rate / 1e6:8,.0f} MB/s  ETA {left // 60}:{left % 60:02d}"
        self.stream.write(f"\r{line} ")
        self.stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.shown and self.done:
            self.stream.write("\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = _parser().parse_args(argv)
        status: int | None = options.run(options)
    except CommandError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt:
        print("numbanorm: interrupted", file=sys.stderr)
        return INTERRUPTED
    else:
        return status or 0
    print(f"numbanorm: error: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_ERROR


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m numbanorm", description="Exact, reproducible normalization for NumPy arrays.")
    commands = parser.add_subparsers(required=True, metavar="{demo,normalize,bench,compare,dashboard,info}")

    demo = commands.add_parser("demo", help="normalize a photograph with every norm: a table and a picture")
    demo.add_argument("--out", type=Path, default=Path("before_after.png"), help="the picture (default: %(default)s)")
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="print versions, CPU, vector width, threads, cache folder, GPU")
    info.set_defaults(run=_info)

    _add_bench(commands.add_parser("bench", help="time numbanorm against a copy and against other libraries, here"))
    _add_compare(commands.add_parser("compare", help="measure what is not committed yet against a commit: what changed"))
    _add_dashboard(commands.add_parser("dashboard", help="show asv's results in a browser, without the internet"))

    normalize = commands.add_parser("normalize", help="normalize a .npy file of any size into another")
    normalize.set_defaults(run=_normalize)
    normalize.add_argument("input", type=Path, metavar="IN.npy")
    normalize.add_argument("output", type=Path, metavar="OUT.npy")
    normalize.add_argument("--norm", choices=tuple(NORM_OPTIONS), required=True)
    normalize.add_argument(
        "--normalized-shape", type=_shape, metavar="D,D,...", help="layer, rms: the last axes (default: the last one)"
    )
    normalize.add_argument("--num-groups", type=int, metavar="G", help="group: how many groups of channels")
    normalize.add_argument(
        "--channel-axis", type=int, metavar="AXIS", help="batch, instance, group: 1 (default), or -1 for channels last"
    )
    normalize.add_argument("--eps", type=float, help="added to the variance (default: 1e-5; rms: the type's epsilon)")
    normalize.add_argument("--weight", type=Path, metavar="W.npy", help="multiplied onto the result")
    normalize.add_argument("--bias", type=Path, metavar="B.npy", help="added to the result")
    normalize.add_argument("--method", choices=("two_pass", "welford"), help="how the statistics are taken")
    normalize.add_argument("--overwrite", action="store_true", help="replace OUT.npy if it is there")
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.set_defaults(run=_bench)
    bench.add_argument("--sizes", type=_words, metavar="N,N,...", help="elements, of 1e3 ... 1e8 (default: 1e4 and above)")
    bench.add_argument("--norms", type=_words, metavar="NORM,...", help="of layer, rms, batch, eval, group, instance")
    bench.add_argument("--direction", choices=("forward", "backward", "both"), default="both")
    bench.add_argument("--layout", choices=("first", "last", "both"), default="both", help="where the channels are")
    bench.add_argument("--dtype", type=_words, metavar="TYPE,...", help="of float32 (default), float16, bfloat16, float64")
    bench.add_argument("--peers", type=_words, metavar="NAME,...", help="compare with these only, or with none")
    bench.add_argument("--rounds", type=int, metavar="N", help="a figure is the median of so many (default: 15; quick: 5)")
    bench.add_argument("--threads", type=int, metavar="N", help="for every contender (default: one for each core)")
    bench.add_argument("--quick", action="store_true", help="two sizes, few rounds")
    bench.add_argument("--scaling", action="store_true", help="time against threads in place of all else, at 1e7 elements")
    bench.add_argument("--out", type=Path, metavar="DIR", help="also write bench.md, bench.json and bench.png there")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.set_defaults(run=_compare)
    compare.add_argument(
        "base", nargs="?", metavar="BASE", help="a commit (default: HEAD; HEAD~1 if nothing differs from HEAD)"
    )
    compare.add_argument("--factor", type=float, default=1.15, metavar="F", help="what is less is noise (default: %(default)s)")
    compare.add_argument("--rounds", type=int, default=3, metavar="N", help="in turn on both (default: %(default)s)")
    compare.add_argument("--threads", type=_shape, metavar="N,N,...", help="measure with so many (default: 1)")
    compare.add_argument("--bench", metavar="REGEX", help="of asv's names (default: those in benchmarks/fast.txt)")


def _add_dashboard(dashboard: argparse.ArgumentParser) -> None:
    dashboard.set_defaults(run=_dashboard)
    dashboard.add_argument("--out", type=Path, metavar="DIR", help="write the pages there (default: html_dir of asv.conf.json)")
    dashboard.add_argument("--results", type=Path, metavar="DIR", help="of asv (default: results_dir of asv.conf.json)")
    dashboard.add_argument("--port", type=int, default=0, metavar="N", help="of localhost (default: any that is free)")
    dashboard.add_argument("--no-serve", dest="serve", action="store_false", help="only write; the pages open as files too")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants integers between commas, such as 3,224,224: got {text!r}") from None


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
    typed = {name: value for name, value in vars(options).items() if name != "run" and value is not None}
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
        with _terminate_raises():
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
    arguments = _norm_arguments(options)
    x = _load(options.input, "IN")
    for name in ("weight", "bias"):
        if arguments.get(name) is not None:
            arguments[name] = _load(arguments[name], f"--{name}")
    if options.norm in ("layer", "rms"):
        if x.ndim == 0:
            raise CommandError(f"{options.norm} norm needs at least one axis: got a single number in {options.input}")
        arguments.setdefault("normalized_shape", x.shape[-1:])
    _check_output(options, x.nbytes)
    start = time.perf_counter()
    with _replacing(options.output.resolve()) as temporary:
        try:
            _stream(options.norm, x, arguments, temporary)
        except (ValueError, TypeError) as error:  # the library's own messages carry rule, received and remedy
            raise CommandError(str(error)) from None
    seconds = time.perf_counter() - start
    print(f"{options.output}: {x.dtype.name} {x.shape}, {x.nbytes / 1e6:,.1f} MB in {seconds:.2f} s")


def _norm_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments given for the norm; those it cannot use are refused."""
    allowed = NORM_OPTIONS[options.norm]
    arguments = {name: getattr(options, name) for name in ("eps", "method") if getattr(options, name) is not None}
    for name in ("normalized_shape", "num_groups", "channel_axis", "weight", "bias"):
        value = getattr(options, name)
        if value is None:
            continue
        if name not in allowed:
            takers = ", ".join(norm for norm, names in NORM_OPTIONS.items() if name in names)
            flag = "--" + name.replace("_", "-")
            raise CommandError(f"{flag} is for --norm {takers}: got it with --norm {options.norm}; leave it out")
        arguments[name] = value
    if options.norm == "group" and options.num_groups is None:
        raise CommandError("--norm group needs the number of groups: got none; add for example --num-groups 8")
    return arguments


def _load(path: Path, what: str) -> Array:
    """The array in a .npy file, mapped and not read; every reason why it is none is told in one line."""
    try:
        x = open_memmap(path, mode="r")
    except FileNotFoundError:
        raise CommandError(f"{what} must be a file that exists: got {path}; check the name") from None
    except (ValueError, EOFError) as error:
        raise CommandError(
            f"{what} must be a .npy file of plain numbers: got {path} ({error}); write it with numpy.save"
        ) from None
    except OSError as error:
        raise CommandError(f"{what} must be a file that can be read: got {path} ({error.strerror})") from None
    if x.dtype.kind == "V":
        raise CommandError(
            f"{what} must hold plain numbers: got {x.dtype.str} in {path}; .npy has no name for bfloat16 and the like, "
            "so save x.astype(numpy.float32)"
        )
    return np.asarray(x)  # a plain view: np.memmap as a type is of no use to a kernel


def _check_output(options: argparse.Namespace, nbytes: int) -> None:
    """Refuse an OUT that would cost the user a file or could not be finished."""
    out = options.output
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise CommandError(f"OUT must be a file in a folder that exists: got {out}; make the folder first")
    for path in (options.input, options.weight, options.bias):
        if path is not None and out.exists() and os.path.samefile(path, out):
            raise CommandError(f"OUT must not be a file that is read: got {out} for both; choose another name")
    if out.exists() and not options.overwrite:
        raise CommandError(f"OUT must not exist yet: got {out}; choose another name or add --overwrite")
    # A memory map on a full disk does not raise, it kills the process with SIGBUS.
    free = shutil.disk_usage(out.resolve().parent).free
    if nbytes > free:
        raise CommandError(f"OUT needs {nbytes / 1e6:,.0f} MB: got {free / 1e6:,.0f} MB of free space; make room")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling that takes the place of `path` on success and is removed on any failure."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _terminate_raises():
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _terminate_raises() -> Iterator[None]:
    """Let SIGTERM (a batch system at its time limit) unwind the stack, which deletes the half-written file."""
    try:
        previous = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    except ValueError:  # only the main thread may set a handler; without one the rest works as well
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stream(norm: str, x: Array, arguments: dict[str, Any], path: Path) -> None:
    """Normalize `x` into the new file `path`, a chunk at a time."""
    import numbanorm

    apply = functools.partial(getattr(numbanorm, f"{norm}_norm"), **arguments)
    y = open_memmap(path, mode="w+", dtype=x.dtype.newbyteorder("="), shape=x.shape)
    # Raises every error before the first chunk; the untouched y stands in for x, for a file in Fortran or foreign byte
    # order would be copied whole to be asked about.
    numbanorm.explain(apply, y, out=y, **({"training": True} if norm == "batch" else {}))
    if x.size == 0:
        return
    blocks = list(_blocks(x.shape, _independent_axes(norm, x.ndim, arguments), x.itemsize))
    with Progress(x.nbytes * (2 if norm == "batch" else 1), sys.stderr) as progress:
        if norm == "batch":
            apply = functools.partial(apply, **_batch_statistics(x, blocks, arguments, progress))
        for block in blocks:
            chunk = np.ascontiguousarray(x[block], y.dtype)  # copies a foreign byte order or layout, else nothing
            apply(chunk, out=np.asarray(y[block]))
            progress.advance(chunk.nbytes)
    y.flush()


def _batch_statistics(x: Array, blocks: list[Block], arguments: dict[str, Any], progress: Progress) -> dict[str, Array]:
    """Batch norm shares statistics between all chunks, so they come first; eval mode then takes the biased variance."""
    from numbanorm import Moments

    channel = arguments.get("channel_axis", 1) % x.ndim
    total = Moments(axis=tuple(axis for axis in range(x.ndim) if axis != channel))
    for block in blocks:
        chunk = np.ascontiguousarray(x[block], x.dtype.newbyteorder("="))
        total.update(chunk, method=arguments.get("method", "two_pass"))
        progress.advance(chunk.nbytes)
    return {"running_mean": np.asarray(total.mean), "running_var": total.var()}


def _independent_axes(norm: str, ndim: int, arguments: dict[str, Any]) -> int:
    """How many leading axes may be cut without touching the result."""
    if norm in ("layer", "rms"):
        return ndim - len(arguments["normalized_shape"])
    return 0 if arguments.get("channel_axis", 1) % ndim == 0 else 1


def _blocks(shape: tuple[int, ...], leading: int, itemsize: int) -> Iterator[Block]:
    """Index tuples that cut the first `leading` axes into pieces of about CHUNK_BYTES, in memory order.

    Indices instead of a reshape to rows: a Fortran-ordered file has no such view.
    """
    if leading == 0:
        yield ()
        return
    sizes = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(leading)]
    cut = next((axis for axis, size in enumerate(sizes) if size <= CHUNK_BYTES), leading - 1)
    step = max(1, CHUNK_BYTES // sizes[cut])
    for outer in np.ndindex(shape[:cut]):
        for start in range(0, shape[cut], step):
            yield (*outer, slice(start, start + step))
