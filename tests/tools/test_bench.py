"""`python -m numbanorm bench`: truth, arithmetic of the report, processes, and a whole run on small arrays without any peer."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest

from numbanorm import cli
from numbanorm.bench import cases, command, measure, plot, report, truth
from numbanorm.bench.cases import EPS, GROUPS, NORMS, Case, Data, chosen, data, picked
from numbanorm.bench.contenders import contenders
from numbanorm.bench.jobs import APART, COPY, EXACT, FRESH, OURS, STREAMED, Contender, Job, UnsupportedError
from numbanorm.bench.measure import Figure, Result
from numbanorm.bench.workers import FailedError, Prepared, Worker

SMALL = chosen(NORMS, (1000,), ("forward", "backward"), ("first", "last"), ("float32",))
FUSED = chosen(cases.FUSED, (1000,), ("forward", "backward"), ("first", "last"), ("float32",))
LONG = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant
EVERY = {c.name: c for c in contenders()}

# ---------------------------------------------------------------------------------------------------------- the truth


def from_oracle(case: Case, a: Data) -> list[Any]:
    """What the tests of the package itself compare with."""
    if case.around and not case.backward:
        summed = a._replace(x=a.x + a.other) if case.around == "residual" else a
        (y,) = from_oracle(replace(case, around=""), summed)
        return [y if case.around == "residual" else oracle.activated(y + a.other, "relu", a.x.dtype)]
    if case.around:
        dy = oracle.passed(a.dy, a.other, "relu") if case.around == "relu" else a.dy
        dx, *sums = from_oracle(replace(case, around=""), a._replace(dy=dy))
        return [dx + a.other if case.around == "residual" else dx, *sums]
    axis = -1 if case.last else 1
    own = {"channel_axis": axis} if case.norm not in ("layer", "rms") else {}
    if case.norm == "eval":
        own["given"] = (a.mean, a.var)
    first: dict[str, tuple[Any, ...]] = {"layer": (1,), "rms": (1,), "group": (GROUPS,)}
    if not case.backward:
        norm = {"eval": "batch"}.get(case.norm, case.norm)
        parameters = (a.weight,) if case.norm == "rms" else (a.weight, a.bias)
        return [getattr(oracle, f"{norm}_norm")(a.x, *first.get(norm, ()), *parameters, eps=EPS, **own).y]
    if case.norm in ("layer", "rms"):
        found = oracle.layer_norm_backward(a.dy, a.x, 1, a.weight, EPS, center=case.norm == "layer")
    elif case.norm == "group":
        found = oracle.group_norm_backward(a.dy, a.x, GROUPS, a.weight, EPS, axis)
    else:
        found = oracle.channels_backward(a.dy, a.x, int(case.norm == "instance"), a.weight, EPS, **own)
    return [g.value for g in found[: 2 if case.norm == "rms" else 3]]


@pytest.mark.parametrize("case", SMALL + FUSED, ids=lambda c: c.name)
@pytest.mark.parametrize("limit", [cases.CHECKED, 300], ids=["all", "some"])
def test_truth_is_the_oracle(case: Case, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all groups, and of some: then the gradients of parameters are left out where they want every sample."""
    monkeypatch.setattr(cases, "CHECKED", limit)
    numbers = data(case)
    expected = picked(case, tuple(from_oracle(case, numbers)))
    found = truth.truth(case, numbers)[: len(expected)]
    assert len(expected) == (1 if limit == 300 and case.view[2] == 1 else len(from_oracle(case, numbers)))
    assert expected[0].size < numbers.x.size or limit > 300
    for one, other in zip(found, expected, strict=True):
        assert one.value.shape == other.shape
        np.testing.assert_allclose(one.value.astype(np.float64), other, rtol=1e-12, atol=1e-14)


def test_plain_is_without_weight_bias_and_eps() -> None:
    case = Case("layer", (3, 50))
    numbers = data(case)
    (found,) = truth.truth(case, numbers, plain=True)
    x = numbers.x.astype(np.longdouble)
    expected = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(
        found.value.astype(np.float64).reshape(3, 50), expected.astype(np.float64), rtol=1e-12, atol=1e-14
    )


