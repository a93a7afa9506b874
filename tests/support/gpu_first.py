"""The first minutes on a GPU, for benchmarks/on_gpu.sh: whether kernels load and run, the bits of the whole table, and ratios.

    python tests/support/gpu_first.py prepare           without a GPU: what the stages need, so that none of them compiles
    python tests/support/gpu_first.py load              a stage, or bits, ratios, counted: each answer is a line of JSON

`prepare` runs the stages on arrays that are addresses alone, and compiles for sm_90 what they would launch; and it keeps
digests of what the CPU computes. Without its folder a stage compiles as it needs, and has the CPU compute what it compares to.
A stage leaves out what its results have: once a kernel broke the context (status 66) another process goes on from there.
`--dry` launches nothing, and says of what a stage would launch whether it has been prepared.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import numbanorm.cuda  # isort: skip  # first, for it imports numba.cuda as it must be where NumPy is newer
import cases
import rings

from benchmarks import gpu_facts_kernels, gpu_ratios

ROOT = Path(__file__).parents[2]
LOST = 66  # status once a kernel has broken the context, as of `gpu_tools`
CAPABILITY = (9, 0)
SHIFTS = {"aligned": 0, "shifted": 1}  # elements past an address that allows 16-byte accesses
FIRST = np.arange(640, dtype=np.float32).reshape(10, 64) ** 2  # the first thing that is computed

Key = tuple[Any, tuple[str, ...]]


# --- what is computed ------------------------------------------------------------------------------------------------


def name_of(case: cases.Case, dtype: Any, exact: bool) -> str:
    return f"{case.name} {dtype.name} {'exact' if exact else 'default'}"


def table(only: str, few: bool) -> Iterator[tuple[cases.Case, Any, bool]]:
    """Every case, dtype and mode, float32 first; a few of each norm, no matter how slow it is to run them."""
    small = [c for c in cases.TABLE if 300 <= c.size <= 3000]
    chosen = [next(c for c in small if c.norm == norm) for norm in dict.fromkeys(c.norm for c in small)] if few else cases.TABLE
    for dtype in cases.DTYPES:
        for exact in cases.MODES:
            yield from ((c, dtype, exact) for c in chosen if re.search(only, name_of(c, dtype, exact)))


def digest(a: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()[:16]


def named(y: Any, stats: Any, gradients: Iterable[Any]) -> dict[str, Any]:
    """Results by name, on the host."""
    found = {"y": y, "mean": stats.mean, "rstd": stats.rstd} | dict(zip(("dx", "dweight", "dbias"), gradients, strict=False))
    return {name: rings.host(v) for name, v in found.items() if v is not None}


def on_cpu(case: cases.Case, dtype: Any, exact: bool) -> dict[str, str]:
    """Digests of what the CPU gives for the call whose bits CUDA has, see `rings.twin`."""
    a, dy = cases.arguments(case, dtype), cases.upstream(case, dtype)
    y, stats = cases.call(case, a, exact=exact, return_stats=True)
    found = named(y, stats, cases.call_backward(case, a, dy, stats, **rings.twin(case, dtype, exact)))
    return {name: digest(v) for name, v in found.items()}


def on_ring(ring: rings.Ring, case: cases.Case, dtype: Any, exact: bool, shift: int) -> dict[str, str]:
    ring.arrays.reset()
    a, dy = ring.arguments(cases.arguments(case, dtype), shift), ring.upload(cases.upstream(case, dtype), shift)
    y, stats = cases.call(case, a, exact=exact, return_stats=True)
    found = named(y, stats, cases.call_backward(case, a, dy, stats, exact=exact))
    return {name: digest(v) for name, v in found.items()}


def pretended() -> tuple[Any, Any]:
    """Arrays without memory, of addresses alone, and a driver that launches nothing: for what a call asks of a device."""
    from numbanorm.cuda import driver

    class Nowhere(rings.kind_of_rings()):  # type: ignore[misc]
        end = 1 << 20

        def allocate(self, nbytes: int) -> tuple[int, Any]:
            start, self.end = self.end, self.end + -(-nbytes // 256) * 256
            return start, None

        def read(self, x: rings.Array) -> Any:
            return np.zeros(x.nbytes, np.uint8)

        def fill(self, x: rings.Array, values: Any) -> None:
            """There is nothing to fill."""

    class Pretended(driver.Hardware):
        def enter(self, device: int) -> None:
            """There is no device."""

        def ready(self, kernel: Any, kinds: tuple[str, ...], device: int) -> Any:
            self.kernels[kernel, kinds] = None

        def launch(self, ready: Any, grid: int, block: int, stream: int, arguments: Any) -> None:
            """There is nowhere to launch."""

    return Nowhere(), Pretended()


# --- stages ----------------------------------------------------------------------------------------------------------


class Answers:
    """Lines of JSON in a file, each written as it comes; what is there is not asked again."""

    def __init__(self, path: str | None, stage: str, dry: bool) -> None:
        self.path, self.stage, self.dry, self.wrong = path, stage, dry, 0
        self.there = set()
        if path and os.path.exists(path):
            lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
            self.there = {line["of"] for line in lines if line["stage"] == stage}

    def ask(self, of: str, question: Callable[[], dict[str, Any]]) -> None:
        """The answer, or what went wrong; when the context is lost no other can be had."""
        if of in self.there:
            return
        begun, answer = time.monotonic(), dict[str, Any]()
        try:
            answer = question()
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {e} {traceback.format_exc(limit=-2)}"[:800]}
        lost = None if self.dry else context_lost()
        self.wrong += "error" in answer or answer.get("right") is False or lost is not None
        line = {"stage": self.stage, "of": of, **answer, "s": round(time.monotonic() - begun, 3)} | (
            {"lost": lost} if lost else {}
        )
        text = json.dumps(line)
        if self.path:
            with open(self.path, "a") as file:
                file.write(text + "\n")
        if not self.path or "error" in answer or answer.get("right") is False or self.stage != "bits":
            print(text, flush=True)
        if lost:
            print(f"the CUDA context is lost: {lost}", flush=True)
            os._exit(LOST)


def context_lost() -> str | None:
    """What the driver says once a kernel has broken the context; it waits for all that was launched."""
    if rings.chosen() != "gpu":
        return None
    from cuda.bindings import driver

    (error,) = driver.cuCtxSynchronize()
    return None if int(error) == 0 else str(error)


def load(ring: rings.Ring | None, answers: Answers, args: argparse.Namespace) -> None:
    """Versions; and whether a first call works, by each library of arrays that is here."""
    from importlib import metadata

    def versions() -> dict[str, Any]:
        found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
        wanted = re.compile("(num|llvm|cuda|nvidia-(nv|cuda)|torch|triton|cupy|ml.dtypes|pytest)", re.I)
        from numbanorm.backends import dispatch
        from numbanorm.cuda import compiler

        packages = {n: v for n, v in sorted(found.items()) if wanted.match(n)}
        return {"python": sys.version.split()[0], "packages": packages, "no CUDA, for": dispatch.why_no_cuda(),
                "carried": args.carried, "source": compiler.source_key()[:16]}  # fmt: skip

    def first(kind: str) -> dict[str, Any]:
        x, options = FIRST, {"backend": "cuda"} if kind == "numpy" else {}
        library = None if kind == "numpy" else importlib.import_module("numba.cuda" if kind == "numba" else kind)
        a: Any = {"numpy": lambda: x, "torch": lambda: library.from_numpy(x).cuda(), "cupy": lambda: library.asarray(x),
                  "numba": lambda: library.to_device(x)}[kind]()  # fmt: skip
        y = numbanorm.layer_norm(a, x.shape[1], exact=True, **options)
        found = {"numpy": lambda: y, "torch": lambda: y.cpu().numpy(), "cupy": lambda: y.get(),
                 "numba": lambda: y.copy_to_host()}[kind]()  # fmt: skip
        expected = (x - x.mean(-1, keepdims=True, dtype=float)) / np.sqrt(x.var(-1, keepdims=True, dtype=float) + 1e-5)
        error = float(np.abs(found - expected).max())
        return {"right": error < 1e-6, "error by": error}

    answers.ask("versions", versions)
    for kind in ("numpy", "numba", "torch", "cupy"):
        if not args.dry and (kind in ("numpy", "numba") or there(kind)):
            answers.ask(f"first call, {kind}", lambda kind=kind: first(kind))


def there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def bits(ring: rings.Ring, answers: Answers, args: argparse.Namespace) -> None:
    """Digests of every result, aligned for 16-byte accesses and not, against those of the CPU."""
    truth = {} if args.truth is None else json.loads(args.truth.read_text())
    for case, dtype, exact in table(args.only, args.few):
        name = name_of(case, dtype, exact)

        def question(case: Any = case, dtype: Any = dtype, exact: bool = exact, name: str = name) -> dict[str, Any]:
            found = {how: on_ring(ring, case, dtype, exact, shift) for how, shift in SHIFTS.items()}
            if args.dry:
                return {"launched": "nothing"}
            want = truth.get(name) or on_cpu(case, dtype, exact)
            differ = {how: [n for n, d in want.items() if f.get(n) != d] for how, f in found.items()}
            return {"right": not any(differ.values())} | {how: names for how, names in differ.items() if names}

        answers.ask(name, question)


def ratios(ring: rings.Ring, answers: Answers, args: argparse.Namespace) -> None:
    """The time of a copy of as many bytes over that of each family's call, in both modes."""
    clock = gpu_ratios.Clock(args.dry)
    for case in gpu_ratios.chosen():
        for exact in cases.MODES:
            name = f"{case.name} {'exact' if exact else 'default'}"
            if re.search(args.only, name):
                answers.ask(name, lambda case=case, exact=exact: gpu_ratios.ratio(ring, clock, case, exact))


