"""The command `normalize`: a .npy file or a zarr array of any size into another, a chunk at a time."""

from __future__ import annotations

import argparse
import contextlib
import functools
import glob
import math
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.lib.format import open_memmap

from ..spec.dtypes import NATIVE
from . import stores
from .parsers import NORM_OPTIONS, CommandError
from .signals import unwinding

Array = np.ndarray[Any, np.dtype[Any]]
Block = tuple[int | slice, ...]

CHUNK_BYTES = 64 << 20  # large enough that a chunk keeps every core busy, small enough for any machine


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


def run(options: argparse.Namespace) -> None:
    arguments = _norm_arguments(options)
    x: Any = stores.opened(options.input) if stores.is_array(options.input) else _load(options.input, "IN")
    for name in ("weight", "bias", "where"):
        if arguments.get(name) is not None:
            arguments[name] = _load(arguments[name], f"--{name}")
    if options.norm in ("layer", "rms"):
        if x.ndim == 0:
            raise CommandError(f"{options.norm} norm needs at least one axis: got a single number in {options.input}")
        arguments.setdefault("normalized_shape", x.shape[-1:])
    dtype = _output_dtype(options, x)
    nbytes = x.size * dtype.itemsize
    for line in _left_behind(options.output.resolve()):
        print(f"numbanorm: {line}", file=sys.stderr)
    _check_output(options, nbytes)
    start = time.perf_counter()
    replacing = stores.replacing if stores.named(options.output) else _replacing
    with replacing(options.output.resolve()) as temporary:
        try:
            _stream(options.norm, x, dtype, arguments, temporary)
        except (ValueError, TypeError) as error:  # the library's own messages carry rule, received and remedy
            raise CommandError(str(error)) from None
    seconds = time.perf_counter() - start
    print(f"{options.output}: {dtype.name} {x.shape}, {nbytes / 1e6:,.1f} MB in {seconds:.2f} s")