def test_gradients_are_measured_at_the_scale_that_is_promised() -> None:
    """Of dx its group's largest term, beside which an element's own may be hundreds of times less; of dbias all terms."""
    case = Case("layer", (1000, 8), backward=True)
    numbers = data(case)
    dx, _, dbias = truth.truth(case, numbers)
    assert np.array_equal(dx.floor.min(axis=(2, 3)), dx.floor.max(axis=(2, 3)))
    assert np.array_equal(dbias.floor.ravel(), np.abs(numbers.dy.astype(np.longdouble)).reshape(1000, 8).sum(axis=0))
    assert (np.abs(dx.value) <= 3 * dx.floor).all()


def test_ulp() -> None:
    """At the scale of the result, or of the floor where that is larger; what is no number is no result."""
    true = [truth.Truth(np.array([8.0, 0.0]), np.array([0.5, 1.0]))]
    assert truth.ulp([np.array([8.0, 0.0])], true, "float32") == 0
    assert truth.ulp([np.array([8.0 + 2.0**-20, 0.0])], true, "float32") == 1
    assert truth.ulp([np.array([8.0, 2.0**-23])], true, "float32") == 1
    assert truth.ulp([np.array([8.0, 2.0**-7])], true, "bfloat16") == 1
    assert truth.ulp([np.array([8.0, np.nan])], true, "float32") == math.inf
    assert truth.ulp([np.array([8.0])], true, "float32") == math.inf


# --------------------------------------------------------------------------------------------------------- who computes


# in float32, by direction, as README promises: 3 ulp of y; 4 of dx, dweight and dbias, each at its own scale
MOST = {False: 3, True: 4}


@pytest.mark.parametrize("name", [OURS, FRESH, EXACT, "numpy"])
@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_contenders_that_are_always_there(case: Case, name: str) -> None:
    job = EVERY[name].make(case, data(case), 1)
    error = truth.ulp(picked(case, job.fetch(job.run())), truth.truth(case, data(case)), "float32")
    assert error <= {"numpy": 50, EXACT: 0.51}.get(name, MOST[case.backward])


def check_error(name: str, case: Case) -> None:
    job = EVERY[name].make(case, data(case), 1)
    error = truth.ulp(picked(case, job.fetch(job.run())), truth.truth(case, data(case)), "float32")
    # what is added rounds once more
    assert error <= {"numpy": 50, EXACT: 0.51 + 0.5}.get(name, MOST[case.backward] + 0.5)


@pytest.mark.parametrize("name", ["numpy", APART])
@pytest.mark.parametrize("case", FUSED, ids=lambda c: c.name)
def test_calls_apart(case: Case, name: str) -> None:
    check_error(name, case)


@pytest.mark.long
@pytest.mark.parametrize("name", [OURS, FRESH, EXACT])
@pytest.mark.parametrize("case", FUSED, ids=lambda c: c.name)
def test_fused_calls(case: Case, name: str) -> None:
    """A kernel is compiled for each norm, layout and arithmetic."""
    check_error(name, case)


@pytest.mark.parametrize("name", [n for n, c in EVERY.items() if c.modules])
def test_peers(name: str) -> None:
    """Each gives the norm it is asked for: one that is wrong by a definition is off by millions of ulp."""
    if line := EVERY[name].missing():
        pytest.skip(line)
    worker, figures, reasons = Worker(EVERY[name], 1), 0, []
    try:
        for case in SMALL + FUSED:
            try:
                found = worker.prepare(case).results
            except FailedError as error:
                reasons.append(str(error))
                continue
            assert truth.ulp(found, truth.truth(case, data(case), EVERY[name].plain), "float32") < 100, case.name
            figures += 1
    finally:
        worker.close()
    assert figures >= 3
    assert not [reason for reason in reasons if "Error" in reason], "what it cannot do is known beforehand"


def test_copies_copy() -> None:
    from numbanorm.bench import copies

    for size in (16, 16 * 67):
        x, y, z = (copies.aligned(size) for _ in range(3))
        x[:] = np.arange(size)
        copies.copy(x, y)
        copies.streamed(x, z, 2)
        assert y.tobytes() == z.tobytes() == x.tobytes()
        assert z.ctypes.data % 128 == 0


def test_missing_peer_says_how_to_get_it() -> None:
    line = Contender("lib", raises, ("numbanorm_no_such_module",)).missing()
    assert "lib is left out: numbanorm_no_such_module is not installed" in line
    assert "pip install 'numbanorm[bench]'" in line
    assert Contender("lib", raises, ("json",)).missing() == ""


