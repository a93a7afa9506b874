"""However the backward pass is cut, the bits are the same: schedules for machines that this one is not."""

from __future__ import annotations

from itertools import product
from typing import Any

import cases
import numpy as np
import pytest
from cases import FLOAT32, MODES, Case, call_backward, gradients

from numbanorm.cpu.launch import GUARD

THREADS = (2, 3, 7, 16, 64)

# rows: few and long, many and short, wider than a thread's column sums, with runs of one weight; columns: strips that fit
# a cache and strips that do not, more and fewer of them than threads, many samples; runs: few and many, short and long
CASES = [
    Case("layer", (3, 70001)),
    Case("layer", (2, 140000)),
    Case("layer", (50, 5000)),
    Case("layer", (5000, 48)),
    Case("rms", (700, 300)),
    Case("group", (300, 64, 7), groups=4),
    Case("group", (2, 40000, 3), groups=8),
    Case("batch", (9000, 64)),
    Case("batch", (33000, 3)),
    Case("batch", (70, 300, 7, 7)),
    Case("batch", (40, 3000)),
    Case("instance", (29, 300, 40), channel_axis=-1),
    Case("group", (1, 9000, 64), groups=4, channel_axis=-1),
    Case("group", (65, 160, 32), groups=1, channel_axis=-1),
    Case("batch", (5, 3, 130, 131)),
    Case("batch", (2100, 2, 70)),
    Case("instance", (1, 3, 200, 201)),
    Case("instance", (40, 64, 7, 7)),
    Case("group", (3, 6, 90, 91), groups=2),
]


@pytest.mark.parametrize("exact", MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_any_number_of_threads_gives_the_same_bits(case: Case, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
    _, stats = cases.call(case, a, return_stats=True)
    monkeypatch.setattr(GUARD, "threads", lambda: 1)
    alone = [g.tobytes() for g in call_backward(case, a, dy, stats, exact=exact)]
    for threads in THREADS:
        monkeypatch.setattr(GUARD, "threads", lambda n=threads: n)
        for needs in ((True, True, True), (False, True, True), (True, False, False)):
            found = call_backward(case, a, dy, stats, needs=needs, exact=exact)
            for got, expected in zip(found, alone, strict=True):
                assert got is None or got.tobytes() == expected, (threads, needs)


def test_the_cases_above_are_cut_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each family in one step and in several, and for sums alone."""
    from numbanorm.cpu import backend as cpu
    from numbanorm.cpu.layout import FUSED, WRITE

    ways = set()
    cut = cpu.cut_backward

    def watched(plan: Any, itemsize: int, flags: int, threads: int) -> Any:
        s = cut(plan, itemsize, flags, threads)
        ways.add((s.family, s.steps[0][0] == FUSED, bool(flags & WRITE)))
        return s

    monkeypatch.setattr(cpu, "cut_backward", watched)
    cpu.prepared.cache_clear()
    for case in CASES:
        a, dy = cases.arguments(case, FLOAT32), cases.upstream(case, FLOAT32)
        _, stats = cases.call(case, a, return_stats=True)
        for threads in (1, *THREADS):
            monkeypatch.setattr(GUARD, "threads", lambda n=threads: n)
            for needs in ((True, True, True), (False, True, True)):
                call_backward(case, a, dy, stats, needs=needs)
    families = ("rows_backward", "columns_backward", "runs_backward")
    assert ways == set(product(families, (True, False), (True, False)))


def test_sums_are_those_of_numpy(rng: np.random.Generator) -> None:
    """Of numbers whose sums are exact in any order: nothing is left out or taken twice, whatever the cut."""
    for case in CASES:
        if case.norm == "rms":
            continue
        x, dy = (rng.integers(-4, 5, case.shape).astype(np.float32) for _ in range(2))
        kept = 1 if case.norm == "layer" else case.channel_axis
        _, _, dbias = gradients(case, cases.Arguments(x), dy)
        assert np.array_equal(dbias, np.moveaxis(dy, kept, 0).reshape(case.shape[kept], -1).sum(axis=1))


@pytest.mark.parametrize("family", ["rows_backward", "columns_backward", "runs_backward"])
def test_a_small_call_is_one_step(family: str) -> None:
    """All that one thread does, gradients of parameters too, is done in one call of the kernel."""
    from numbanorm.cpu.layout import CENTER, PARAMETERS, WRITE
    from numbanorm.cpu.schedule.backward import cut_backward
    from numbanorm.spec import plan

    p = {
        "rows_backward": plan.trailing((8, 16), (16,)),
        "columns_backward": plan.batch((8, 16), 1),
        "runs_backward": plan.instance((2, 3, 200), 1),
    }[family]
    s = cut_backward(p, 4, CENTER | WRITE | PARAMETERS, 1)
    assert (s.family, len(s.steps)) == (family, 1)
