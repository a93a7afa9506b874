"""Markers and fixtures. Warnings are errors: pyproject.toml says so."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

SLOW = "NUMBANORM_SLOW"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes many seconds or gigabytes")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


def free_gigabytes() -> float:
    """Memory that can be had without swapping; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 0.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slow test runs when it is asked for by NUMBANORM_SLOW=1, or where the memory it names is free."""
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