# ------------------------------------------------------------------------------------------------------------ processes


def raises(case: Case, numbers: Data, threads: int) -> Job:
    raise ArithmeticError("this one cannot\nand says so at length")


def refuses(case: Case, numbers: Data, threads: int) -> Job:
    raise UnsupportedError("no such norm")


def dies(case: Case, numbers: Data, threads: int) -> Job:
    os._exit(7)


def says_threads(case: Case, numbers: Data, threads: int) -> Job:
    value = np.full(case.stored, float(os.environ["NUMBA_NUM_THREADS"]) + threads, np.float32)
    return Job(lambda: value, lambda y: (y,))


@pytest.mark.parametrize(
    ("make", "words"), [(raises, "ArithmeticError: this one cannot"), (refuses, "no such norm"), (dies, "status 7")]
)
def test_who_fails_has_a_reason_and_goes_on(make: Any, words: str) -> None:
    worker = Worker(Contender("broken", make), 1)
    try:
        for _ in range(2):
            with pytest.raises(FailedError) as caught:
                worker.prepare(Case("layer", (2, 8)))
            assert str(caught.value).endswith(words)
        worker.release()
    finally:
        worker.close()
    assert not worker.process.is_alive()


def test_threads_are_set_before_anything_is_imported() -> None:
    before = dict(os.environ)
    worker = Worker(Contender("one", says_threads), 3)
    try:
        done = worker.prepare(Case("layer", (2, 8)))
        assert done.results[0].ravel().tolist() == [6.0] * 16
        assert worker.time(2) >= 0
    finally:
        worker.close()
    assert dict(os.environ) == before


# --------------------------------------------------------------------------------------------------- arithmetic, on fakes


@dataclass
class Fake:
    """A worker that takes what it is told to take."""

    contender: Contender
    seconds: float = math.nan
    results: tuple[Any, ...] = ()
    digest: str = ""
    closed: bool = False
    calls: int = 0
    halted: bool = False

    def prepare(self, case: Case) -> Prepared:
        if math.isnan(self.seconds):
            raise FailedError("ArithmeticError: cannot")
        return Prepared(self.seconds, self.digest, list(self.results))

    def time(self, calls: int) -> float:
        assert not self.halted, "the one that is timed runs"
        self.calls += 1
        return self.seconds * (1 + 0.1 * (self.calls % 3 - 1))  # 1.0, 1.1, 0.9: the median is the first

    def stop(self) -> None:
        self.halted = True

    def resume(self) -> None:
        self.halted = False

    def release(self) -> None:
        assert not self.halted

    def close(self) -> None:
        self.closed = True


SECONDS = {
    COPY: 1e-3,
    STREAMED: 5e-4,
    OURS: 2e-3,
    FRESH: 3e-3,
    EXACT: 5e-3,
    "torch": 6e-3,
    "jax": 4e-3,
    "onnxruntime": 2.5e-3,
    "numpy": math.nan,
    "scipy": 1e-6,
}
DIGESTS = {OURS: ("a", "a"), "torch": ("b", "c")}


@pytest.fixture
def fakes() -> dict[str, Any]:
    return {n: Fake(EVERY[n], s, digest=DIGESTS.get(n, ("", ""))[0]) for n, s in SECONDS.items()}


@pytest.fixture
def result(fakes: dict[str, Any]) -> Result:
    single = {name: Fake(EVERY[name], 1.0, digest=digest) for name, (_, digest) in DIGESTS.items()}
    return measure.measure(Case("layer", (16, 64)), fakes, single, rounds=3)


def test_ratios_of_fake_times(result: Result) -> None:
    best = result.best_peer()
    assert best is not None
    assert best.contender.name == "onnxruntime", "2 of 2.5 ms, out= both; jax: 3 of 4 ms, new arrays; scipy does less work"
    assert [result.of_peer(name) for name in ("jax", "torch", "onnxruntime")] == pytest.approx([0.75, 0.5, 0.8])
    row = dict(zip(report.SUMMARY, report.summary_row(result), strict=True))
    assert row == {
        "case": "layer (16, 64)",
        "MB": "0.0",
        "copy": "1,000.0",
        "nt copy": "500.0",
        OURS: "2,000.0",
        "of copy": "2.00",
        "of nt copy": "4.00",
        "new array": "3,000.0",
        "best peer": "onnxruntime",
        "its time": "2,500.0",
        "of best peer": "0.80",
        "ulp": "-",
        "peer's ulp": "-",
        "same bits": "yes",
    }
    assert result.figures["torch"].same_bits is False
    assert result.figures["jax"].same_bits is None
    assert result.figures["torch"].quartiles == pytest.approx((5.7e-3, 6.3e-3))


