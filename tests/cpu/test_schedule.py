"""However the work is cut, the bits are the same: schedules for machines that this one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import ALL_METHODS, MODES

import numbanorm
from numbanorm.cpu.launch import GUARD
from numbanorm.cpu.schedule import machine
from numbanorm.cpu.schedule.forward import cut
from numbanorm.cpu.schedule.machine import UNKNOWN

THREADS = (2, 3, 7, 16, 64)

# samples x rows x channels, channels last: strips that fit a cache and strips that do not, more and fewer of them than
# threads, one chunk of rows a strip (8 rows are a single block) and many
SHAPES = [(29, 1100, 256), (1, 9000, 64), (3, 1030, 300), (1, 33000, 3), (2, 40, 2000), (65, 1056, 32), (3, 8, 5000)]


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_threads_gives_the_same_bits(
    shape: tuple[int, ...], method: str | None, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With some groups so far from 0 that one read does not do for them."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    x[..., ::7] += 100
    options: dict[str, Any] = {"method": method, "exact": exact}
    norms = {
        "group": lambda: numbanorm.group_norm(x, 1 if shape[2] % 4 else 4, channel_axis=-1, **options),
        "instance": lambda: numbanorm.instance_norm(x, channel_axis=-1, **options),
        "batch": lambda: numbanorm.batch_norm(x, training=True, channel_axis=-1, **options),
        "layer": lambda: numbanorm.layer_norm(x, shape[1:], **options),
        "rows": lambda: numbanorm.layer_norm(x, shape[2], **options),
    }
    monkeypatch.setattr(GUARD, "threads", lambda: 1)
    alone = {name: norm().tobytes() for name, norm in norms.items()}
    for threads in THREADS:
        monkeypatch.setattr(GUARD, "threads", lambda n=threads: n)
        for name, norm in norms.items():
            assert norm().tobytes() == alone[name], (name, threads)


def test_the_cases_above_are_cut_in_every_way() -> None:
    """A strip of one chunk that is not fused, a strip of many, and whole strips."""
    from numbanorm.cpu.layout import CENTER, SQUARES, WRITE
    from numbanorm.spec import plan

    ways = set()
    for shape in SHAPES:
        for threads in THREADS:
            for p in (plan.group(shape, 1 if shape[2] % 4 else 4, 2), plan.instance(shape, 2)):
                s = cut(p, 4, CENTER | SQUARES | WRITE, False, threads)
                chunks = s.sizes.chunks if s.family == "columns" else 0
                ways.add((s.family, len(s.steps) > 1, chunks > 1))
    assert {("columns", True, False), ("columns", True, True), ("columns", False, False), ("runs", True, False)} <= ways


CACHES = {"index0": ("1", "Data", "48K"), "index1": ("1", "Instruction", "64K"), "index2": ("2", "Unified", "2048K")}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, (48 << 10, 2 << 20, UNKNOWN[3])),
        ({"index3": ("3", "Unified", "266240K\n"), "index0": ("1", "Data", "32768")}, (32768, 2 << 20, 260 << 20)),
        ({"index3": ("3", "Unified", "1G"), "index2": ("2", "Unified", "512K")}, (48 << 10, 512 << 10, 1 << 30)),
        ({"index2": ("2", "Unified", "a lot"), "index0": ("one", "Data", "48K")}, (UNKNOWN[1], UNKNOWN[2], UNKNOWN[3])),
    ],
)
def test_sizes_of_caches(
    changed: dict[str, Any], found: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux tells them, level by level; what it does not tell, or not so that we understand it, is a usual size."""
    (tmp_path / "index9").mkdir()  # without files
    for name, facts in (CACHES | changed).items():
        (tmp_path / name).mkdir()
        for file, fact in zip(("level", "type", "size"), facts, strict=True):
            (tmp_path / name / file).write_text(fact)
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    assert tuple(machine.cache_bytes.__wrapped__(level) for level in (1, 2, 3)) == found


@pytest.mark.parametrize(("size", "most"), [(8 << 20, 8 << 20), (260 << 20, 32 << 20)])
def test_a_call_keeps_what_it_may_expect_of_the_last_cache(size: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cache_bytes", lambda level: size)
    assert (machine.kept(most), machine.kept(most + 1)) == (True, False)