def counted(ring: rings.Ring, answers: Answers, args: argparse.Namespace) -> None:
    """One call of each family and direction, for a profiler that counts what its kernels do."""
    seen, clock = set[tuple[Any, ...]](), gpu_ratios.Clock(args.dry)
    for case in gpu_ratios.chosen():
        key = case.family, case.backward, case.dtype, case.last
        if key not in seen:
            seen.add(key)
            answers.ask(
                case.name, lambda case=case: {"called": gpu_ratios.calls_of(ring, clock, case, False)[0]["call"](0) is None}
            )


STAGES: dict[str, Callable[[Any, Answers, argparse.Namespace], None]] = {
    "load": load,
    "bits": bits,
    "ratios": ratios,
    "counted": counted,
}


# --- what is carried -------------------------------------------------------------------------------------------------


def source() -> str:
    """Digest of all that a cubin is made of, but for the compiler: what was carried must be of this."""
    from numbanorm.runtime.cache import digest_of

    return digest_of("carried", ROOT / "numbanorm", ROOT / "benchmarks" / "gpu_facts_kernels.py")


def wanted(args: argparse.Namespace) -> list[Key]:
    """Kernels that the stages launch, by running them where nothing is launched: here, and in gpu.py and gpu_facts.py."""
    with rings.installed(pretended()) as ring:
        kernels, dry = ring.driver.driver.kernels, gpu_ratios.Clock(dry=True)
        kernels.clear()
        numbanorm.layer_norm(ring.upload(FIRST), FIRST.shape[1], exact=True)
        for case, dtype, exact in table(args.only, args.few):
            for shift in SHIFTS.values():
                on_ring(ring, case, dtype, exact, shift)
        for timed in gpu_ratios.every():
            if re.search(args.only, timed.name):
                for exact in cases.MODES:
                    gpu_ratios.ratio(ring, dry, timed, exact)
        return [*kernels, *(gpu_facts_kernels.needed() if args.facts else ())]