def test_a_contender_that_raises_is_a_dash_with_a_note(result: Result) -> None:
    text = report.closing([result], {}, [EVERY[n] for n in SECONDS])
    assert "- numpy has no figure (ArithmeticError: cannot): layer (16, 64)" in text
    assert "| layer (16, 64) | torch | 6,000.0 | 5,700.0 to 6,300.0 | 6.00 | 12.00 | 2.40 | - | no |" in text
    assert report.as_json(result.figures["numpy"])["median"] is None


def test_geometric_means(result: Result) -> None:
    other = Result(Case("rms", (16, 64)), {n: Figure(EVERY[n], [s]) for n, s in SECONDS.items() if n != "torch"})
    other.figures[OURS].times = [8e-3]
    averages = report.means([result, other])
    assert list(averages) == ["layer, forward", "rms, forward", "all"]
    assert averages["all"]["of copy"] == pytest.approx(4.0)
    assert averages["all"]["of torch"] == pytest.approx(0.5), "of the cases that torch has"
    assert math.isnan(averages["all"]["of numpy"])
    assert averages["all"]["of best peer"] == pytest.approx(math.sqrt(0.8 * 3.2))
    assert "| all | 4.00 | 8.00 | 1.60 | 0.75 | - | 1.60 | 0.50 |" in report.means_table([result, other])


def test_without_any_peer(fakes: dict[str, Any]) -> None:
    some = measure.measure(Case("layer", (16, 64)), {n: fakes[n] for n in command.ALWAYS if n in fakes}, {}, 1)
    assert some.best_peer() is None
    assert report.summary_row(some)[8:11] == ["-", "-", "-"]
    assert math.isnan(some.of_peer("torch"))


def test_the_slow_are_asked_less_often(fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PATIENCE", -1.0)
    some = measure.measure(Case("layer", (16, 64)), {COPY: fakes[COPY]}, {}, 10)
    assert len(some.figures[COPY].times) == measure.LEAST


def test_picture(tmp_path: Path, result: Result) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    plot.draw(tmp_path / "bench.png", [result], {1.0: {OURS: 0.5, "torch": None}, 10.0: {OURS: 0.5, "torch": 3.0}})
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    plot.draw(tmp_path / "empty.png", [], {})
    assert (tmp_path / "empty.png").exists()


# ------------------------------------------------------------------------------------------------------------ the command


def refused(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    assert cli.main(["bench", *typed]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("numbanorm: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--sizes", "12"], ["--sizes", "1e3", "1e8", "12"]),
        (["--norms", "layer,spectral"], ["--norms", "spectral", "instance"]),
        (["--dtype", "int8"], ["--dtype", "int8", "bfloat16"]),
        (["--peers", "tensorflow"], ["--peers", "tensorflow", "torch"]),
        (["--rounds", "-1"], ["--rounds", "-1"]),
        (["--threads", "-2"], ["--threads", "-2"]),
        (["--threads", "two"], ["two"]),
        (["--direction", "sideways"], ["sideways"]),
        (["--out", "/nowhere/at/all"], ["--out", "/nowhere/at/all"]),
    ],
)
def test_bad_options(capsys: pytest.CaptureFixture[str], typed: list[str], words: list[str]) -> None:
    message = refused(capsys, *typed)
    for word in words:
        assert word in message


