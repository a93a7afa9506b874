"""Markers and fixtures. Warnings are errors: pyproject.toml says so."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.register_assert_rewrite("bad_input", "close", "ptx_programs")  # so that they say what was unequal
SLOW = "NUMBANORM_SLOW"
FOLDER = pytest.StashKey[str]()  # for kernels
SUPPORT = str(Path(__file__).parent / "support")  # what tests import from; pyproject.toml has it for pytest's own process


def pytest_configure(config: pytest.Config) -> None:
    # what a script starts in the background ignores SIGINT, and so would every program that a test starts and interrupts
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH")]))  # of what they start
    if not any(name in os.environ for name in ("NUMBA_CACHE_DIR", "NUMBANORM_CACHE")) and not has_home():
        config.stash[FOLDER] = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash.get(FOLDER, ""), ignore_errors=True)


def has_home() -> bool:
    """Whether this user has a folder for kernels; without one every program that a test starts complains, and compiles them."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="long tests too, and all cases of each test")
    # a property is not shown by thousands of cases that are alike
    parser.addoption("--most", type=int, default=10, help="cases of one test that a run without --full takes: %(default)s")
    parser.addoption("--rest", action="store_true", help="with --full: only what a run without it leaves out")


def sample(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    """At most so many cases of each test that are not long: by their names, so that every value of a short axis comes up."""
    of_test: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("long") is None:
            of_test.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = set[pytest.Item]()
    for cases in of_test.values():
        chosen.update(sorted(cases, key=lambda case: zlib.crc32(case.nodeid.encode()))[:most])
    return [item for item in items if item in chosen]


def free_gigabytes() -> float:
    """Memory that can be had without swapping; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 0.0


@pytest.hookimpl(trylast=True)  # of what -k and -m leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow test runs when it is asked for by NUMBANORM_SLOW=1, or where the memory it names is free."""
    full, rest = config.getoption("--full"), config.getoption("--rest")
    if (rest or not full) and not any("::" in argument for argument in config.args):  # a test that is named
        first = set(sample(items, config.getoption("--most")))
        config.hook.pytest_deselected(items=[item for item in items if (item in first) is full])
        items[:] = [item for item in items if (item in first) is not full]
    for item in items:
        mark = item.get_closest_marker("slow")
        if mark is None or os.environ.get(SLOW) == "1":
            continue
        needed = mark.kwargs["gigabytes"]
        if free_gigabytes() < needed:
            reason = f"needs {needed} GB of free memory; set {SLOW}=1 to run it all the same"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def threads_as_asked() -> Iterator[None]:
    """Tests of threads have them, however busy the machine is; `test_threads` says when calls go without."""
    from numbanorm.cpu import threads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "LATE", float("inf"))
        yield


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Numbers of its own for each test, the same in every run."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
