"""Random calls from many threads at once, for as long as is asked: each must have the bits, or the words of refusal, of a
serial run, and the memory of the process must stay as it is.

    python tests/support/soak.py --minutes 10 --threads 8 --seed 0

In rounds. In each, the calls of a hundred new seeds are made by one thread with one thread of Numba's, and then by all threads
at once, each in an order of its own and with a number of Numba's threads of its own. Ends with one line and exit code 0, or 1,
and then the line has the seed of the call that went wrong: `perform(seed)` makes it again. Torch is not needed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import bad_gradients
import bad_input
import cases
import layer_cases
import numba
import numpy as np
from cases import ALL_METHODS, DTYPES, METHODS, MODES, Arguments, Case, call, call_backward, gradient_of, norm_of
from digest import SHARED
from hostile import KINDS, hostile
from layouts import LAYOUTS, possible
from numpy.typing import NDArray

import numbanorm
import numbanorm.cpu.backend
from numbanorm import precompile
from numbanorm.spec import call as spec

Array = NDArray[Any]
Rng = np.random.Generator

CALLS = 100  # seeds of a round
WARM_UP = 0.25  # share of the time in which memory may grow: kernels are loaded, every heap finds its size
GROWTH = 0.05
# a rule, what came, and a remedy
WORDS = re.compile(r".+: .+; .+", re.DOTALL)
TABLE = (*cases.TABLE, *SHARED)
WRONG = [(module, name, row) for module in (bad_input, bad_gradients) for name, row in module.TABLE if "Tensor" not in row.what]


def one_of(rng: Rng, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def arrays(value: Any) -> Iterator[Array]:
    """All arrays in what a call returned, or was given."""
    if isinstance(value, numbanorm.Moments):
        value = (np.asarray(value.count), value.mean, value.m2)
    if isinstance(value, (np.ndarray, np.generic)):
        yield np.asarray(value)
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from arrays(v)


def digest(*values: Any) -> str:
    """A hash of all bits, but of a nan only that it is one: IEEE 754 leaves its sign open, and so does LLVM."""
    total = hashlib.sha256()
    for a in arrays(values):
        a = np.where(a != a, np.array(np.nan, a.dtype), a) if a.dtype.kind in "fV" else a
        total.update(f"{a.dtype}{a.shape}".encode() + a.tobytes())
    return total.hexdigest()[:16]


def resized(case: Case, rng: Rng) -> Case:
    """The case with other lengths, none among them; as it is, where a variance could not be taken of those."""
    shape = [max(1, int(n * rng.uniform(0.5, 1.5))) for n in case.shape]
    if rng.random() < 0.03:
        shape[0] = 0
    axis = case.channel_axis
    if case.norm == "group":
        shape[axis] = case.groups * max(1, shape[axis] // case.groups)
    other = replace(case, shape=tuple(shape))
    if case.rows:
        return other
    apart = {"batch": shape[axis], "instance": shape[axis] * shape[0], "group": case.groups}[case.norm]
    return case if other.size == apart else other


def numbers(shape: tuple[int, ...], dtype: np.dtype[Any], rng: Rng) -> Array:
    if 0 in shape or rng.random() < 0.5:
        return rng.normal(1.5, 2.0, shape).astype(dtype)
    x = hostile(one_of(rng, KINDS), dtype, rng, shape)
    if rng.random() < 0.2:
        x.flat[rng.integers(x.size)] = one_of(rng, (np.nan, np.inf, -np.inf))
    return x


def placed(a: Array | None, rng: Rng, writable: bool = False) -> Any:
    layout = one_of(rng, list(LAYOUTS))
    if a is None or a.ndim == 0 or a.size == 0 or not possible(layout, a) or (writable and layout in ("read_only", "swapped")):
        return a
    return LAYOUTS[layout](a)


def arguments(case: Case, dtype: np.dtype[Any], rng: Rng) -> Arguments:
    """In any memory, each parameter of any type; running statistics that training updates, or has none of."""
    made: dict[str, Array | None] = {"x": placed(numbers(case.shape, dtype, rng), rng)}
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = rng.uniform(0.5, 2.0, case.parameter_shape).astype(one_of(rng, DTYPES))
        made[name] = placed(values, rng, writable=True)
        if not case.affine and name in ("weight", "bias"):
            made[name] = None
    if case.norm not in ("batch", "instance") or (case.training and rng.random() < 0.5):
        made |= {"running_mean": None, "running_var": None}
    return Arguments(**(made | ({} if case.its.center else {"bias": None})))


def chosen(case: Case, a: Arguments, rng: Rng) -> dict[str, Any]:
    """Options of a norm."""
    options: dict[str, Any] = {"method": one_of(rng, ALL_METHODS), "eps": one_of(rng, (1e-5, 0.1, 0.0))}
    if case.norm in ("batch", "instance"):
        options["convention"] = one_of(rng, ("torch", "keras"))
        options["momentum"] = one_of(rng, (0.1, 0.25, 1.0, None))
        if options["momentum"] is None or rng.random() < 0.2:
            options["num_batches_tracked"] = np.array(4)
    return options


def norm(rng: Rng) -> tuple[str, Callable[[], Any]]:
    """A norm and its gradients, in place or not, and all that they write."""
    case, dtype = resized(one_of(rng, TABLE), rng), one_of(rng, DTYPES)
    a, where = arguments(case, dtype, rng), one_of(rng, ("new", "out", "in place"))
    options, exact, dy = chosen(case, a, rng), one_of(rng, MODES), placed(numbers(case.shape, dtype, rng), rng)

    def run() -> Any:
        x = a.x.astype(dtype)
        out = {"new": None, "out": placed(np.empty_like(x), rng, writable=True), "in place": x}[where]
        y, stats = call(case, replace(a, x=x) if out is x else a, **options, exact=exact, out=out, return_stats=True)
        assert out is None or y is out
        y = y.copy()
        needs = (bool(rng.integers(2)), bool(rng.integers(2)), bool(rng.integers(2)))
        upstream = dy.astype(dtype)
        into = None if not needs[0] else upstream if rng.random() < 0.3 else out
        found = call_backward(case, a, upstream, stats, needs=needs, exact=exact, out=into)
        return y, stats, found, options.get("num_batches_tracked"), [getattr(a, f.name) for f in fields(a)], dy

    return f"{case.name} {dtype.name} {where} {options} exact={exact}", run


def explained(rng: Rng) -> tuple[str, Callable[[], Any]]:
    """With one thread of Numba's, for their number is part of the answer."""
    case, dtype = resized(one_of(rng, TABLE), rng), one_of(rng, DTYPES)
    a = arguments(case, dtype, rng)
    _, stats = call(case, a, return_stats=True)
    asked = one_of(rng, (norm_of(case, a), gradient_of(case, a, a.x, stats)))

    def run() -> Any:
        mask = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return [np.frombuffer(numbanorm.explain(asked).encode(), np.uint8), a.x]
        finally:
            numba.set_num_threads(mask)

    return f"explain {case.name} {dtype.name}", run