def compiled(key: Key) -> str | None:
    """Compile a kernel to the cache's folder; in a process of a pool, by its place in the list."""
    import numba.cuda.dispatcher as dispatcher

    from numbanorm.cuda import compiler

    dispatcher.get_current_device = lambda: type("Device", (), {"compute_capability": CAPABILITY})
    compiler.cubin(*key, CAPABILITY)
    path = compiler.cache_file(*key, CAPABILITY)
    return None if path is None else str(path)


KEYS: list[Key] = []  # of the processes of the pool, which are forked: kernels of closures cannot be pickled


def compiled_at(k: int) -> str | None:
    return compiled(KEYS[k])


def prepare(args: argparse.Namespace) -> int:
    """Fill the folder: cubins/*.cubin, truth.json, and of what source they are."""
    folder = Path(args.folder)
    (folder / "cubins").mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    KEYS[:] = wanted(args)
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        files = {path for path in pool.map(compiled_at, range(len(KEYS)), chunksize=4) if path}
    for old in (folder / "cubins").iterdir():
        old.unlink()
    for path in files:
        shutil.copy(path, folder / "cubins")
    truth = {name_of(*asked): on_cpu(*asked) for asked in table(args.only, args.few)}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "source").write_text(source())
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    seconds = time.monotonic() - begun
    print(f"{len(files)} kernels, digests of {len(truth)} calls, {size / 2**20:.1f} MiB in {folder}, {seconds:.0f} s")
    return 0