def _norm_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments given for the norm; those it cannot use are refused."""
    allowed = NORM_OPTIONS[options.norm]
    arguments = {name: getattr(options, name) for name in ("eps", "method") if getattr(options, name) is not None}
    if options.exact:
        arguments["exact"] = True
    for name in ("normalized_shape", "num_groups", "channel_axis", "weight", "bias", "where"):
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
        if path.exists() and not path.is_file():
            raise CommandError(
                f"{what} must be a regular file, for it is mapped into memory: got {path}; copy what it is into one"
            )
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
            f"{what} must hold plain numbers: got {x.dtype.str} in {path}; if it is bfloat16, for which .npy has no name, save "
            "x.view(ml_dtypes.bfloat16).astype(numpy.float32)"
        )
    return np.asarray(x)  # a plain view: np.memmap as a type is of no use to a kernel


def _output_dtype(options: argparse.Namespace, x: Any) -> np.dtype[Any]:
    """As what it is computed and written."""
    if x.dtype.kind not in "iuf":
        raise CommandError(f"IN must hold real numbers: got {x.dtype} in {options.input}; save them as float32")
    if options.dtype is not None:
        return np.dtype(str(options.dtype))
    native: np.dtype[Any] = x.dtype.newbyteorder("=")
    if native.name not in NATIVE:
        raise CommandError(
            f"IN must hold {', '.join(NATIVE[:-1])} or {NATIVE[-1]}: got {x.dtype} in {options.input}; add --dtype float32 to "
            "compute with it and write it as float32"
        )
    return native


def _check_output(options: argparse.Namespace, nbytes: int) -> None:
    """Refuse an OUT that would cost the user a file or could not be finished."""
    out = options.output
    array = stores.named(out) and stores.is_array(out)
    if (out.is_dir() and not array) or not out.resolve().parent.is_dir():
        raise CommandError(f"OUT must be a file in a folder that exists: got {out}; make the folder first")
    if out.exists() and not out.is_file() and not array:
        raise CommandError(f"OUT must be a regular file or a new one: got {out}, which is neither; choose another name")
    for path in (options.input, options.weight, options.bias, options.where):
        if path is not None and out.exists() and os.path.samefile(path, out):
            raise CommandError(f"OUT must not be a file that is read: got {out} for both; choose another name")
    if out.exists() and not options.overwrite:
        raise CommandError(f"OUT must not exist yet: got {out}; choose another name or add --overwrite")
    # A memory map on a full disk does not raise, it kills the process with SIGBUS.
    free = shutil.disk_usage(out.resolve().parent).free
    if nbytes > free:
        raise CommandError(f"OUT needs {nbytes / 1e6:,.0f} MB: got {free / 1e6:,.0f} MB of free space; make room")


def _left_behind(path: Path) -> Iterator[str]:
    """What a run that was killed, and so could not tidy up, has left beside OUT, and what to do with it."""
    new, old = f".tmp{stores.SUFFIX}", f".old{stores.SUFFIX}"
    for found in sorted(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.*")):
        stem = found.name.removesuffix(new)
        if stem != found.name and found.with_name(stem + old).exists():  # killed between two renames
            yield f"{found} is the whole result of a run that was killed just before its end; rename it to have it or delete it"
        elif found.name.endswith((".tmp", new)):
            yield f"{found} is what a killed run had written so far; unless a run is writing it now, delete it"
        elif found.name.endswith(old):
            yield f"{found} is {path.name} as it was before a killed run; rename it to have it back, or delete it"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling that takes the place of `path` on success, with its mode, and is removed on any failure."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    before = path.stat() if path.exists() else None
    with unwinding():
        try:
            # nobody else may read meanwhile what only its owner may read at the end
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if before is None else 0o600))
            yield temporary
            if before is not None:
                with contextlib.suppress(OSError, AttributeError):  # not ours to give, or no owners on this system
                    os.chown(temporary, before.st_uid, before.st_gid)
                temporary.chmod(stat.S_IMODE(before.st_mode) & 0o777)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _stream(norm: str, x: Any, dtype: np.dtype[Any], arguments: dict[str, Any], path: Path) -> None:
    """Normalize `x` into the new file `path`, a chunk at a time."""
    import numbanorm

    from .. import functional

    name = f"{norm}_norm"
    as_array = stores.named(path)
    y: Any = stores.created(path, x, dtype) if as_array else open_memmap(path, mode="w+", dtype=dtype, shape=x.shape)
    # Raises every error before the first chunk; the untouched y stands in for x, for a file in Fortran or foreign byte
    # order would be copied whole to be asked about.
    stand_in = np.broadcast_to(np.zeros((), dtype), x.shape) if as_array else y
    # the function itself, for users may have put one of their own, which `explain` does not know, in its place
    asked = functools.partial(getattr(functional, name), **arguments, **({"training": True} if norm == "batch" else {}))
    numbanorm.explain(asked, stand_in, out=None if as_array else y)
    if x.size == 0:
        return
    mask = arguments.pop("where", None)
    where = None if mask is None else np.broadcast_to(mask, x.shape)
    apply: Callable[..., Any] = functools.partial(getattr(numbanorm, name), **arguments)
    itemsize = max(x.dtype.itemsize, dtype.itemsize)
    blocks = list(_blocks(x.shape, _independent_axes(norm, x.ndim, arguments), itemsize, stores.chunks_of(x, y)))
    chunks = functools.partial(_chunks, x, dtype, blocks)
    with Progress(x.size * dtype.itemsize * (2 if norm == "batch" else 1), sys.stderr) as progress:
        if norm == "batch":
            apply = _batch_norm(chunks, x.ndim, arguments, progress)
        for block, chunk in chunks():
            masked = {} if where is None else {"where": where[block]}
            if as_array:
                y[block] = apply(chunk, **masked)
            else:
                apply(chunk, out=np.asarray(y[block]), **masked)
            progress.advance(chunk.nbytes)
    if not as_array:
        y.flush()


def _chunks(x: Any, dtype: np.dtype[Any], blocks: list[Block]) -> Iterator[tuple[Block, Array]]:
    """Pieces of x as C-contiguous arrays of the dtype, copied only where it has another, or another layout."""
    for block in blocks:
        with np.errstate(over="ignore"):  # what is too large for the dtype is inf there
            chunk = np.ascontiguousarray(x[block], dtype)
        yield block, chunk


def _batch_norm(
    chunks: Callable[[], Iterator[tuple[Block, Array]]], ndim: int, arguments: dict[str, Any], progress: Progress
) -> Callable[..., Array]:
    """Batch norm of a chunk. All share statistics, which come first."""
    from ..moments import Moments

    channel = arguments.get("channel_axis", 1) % ndim
    total = Moments(axis=tuple(axis for axis in range(ndim) if axis != channel))
    for _, chunk in chunks():
        total.update(chunk, method=arguments.get("method"))
        progress.advance(chunk.nbytes)
    given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5, "exact": False}
    own = {name: arguments.get(name, default) for name, default in given.items()}
    return functools.partial(total.transform, **own)


def _independent_axes(norm: str, ndim: int, arguments: dict[str, Any]) -> int:
    """Number of leading axes that may be cut without touching the result."""
    if norm in ("layer", "rms"):
        return ndim - len(arguments["normalized_shape"])
    return 0 if arguments.get("channel_axis", 1) % ndim == 0 else 1


def _blocks(shape: tuple[int, ...], leading: int, itemsize: int, chunks: tuple[int, ...] | None = None) -> Iterator[Block]:
    """Index tuples that cut the first `leading` axes into pieces of about CHUNK_BYTES, in memory order.

    Indices instead of a reshape to rows: a Fortran-ordered file has no such view. Of what is stored in chunks a piece has whole
    ones along the axis that is cut, so that each is read once, and what is written is not read again.
    """
    if leading == 0:
        yield ()
        return
    sizes = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(leading)]
    cut = next((axis for axis, size in enumerate(sizes) if size <= CHUNK_BYTES), leading - 1)
    step, whole = max(1, CHUNK_BYTES // sizes[cut]), 1 if chunks is None else min(chunks[cut], shape[cut])
    step = max(1, step // whole) * whole
    for outer in np.ndindex(shape[:cut]):
        for start in range(0, shape[cut], step):
            yield (*outer, slice(start, start + step))
