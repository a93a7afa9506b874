"""Calls from threads, forks, signals, other people's kernels, and while Python ends, under each of Numba's threading layers.

Every scenario is a program in an interpreter of its own, for a layer is loaded once and for all. It must end by itself, and
well, without a word on stderr, and what it computes must have the bits of a run in one thread. To hang is to fail.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from inside import installed

LAYERS = ["omp", "workqueue", "tbb"]

PROGRAM = """
import atexit, gc, hashlib, multiprocessing, os, signal, sys, threading, time, warnings
import numpy as np
import numbanorm

# what Python says, from 3.12 on, of every fork of a process that has threads, as one that has computed has
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

x = np.random.default_rng(0).normal(1e4, 1, (64, 1024)).astype(np.float32)

def bits():
    # rows, columns and a group that is cut, enough of each for all threads; and gradients
    y, stats = numbanorm.layer_norm(x, 1024, return_stats=True)
    gradients = numbanorm.layer_norm_backward(x[::-1].copy(), x, 1024, stats=stats, weight=x[0])
    found = y, numbanorm.batch_norm(x, training=True), numbanorm.group_norm(x[None], 1), *gradients
    return hashlib.sha256(b"".join(a.tobytes() for a in found)).hexdigest()

def right(times=1):
    return all(bits() == os.environ["WANT"] for _ in range(times))

def quick(times=1):
    # one kernel of one thread, and that of all
    return all(np.array_equal(numbanorm.rms_norm(x, 1024)[0], numbanorm.rms_norm(x[0], 1024)) for _ in range(times))

def fork(work):
    pid = os.fork()
    if pid == 0:
        result = False
        try:
            result = work()
        finally:
            os._exit(0 if result else 3)
    return pid