def test_defaults() -> None:
    everything, rounds, threads, who = command.resolved(command.Options())
    assert len(everything) == 5 * 2 * (2 + 4 * 2)
    assert (rounds, threads) == (15, command.cores())
    assert [c.name for c in who] == [name for name in EVERY if name != APART]
    fused, *_, who = command.resolved(command.Options(norms=("batch+relu", "rms"), sizes=("1e4",)))
    assert [c.kind for c in fused] == ["batch+relu"] * 2 + ["rms"] + ["batch+relu"] * 2 + ["rms"]
    assert [c.name for c in who] == list(EVERY)
    quick, rounds, *_ = command.resolved(command.Options(quick=True))
    assert (len(quick), rounds) == (8, 5)
    assert {math.prod(c.shape) for c in command.resolved(command.Options(scaling=True, norms=("rms",)))[0]} == {8192 * 1280}
    for size in (10**k for k in range(3, 9)):
        for case in chosen(NORMS, (size,), ("forward",), ("first", "last"), ("float32",)):
            assert 0.9 * size < math.prod(case.shape) < 1.2 * size
            assert math.prod(case.view) == math.prod(case.stored) == math.prod(case.shape)


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "memory_free", lambda: 10e9)
    said: list[str] = []
    small, large = Case("layer", (16, 64)), Case("layer", (24576, 4096))
    assert list(command.within_memory([small, large], 11, said.append)) == [small]
    assert len(said) == 1
    assert "layer (24576, 4096) is left out: 11 contenders need about" in said[0]
    assert cases.memory_free() > 0