def unpack(folder: Path) -> str:
    """Put carried cubins where the compiler's cache is looked at on this machine, whatever its versions."""
    from numbanorm.cuda import compiler
    from numbanorm.runtime.cache import DIGEST, store

    if not (folder / "source").exists():
        return "nothing"
    if (folder / "source").read_text() != source():
        return "what is of another source, and is not used"
    target = compiler.cache_file(compiler.Kernel(unpack, (), 1), (), CAPABILITY)
    if target is None:
        return "what cannot be used: the cache is off"
    files = list((folder / "cubins").iterdir())
    for file in files:
        if not (target.parent / file.name).exists():
            store(target.parent / file.name, file.read_bytes()[DIGEST:])
    return f"{len(files)} kernels"


def missing(ring: rings.Ring) -> list[str]:
    """Kernels that a dry run wanted and the cache does not have."""
    from numbanorm.cuda import compiler

    paths = {key: compiler.cache_file(*key, CAPABILITY) for key in ring.driver.driver.kernels}
    return [f"{k.name} {kinds}" for (k, kinds), path in paths.items() if path is None or not path.exists()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("prepare", *STAGES))
    parser.add_argument("--folder", default=str(ROOT / "gpu-carried"))
    parser.add_argument("--results", help="a file to append the answers to")
    parser.add_argument("--only", default="", help="cases whose name has this regular expression in it")
    parser.add_argument("--few", action="store_true", help="a small case of each norm, for compute-sanitizer")
    parser.add_argument("--dry", action="store_true", help="launch nothing")
    parser.add_argument("--facts", action=argparse.BooleanOptionalAction, default=True, help="kernels of gpu_facts.py too")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    if args.stage == "prepare":
        return prepare(args)
    args.carried = unpack(Path(args.folder))
    truth = Path(args.folder) / "truth.json"
    args.truth = truth if args.carried[0].isdigit() and truth.exists() else None
    answers = Answers(args.results, args.stage, args.dry)
    if args.stage == "load":
        load(None, answers, args)
        print(f"carried: {args.carried}; {answers.wrong} wrong")
        return int(answers.wrong > 0)
    with rings.installed(pretended() if args.dry else None) as ring:
        STAGES[args.stage](ring, answers, args)
        lacking = missing(ring) if args.dry else []
    print(f"{args.stage}: {answers.wrong} wrong" + (f"; not prepared: {'; '.join(lacking)}" if lacking else ""))
    return int(answers.wrong > 0 or bool(lacking))


if __name__ == "__main__":
    sys.exit(main())