def ended(*pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * len(pids)

def in_threads(n, work, *args):
    found, barrier = [], threading.Barrier(n)
    def run():
        barrier.wait()
        found.append(work(*args))
    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found == [True] * n

def interrupted(seconds, work):
    # Ctrl-C comes after so many seconds, whether or not the work is done
    try:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
        work()
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""

SCENARIOS = {
    # threads
    "eight threads": """
        def work():
            import numba
            numba.set_num_threads(1 + threading.get_ident() // 4096 % 2)  # a mask is its thread's own
            return right(8)
        print(right() and in_threads(8, work) and right())
        """,
    "first call of eight threads": "print(in_threads(8, right))",
    "garbage that calls": """
        class Loud:
            def __init__(self):
                self.cycle = self
            def __del__(self):
                assert quick()
        quick()
        gc.set_threshold(50)
        def work():
            return all((Loud(), right())[1] for _ in range(8))
        print(in_threads(4, work))
        """,
    # forks
    "fork before use": """
        pids = [fork(right) for _ in range(2)]
        print(right() and ended(*pids))
        """,
    "fork after use": """
        def work():
            return right() and in_threads(4, right) and ended(fork(right))
        print(right() and ended(fork(work), fork(right)) and right())
        """,
    "fork while others call": """
        right()
        stop = []
        def work():
            good = []
            while not stop:
                good.append(right())
            return all(good)
        done = []
        caller = threading.Thread(target=lambda: done.append(in_threads(3, work)))
        caller.start()
        good = [ended(fork(right), fork(lambda: in_threads(2, right))) for _ in range(4)]
        stop.append(True)
        caller.join()
        print(good == [True] * 4 and done == [True])
        """,
    "fork while another compiles": """
        threading.Thread(target=right).start()
        pids = []
        for _ in range(6):
            time.sleep(0.15)
            pids.append(fork(right))
        print(ended(*pids) and right())
        """,
    "pool after use": """
        print(right())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(right, [1] * 4, chunksize=1) == [True] * 4 and right())
        """,
    "pool before use": """
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(right, [1] * 4, chunksize=1) == [True] * 4 and right())
        """,
    # kernels of the user's
    "inside a parallel kernel": """
        import numba
        if os.environ["NUMBA_THREADING_LAYER"] == "tbb":
            right()  # finds it for Numba
        @numba.njit(parallel=True)
        def kernel(n, found):
            for i in numba.prange(n):
                with numba.objmode(good="boolean"):
                    good = right()
                found[i] = good
        for _ in range(3):
            found = np.zeros(8, np.bool_)
            kernel(8, found)
            print(found.all() and right())
        """,
    "beside a parallel kernel": """
        import numba
        @numba.njit(parallel=True, nogil=True)
        def kernel(n):
            total = 0.0
            for i in numba.prange(n):
                total += 1.0 / (1 + i)
            return total
        right()
        kernel(100000)
        def work(k):
            return all(kernel(100000) > 12 for _ in range(50))
        other = []
        caller = threading.Thread(target=lambda: other.append(in_threads(2, work, 1)))
        caller.start()
        print(in_threads(2, right, 8))
        caller.join()
        print(other == [True])
        """,
    "nogil threads": """
        import numba
        @numba.njit(nogil=True)
        def kernel(n):
            total = 0.0
            for i in range(n):
                total += 1.0 / (1 + i)
            return total
        def work():
            return all(kernel(200000) > 12 and right() for _ in range(4))
        print(in_threads(4, work))
        """,
    # signals
    "Ctrl-C in a call": """
        right()
        large = np.ones((16384, 1024), np.float32)
        for k in range(6):
            def work():
                for _ in range(100):
                    numbanorm.layer_norm(large, 1024, out=large)
            interrupted(0.02 + 0.005 * k, work)
            print(right() and in_threads(2, right))
        """,
    "Ctrl-C in the first call": """
        for k in range(6):
            interrupted(0.02 + 0.06 * k, right)
        print(right() and in_threads(2, right))
        """,
    # the end
    "daemons at the end": """
        right()
        for _ in range(4):
            threading.Thread(target=right, args=(1000000,), daemon=True).start()
        time.sleep(0.2)
        print(True)
        """,
    "daemons that begin at the end": """
        for _ in range(3):
            threading.Thread(target=right, args=(1000000,), daemon=True).start()
        time.sleep(0.6)
        print(True)
        """,
    "calls at the end": """
        class Loud:
            def __del__(self, right=right, print=print):
                print(right())
        def last():
            print(right() and in_threads(2, right))
        right()
        atexit.register(last)
        threading.Thread(target=right, args=(1000000,), daemon=True).start()
        cycle = Loud()
        cycle.me = cycle
        other = sys.loud = Loud()
        """,
    "first call at the end": """
        def last():
            print(right() and in_threads(2, right))
        atexit.register(last)
        """,
    "fork in the end": """
        right()
        atexit.register(lambda: print(ended(fork(right))))
        """,
}
# what depends on no layer: once each
OTHERS = {
    "spawned pools": """
        print(right())
        for how in ("forkserver", "spawn"):
            pool = multiprocessing.get_context(how).Pool(2)
            print(pool.map(right, [1] * 4, chunksize=1) == [True] * 4 and right())
            pool.close()  # to leave it to `with` kills its processes
            pool.join()
        """,
    "loaders": """
        from torch.utils.data import DataLoader
        class Rows:
            def __len__(self):
                return 8
            def __getitem__(self, k):
                return right()
        def load(**more):
            return all(bool(good) for good in DataLoader(Rows(), num_workers=2, batch_size=1, **more))
        print(load() and right() and load() and in_threads(2, right) and load())
        """,
    "cold: first call of four threads": "print(in_threads(4, quick))",
    "cold: fork while another compiles": """
        threading.Thread(target=quick).start()
        time.sleep(1.5)
        pids = [fork(quick), fork(quick)]
        print(quick() and ended(*pids))
        """,
    "cold: Ctrl-C": """
        for k in range(8):
            interrupted(0.1 + 0.15 * k, quick)
        print(quick() and in_threads(2, quick))
        """,
    "cold: daemon at the end": """
        threading.Thread(target=quick, daemon=True).start()
        time.sleep(1.5)
        print(True)
        """,
}
# workqueue has Numba abort where two kernels run at once, and a kernel of the user's waits for no turn
IMPOSSIBLE = [("beside a parallel kernel", "workqueue")]
TABLE = [(name, layer) for name in SCENARIOS for layer in LAYERS if (name, layer) not in IMPOSSIBLE] + [
    (name, "omp") for name in OTHERS
]
# Numba's own words, to those who fork while other threads use TBB
TBB_SAYS = (
    "Numba: Attempted to fork from a non-main thread, the TBB library may be in an invalid state in the child process.",
    "Unable to join threads to shut down before fork(). This can break multithreading in child processes.",
)


def run(code: str, folder: Path, **environment: str) -> tuple[int | str, set[str], list[str]]:
    """How a program ended, and what it printed, but for what Numba does."""
    script = folder / "program.py"
    script.write_text(PROGRAM + '\nif __name__ == "__main__":\n' + textwrap.indent(textwrap.dedent(code), "    "))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], env=env, start_new_session=True, **pipes) as process:
        try:
            printed, errors = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)  # its children too
            process.kill()
            return "it hangs", set(), []
    lines, words = ([w for w in text.splitlines() if w and w not in TBB_SAYS] for text in (printed, errors))
    return process.returncode, set(lines), words


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[Any]]]:
    """What every program that was asked for comes to; two at a time."""
    _, told, _ = run("print(bits())", tmp_path_factory.mktemp("want"), NUMBA_NUM_THREADS="1")

    def start(name: str, layer: str) -> Any:
        folder = tmp_path_factory.mktemp("scenario")
        cold = {"NUMBA_CACHE_DIR": str(folder)} if name.startswith("cold") else {}
        env = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "3", "WANT": "".join(told)}
        return run({**SCENARIOS, **OTHERS}[name], folder, **env, **cold)

    asked = [item.callspec.params for item in request.session.items if getattr(item, "originalname", "") == "test_scenario"]
    with ThreadPoolExecutor(2) as pool:
        yield {key: pool.submit(start, *key) for key in [(p["name"], p["layer"]) for p in asked] if not missing(*key)}


def missing(name: str, layer: str) -> str:
    """What a scenario lacks on this machine."""
    if re.search("fork|pool", name) and not hasattr(os, "fork"):
        return "this system has no fork"
    if layer == "tbb" and not installed("tbb"):
        return "the package tbb is not installed"
    if name in ("calls at the end", "first call at the end", "fork in the end") and (3, 12) <= sys.version_info < (3, 12, 2):
        return "this Python lets nobody start a thread or fork once it has begun to end; from 3.12.2 on it does again"
    if name == "loaders" and find_spec("torch") is None:
        return "torch, which has the DataLoader, is not installed"
    return ""


@pytest.mark.parametrize(("name", "layer"), TABLE)
def test_scenario(name: str, layer: str, outcomes: dict[tuple[str, str], Future[Any]]) -> None:
    if missing(name, layer):
        pytest.skip(missing(name, layer))
    assert outcomes[name, layer].result() == (0, {"True"}, [])


def test_tbb_is_found(tmp_path: Path) -> None:
    """As pip installs it, which is where Numba does not look."""
    if missing("", "tbb"):
        pytest.skip(missing("", "tbb"))
    code = "import numba; print(right()); print(numba.threading_layer())"
    assert run(code, tmp_path, NUMBA_THREADING_LAYER="tbb", NUMBA_NUM_THREADS="2", WANT="")[1] == {"False", "tbb"}