def moments(rng: Rng) -> tuple[str, Callable[[], Any]]:
    """Of any axes, in pieces that are merged."""
    shape = tuple(int(n) for n in rng.integers(1, 40, int(rng.integers(1, 5))))
    axes = tuple(k for k in range(len(shape)) if rng.random() < 0.5)
    dtype, method = one_of(rng, DTYPES), one_of(rng, ALL_METHODS)
    x = placed(numbers(shape, dtype, rng), rng)

    def run() -> Any:
        one, other = (numbanorm.Moments(axis=axes).update(v, method=method) for v in (x, x[..., ::-1]))
        return one + other, one.merge(other), one.var(1), one.rstd(1e-5), x

    return f"moments {shape} {axes} {dtype.name} {method}", run


def layer(rng: Rng) -> tuple[str, Callable[[], Any]]:
    """Two steps of a layer, in training or not."""
    name, dtype, train = one_of(rng, list(layer_cases.CASES)), one_of(rng, DTYPES), bool(rng.integers(2))
    made, x, dy = layer_cases.made(name, rng, dtype, method=one_of(rng, ALL_METHODS), exact=one_of(rng, MODES))
    made.train(train)

    def run() -> Any:
        steps = [(made(x), made.backward(dy), list(made.grad.values())) for _ in range(2)]
        return steps, list(made.state_dict().values())

    return f"{name} {dtype.name} training={train}", run


def refused(rng: Rng) -> tuple[str, Callable[[], Any]]:
    """A row of the tables of bad arguments, for the function or for `explain`."""
    module, name, row = one_of(rng, WRONG)
    function, given = module.FUNCTIONS[name], module.arguments(name, row)
    if name in bad_input.NORMS.split() and rng.random() < 0.2:
        function = partial(numbanorm.explain, function)
    return f"bad {name}: {row.what}", lambda: function(**given)


def refused_layer(rng: Rng) -> tuple[str, Callable[[], Any]]:
    """A bad call of a good layer."""
    name, wrong = one_of(rng, list(layer_cases.CASES)), one_of(rng, list(layer_cases.WRONG_CALLS))
    made, x, _ = layer_cases.made(name, rng)
    made(x)
    return f"bad {name}: {wrong}", lambda: layer_cases.WRONG_CALLS[wrong](made, x + 1)


JOBS = (norm, norm, norm, norm, layer, moments, explained, refused, refused, refused_layer)


def perform(seed: int) -> str:
    """The call of a seed: what it is, and a hash of its results and of what it was given, or the error."""
    rng = np.random.default_rng(seed)
    make = one_of(rng, JOBS)
    what, run = make(rng)
    bad = make in (refused, refused_layer)
    try:
        found = digest(run())
    except (TypeError, ValueError) as error:
        if not bad or not WORDS.fullmatch(str(error)):
            raise
        return f"{what}: {type(error).__name__}: {error}"
    if bad:
        raise AssertionError(f"{what} was taken")
    return f"{what}: {found}"