COLUMNS = "| " + " | ".join(report.SUMMARY) + " |"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run of two norms, small, with NumPy as the only peer: its folder and what it printed."""
    folder, out = tmp_path_factory.mktemp("bench") / "new", io.StringIO()
    options = command.Options(
        ("1e3",), ("layer", "batch"), layouts=("last",), peers=("numpy",), rounds=2, threads=2, out=folder
    )
    command.run(options, out)
    return folder, out.getvalue()


@pytest.mark.usefixtures("ran")
def test_a_run_in_markdown(ran: tuple[Path, str]) -> None:
    folder, text = ran
    assert (folder / "bench.md").read_text().strip().startswith(text.strip()[:2000])
    lines = text.splitlines()
    start = lines.index(COLUMNS)
    rows = [line.split(" | ") for line in lines[start + 2 : start + 6]]
    names = ["layer (16, 64)", "batch (2, 64, 3, 3) last"]
    assert [row[0].removeprefix("| ") for row in rows] == [*names, *(f"{name} backward" for name in names)]
    assert all(len(row) == len(report.SUMMARY) and row[8] == "numpy" for row in rows)
    assert "| " + " | ".join(report.EACH) + " |" in lines
    assert "| geometric means | of copy | of nt copy | of best peer | of numpy |" in lines
    assert "| mean / std | numbanorm | numbanorm, new array | numbanorm, exact | numpy |" in lines


def test_a_quick_run_is_short(tmp_path: Path) -> None:
    """Two heads and a line for each case; the rest is in the report."""
    out = io.StringIO()
    options = command.Options(("1e3",), ("layer", "batch"), peers=("numpy",), rounds=2, quick=True, out=tmp_path / "new")
    command.run(options, out)
    lines = out.getvalue().splitlines()
    assert len(lines) <= 15 - (8 - 4)  # there are 8 cases by default
    head = next(n for n, line in enumerate(lines) if line.startswith("case "))
    assert [line.split("  ")[0] for line in lines[head + 1 : head + 5]] == [
        "layer (16, 64)", "batch (2, 64, 3, 3)", "layer (16, 64) backward", "batch (2, 64, 3, 3) backward"
    ]  # fmt: skip
    assert lines[head + 5].startswith(("On the average numbanorm takes ", "No case has figures"))
    assert COLUMNS in (tmp_path / "new" / "bench.md").read_text()


@dataclass
class SlowPipe:
    """The far end of a worker on a busy machine: each answer takes so long, by a clock of its own."""

    clock: list[float]
    takes: float
    asked: str = ""

    def send(self, message: tuple[Any, ...]) -> None:
        self.asked = message[0]

    def poll(self, timeout: float) -> bool:
        self.clock[0] += min(self.takes, timeout)
        return self.takes <= timeout

    def recv(self) -> tuple[str, Any]:
        return "done", {"prepare": (1e-3, "", []), "time": 1e-3}.get(self.asked)

    def close(self) -> None:
        pass


class NoProcess:
    pid = None

    def terminate(self) -> None:
        pass

    join = terminate


@pytest.mark.parametrize(("takes", "measured"), [(0.0, 8), (0.3, range(1, 8)), (20.0, 0), (math.inf, 0)])
def test_a_quick_run_has_a_minute_however_long_answers_take(
    takes: float, measured: int | range, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, out = [100.0], io.StringIO()

    def start(worker: Worker) -> None:
        worker.pipe, worker.process = SlowPipe(clock, takes), NoProcess()

    monkeypatch.setattr(Worker, "_start", start)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    command.run(command.Options(quick=True), out)
    lines = out.getvalue().splitlines()
    assert clock[0] - 100 <= command.BOX <= 50, "ten seconds are left for imports and processes that end"
    assert len(lines) <= 15
    rows = [line for line in lines if line.startswith(command.QUICK)]
    assert len(rows) == measured if isinstance(measured, int) else len(rows) in measured
    assert [line for line in lines if "seconds of a quick run are over" in line] == (
        [] if len(rows) == 8 else [report.over(len(rows), 8, command.BOX)]
    )


def one(times: dict[str, list[float]]) -> Result:
    return Result(Case("layer", (16, 64)), {name: Figure(EVERY[name], some) for name, some in times.items()})


def test_what_is_not_steady_is_measured_again() -> None:
    good, bad = one({COPY: [1, 1, 1], OURS: [2, 2, 2.1]}), one({COPY: [1, 1, 1], OURS: [2, 9, 9]})
    assert (good.unsteady(), bad.unsteady()) == ([], [OURS])
    assert one({COPY: [9, 9, 9], OURS: [2, 2, 2]}).unsteady() == [COPY], "nothing takes a quarter of a copy's time"
    for first, second, taken, calls in ((good, bad, good, 1), (bad, good, good, 2), (bad, bad, bad, 2)):
        given = iter((first, second))
        asked = []
        assert measure.steady(lambda given=given, asked=asked: asked.append(1) or next(given)) is taken
        assert len(asked) == calls
    assert report.doubtful([good]) == []
    assert "layer (16, 64) (numbanorm)" in report.doubtful([good, bad])[0]


def test_the_quick_table_has_no_figures_that_cannot_be_true() -> None:
    good, bad = one({COPY: [1, 1, 1], OURS: [2, 2, 2.1]}), one({COPY: [7, 7, 7], OURS: [2, 2, 2]})
    assert "2,000,000.0" in report.brief_row(good)
    assert report.brief_row(bad) == "layer (16, 64)                   no figures: measured twice, and not steady (copy)"
    assert report.brief_closing([good, bad]).startswith("On the average numbanorm takes 2.00 of a copy's time")
    assert report.brief_closing([bad]) == "No case has figures to believe: run again when the machine is idle."
    assert report.brief_closing([]) == ""


def test_a_run_in_json(ran: tuple[Path, str]) -> None:
    found = json.loads((ran[0] / "bench.json").read_text())
    assert set(found) == {"machine", "options", "cases", "geometric_means", "accuracy", "scaling"}
    assert {"processor", "cores", "caches", "numba", "numpy", "date", "threads"} <= set(found["machine"])
    assert found["options"]["rounds"] == 2
    assert len(found["cases"]) == 4
    for case in found["cases"]:
        assert {"norm", "shape", "layout", "direction", "dtype", "bytes", "contenders"} <= set(case)
        assert set(case["contenders"]) == {COPY, STREAMED, OURS, FRESH, EXACT, "numpy"}
        for name, figure in case["contenders"].items():
            assert figure["median"] > 0
            assert len(figure["times"]) == 2
            assert figure["note"] == ""
            if name in (OURS, FRESH, EXACT):
                assert figure["same_bits"] is True
                assert figure["ulp"] <= (0.51 if name == EXACT else MOST[case["direction"] == "backward"])
    assert list(found["accuracy"]) == [f"1e+0{k}" for k in range(9)]
    for row in found["accuracy"].values():
        assert row[OURS] <= MOST[False]
        assert row[EXACT] <= 0.51
    if LONG:  # else the truth itself is no better than a float64
        assert found["accuracy"]["1e+06"]["numpy"] > 1000


def test_a_run_draws_or_says_why_not(ran: tuple[Path, str]) -> None:
    folder, text = ran
    assert (folder / "bench.png").exists() != ("matplotlib is not installed" in text)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """The command with workers that do not compute."""
    made: list[Fake] = []

    def worker(contender: Contender, threads: int, until: float | None = None) -> Fake:
        made.append(Fake(contender, SECONDS.get(contender.name, 1.0) / threads))
        return made[-1]

    monkeypatch.setattr(command, "Worker", worker)
    monkeypatch.setattr(command, "MEANS", ())
    monkeypatch.setattr(command, "contenders", lambda: tuple(EVERY[n] for n in (*command.ALWAYS, "numpy", "scipy")))
    return made


@pytest.mark.usefixtures("faked")
def test_missing_peer_and_missing_matplotlib_are_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("matplotlib", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)
    typed = ["--sizes", "1e3", "--norms", "layer", "--rounds", "1", "--out", str(tmp_path)]
    assert cli.main(["bench", *typed]) == 0
    text = capsys.readouterr().out
    assert text.count("scipy is left out: scipy is not installed; pip install 'numbanorm[bench]' brings it") == 1
    assert text.count("the picture is left out: matplotlib is not installed") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]
    assert "scipy" not in json.loads((tmp_path / "bench.json").read_text())["cases"][0]["contenders"]


@pytest.mark.usefixtures("faked")
@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="this system does not say how busy it is")
@pytest.mark.parametrize("load", [0.0, 99.0])
def test_a_busy_machine_is_told(load: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert cli.main(["bench", "--sizes", "1e3", "--norms", "layer", "--rounds", "1", "--peers", "none"]) == 0
    assert ("the machine is busy (load 99.0)" in capsys.readouterr().out) == (load > 1)


@pytest.mark.parametrize(("dtype", "largest"), [("float16", "1e+04"), ("bfloat16", "1e+08"), ("float64", "1e+08")])
def test_errors_of_other_types(
    faked: list[Fake], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dtype: str, largest: str
) -> None:
    """Numbers beyond the range of the type are not asked for."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    monkeypatch.setattr(command, "MEANS", (1.0, 1e4, 1e8))
    assert cli.main(["bench", "--sizes", "1e3", "--norms", "layer", "--rounds", "1", "--peers", "none", "--dtype", dtype]) == 0
    errors = capsys.readouterr().out.partition("| mean / std |")[2]
    assert f"| {largest} |" in errors
    assert ("| 1e+08 |" in errors) == (largest == "1e+08")
    assert faked


def test_interrupt_prints_what_there_is(
    faked: list[Fake], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    direct, calls = measure.measure, []

    def second_is_interrupted(*arguments: Any) -> Result:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return direct(*arguments)

    monkeypatch.setattr(command, "measure", second_is_interrupted)
    assert cli.main(["bench", "--sizes", "1e3", "--norms", "layer,rms", "--rounds", "1", "--peers", "none"]) == 130
    out, err = capsys.readouterr()
    assert err == "numbanorm: interrupted\n"
    assert "Interrupted" in out
    assert out.count("| layer (16, 64) | 0.0 |") == 1
    assert "geometric means" in out
    assert faked
    assert all(worker.closed for worker in faked)


@pytest.mark.usefixtures("faked")
def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--scaling", "--sizes", "1e3", "--norms", "rms", "--threads", "2", "--peers", "none"]) == 0
    out = capsys.readouterr().out
    assert "| case | contender | 1 thread, us | 2 threads, us | speed-up |" in out
    assert "| rms (16, 64) | numbanorm | 2,000.0 | 1,000.0 | 2.00 |" in out


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Ctrl-C reaches a group of processes as here on POSIX only")
def test_ctrl_c_leaves_no_process() -> None:
    typed = ["bench", "--sizes", "1e3", "--norms", "layer", "--rounds", "100000", "--peers", "none"]
    with subprocess.Popen(
        [sys.executable, "-m", "numbanorm", *typed],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(COLUMNS):  # the processes have been started
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
    assert "Interrupted" in out
    assert err.endswith("numbanorm: interrupted\n")
    assert "Traceback" not in err
    for _ in range(50):  # the last to go is multiprocessing's own helper
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a process of the group is still there")


def test_progress_is_for_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = {}
    for kind in (io.StringIO, Terminal):
        stream = kind()
        progress = command.Progress(2, stream)
        progress.show("first")
        progress.show("second")
        progress.clear()
        shown[kind] = stream.getvalue()
    assert shown[io.StringIO] == ""
    assert "0/2, starting: first" in shown[Terminal]
    assert "[############            ] 1/2, about 0 min left: second" in shown[Terminal]