def resident() -> int | None:
    """Bytes of memory that the process holds; where there is no /proc, the most that it has held."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_back() -> None:
    """Has glibc give freed memory back at once: its heaps, one for each thread, keep tens of MB each, which hides a leak."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 2**17), (-8, 1)):  # M_MMAP_THRESHOLD, and M_ARENA_MAX, as malloc.h numbers them
            libc.mallopt(option, value)


def compile_all() -> None:
    """All kernels: those of both modes, and what `warmup` leaves out: calls that name a method, samples apart, columns."""
    names = [d.name for d in DTYPES]
    for exact in MODES:
        numbanorm.warmup(dtypes=names, exact=exact)
        for dtype, method, shape in product(DTYPES, METHODS, precompile.SHAPES):
            numbanorm.batch_norm(np.zeros(shape, dtype), training=True, channel_axis=2, method=method, exact=exact)
    for dtype, exact in product(DTYPES, MODES):
        apart, columns = np.zeros((2, 3, 20), dtype)[:, :2], np.zeros((16, 32), dtype, order="F")
        for x, method in product((apart, columns), METHODS):
            _, stats = numbanorm.layer_norm(x, x.shape[1:], method=method, exact=exact, return_stats=True)
            numbanorm.layer_norm_backward(x, x, x.shape[1:], stats, exact=exact)
        _, stats = numbanorm.group_norm(apart, 1, exact=exact, return_stats=True)
        numbanorm.group_norm_backward(apart, apart, 1, stats, exact=exact)


def compile_elsewhere() -> None:
    """All kernels, in another process: the compiler would keep hundreds of MB in this one, now more and now less of them."""
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import soak; soak.compile_all()"
    subprocess.run([sys.executable, "-c", code], check=True)
    compile_all()


def forget() -> None:
    """Calls and programs of the last thousands of shapes are kept: they would grow in number for as long as a soak lasts."""
    for kept in (*vars(spec).values(), numbanorm.cpu.backend.prepared):
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


@dataclass
class Soak:
    """What became of the calls so far."""

    threads: int
    wrong: list[str] = field(default_factory=list)
    calls: int = 0
    rounds: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)  # (share of the time, bytes) after each round

    def outcome(self, seed: int) -> str:
        try:
            return perform(seed)
        except Exception as error:
            self.wrong.append(f"call of seed {seed}: {type(error).__name__}, which is not for this call: {error}")
            return ""

    def work(self, k: int, expected: dict[int, str], together: threading.Barrier) -> int:
        """All calls of a round, in an order and with a number of threads of its own."""
        numba.set_num_threads(1 + k % numba.config.NUMBA_NUM_THREADS)
        seeds = np.random.default_rng([self.rounds, k]).permutation(list(expected)).tolist()
        together.wait()
        for done, seed in enumerate(seeds):
            found = self.outcome(seed)
            if found != expected[seed]:
                self.wrong.append(f"call of seed {seed}: {found!r}, but {expected[seed]!r} in a serial run")
            if self.wrong:
                return done
        return len(seeds)

    def round(self, first: int) -> None:
        numba.set_num_threads(1)
        expected = {seed: self.outcome(seed) for seed in range(first, first + CALLS)}
        if not self.wrong:
            together = threading.Barrier(self.threads)
            with ThreadPoolExecutor(self.threads) as pool:
                self.calls += sum(pool.map(lambda k: self.work(k, expected, together), range(self.threads)))
        self.rounds += 1
        forget()
        gc.collect()

    def flat(self) -> str:
        """What is to be said of the memory; appends to `wrong` if it grew."""
        before = [size for share, size in self.memory if share < WARM_UP] or [size for _, size in self.memory[:1]]
        after = [size for share, size in self.memory if share >= WARM_UP]
        if not after:
            return "memory was not measured"
        text = f"memory {before[-1] / 2**20:.0f} MB after warm-up, then at most {max(after) / 2**20:.0f} MB"
        if max(after) > max(before) * (1 + GROWTH):
            self.wrong.append(text)
        return text


def soak(minutes: float, threads: int, seed: int) -> Soak:
    state, begin = Soak(threads), time.monotonic()
    share = 0.0
    while share < 1 and not state.wrong:
        state.round(seed * 10**9 + state.rounds * CALLS)
        share = (time.monotonic() - begin) / (60 * minutes)
        held = resident()
        if held is not None:
            state.memory.append((share, held))
    return state


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args(argv)
    warnings.simplefilter("error")
    give_back()
    compile_elsewhere()
    state = soak(told.minutes, told.threads, told.seed)
    memory = state.flat()
    done = f"{state.calls} calls of {told.threads} threads in {state.rounds} rounds, seed {told.seed}"
    if state.wrong:
        print(f"soak: FAILED after {done}: {state.wrong[0]}")
        return 1
    print(f"soak: {done}, {numba.threading_layer()}: all as in a serial run; {memory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
