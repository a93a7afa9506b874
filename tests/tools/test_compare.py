"""`python -m numbanorm compare`: a tiny repository measured by asv, the rule for what differs, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from repositories import git

from numbanorm import cli
from tools.asv import compare, trees
from tools.asv.compare import Case, Pair

if importlib.util.find_spec("asv") is None or shutil.which("git") is None:
    pytest.skip("asv, of the [dashboard] extra, or git is not installed, and asv measures", allow_module_level=True)

SOURCE = """
def work(n):
    return sum(range({times} * n))
"""
SUITE = """
import tiny

class Work:
    params = (["first", "second"],)
    def setup(self, which):
        if which == "second" and not hasattr(tiny, "more"):
            raise NotImplementedError("this version has no more")
        self.run, self.number = getattr(tiny, "work" if which == "first" else "more"), 5
    def time_work(self, which):
        self.run(2000)

class Unchosen:
    def time_fails(self):
        raise RuntimeError("is not chosen")
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For temporary files; with a short name, for asv makes a socket there."""
    with tempfile.TemporaryDirectory(prefix="nn") as folder:
        yield Path(folder)


@pytest.fixture
def repository(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit of a package with one function; the test runs there."""
    root = tmp_path / "clone"
    for name, text in {
        "tiny/__init__.py": SOURCE.format(times=1),
        "benchmarks/__init__.py": "",
        "benchmarks/bench_work.py": SUITE,
        "benchmarks/fast.txt": "^bench_work\\.Work\\.\n",
        ".gitignore": "__pycache__/\nignored.py\n",
        "asv.conf.json": json.dumps(
            {"version": 1, "project": "tiny", "repo": ".", "branches": ["main"], "benchmark_dir": "benchmarks"}
            | {"matrix": {"env_nobuild": {"NUMBA_NUM_THREADS": ["1", "2"]}}, "results_dir": "results"}
        ),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    monkeypatch.setattr(compare, "MORE", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(root)
    return root


def state(root: Path, temporary: Path) -> dict[str, str]:
    """Everything of the repository that must stay as it is, and the folder for temporary files."""
    files = [p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    left = {str(p): "left" for p in temporary.iterdir()}
    return {str(p.relative_to(root)): p.read_bytes().hex() for p in files} | left


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["compare", *arguments])
    return (status, *capsys.readouterr())


# ------------------------------------------------------------------------------------ asv measures


def test_slower_working_tree_is_found(repository: Path, temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By changes that are not committed: a file that git does not know, and one that is staged in part."""
    (repository / "tiny" / "slow.py").write_text(SOURCE.format(times=4))
    (repository / "tiny" / "__init__.py").write_text("from .slow import work\nmore = work\n")
    git(repository, "add", "tiny/__init__.py")
    (repository / "tiny" / "__init__.py").write_text("from .slow import work as more, work\n")
    before = state(repository, temporary)
    status, out, err = run(capsys, "--threads", "1", "--rounds", "2", "--factor", "2")
    assert status == 1, out + err
    first, table, summary = out.splitlines()
    assert first.endswith("(HEAD), 2 rounds, threads: 1")
    assert table.split()[0] == "slower"
    assert float(table.split()[1]) > 2
    assert table.endswith("bench_work.Work.time_work('first'), threads: 1")  # the base has no `more` to compare with
    assert summary.startswith("1 benchmarks in")
    assert "1 slower and 0 faster by 2 or more" in summary
    assert [line.partition(": ")[0] for line in err.splitlines()] == [
        *[f"round {n} of 2" for n in (1, 2)],
        *[f"round {n} of 2, a {look} look at 1" for look in ("second", "third") for n in (1, 2)],
    ]
    assert state(repository, temporary) == before


def test_clean_working_tree_is_compared_with_the_commit_before(
    repository: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "tiny" / "__init__.py").write_text(SOURCE.format(times=1) + "more = work\n")
    git(repository, "commit", "-qam", "second")
    before = state(repository, temporary)
    status, out, err = run(capsys, "--threads", "1", "--rounds", "2", "--factor", "3")
    assert status == 0, out + err
    assert out.splitlines()[0].endswith("(HEAD~1), 2 rounds, threads: 1")
    assert "0 slower and 0 faster" in out.splitlines()[-1]
    assert state(repository, temporary) == before


def test_faster_is_no_regression(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "tiny" / "__init__.py").write_text("def work(n):\n    return 0\n")
    status, out, err = run(capsys, "--threads", "1", "--rounds", "2", "--bench", "first")
    assert status == 0, out + err
    assert out.splitlines()[1].split()[0] == "faster"
    assert "0 slower and 1 faster" in out


def processes(folder: Path) -> list[str]:
    """Command lines that name `folder`."""
    found = subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(folder) in line]


@pytest.mark.skipif(shutil.which("ps") is None, reason="what is left of processes is seen with ps, which is not installed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(repository: Path, temporary: Path, number: signal.Signals) -> None:
    (repository / "tiny" / "new.py").write_text("")
    before = state(repository, temporary)
    program = "import sys; from numbanorm import cli; sys.exit(cli.main(['compare', '--threads', '1']))"
    with subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(temporary)}) as process:
        for _ in range(600):
            if any("run_server" in line for line in processes(temporary)):  # asv's own process, which measures
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == (cli.INTERRUPTED if number == signal.SIGINT else 128 + number)
    assert state(repository, temporary) == before
    assert processes(temporary) == []


# ------------------------------------------------------------------------------------ the rule


def pair(base: list[float], tree: list[float]) -> Pair:
    """Rounds with these medians, each of three samples."""
    return Pair(*([[t * 0.99, t, t * 1.5] for t in side] for side in (base, tree)))


@pytest.mark.parametrize(
    ("base", "tree", "factor", "differs"),
    [
        ([1.0, 1.0, 1.0], [1.3, 1.3, 1.3], 1.3, True),
        ([1.0, 2.0, 1.5, 1.0, 3.0], [1.3, 2.6, 1.95, 1.3, 3.9], 1.3, True),  # the machine drifts, both sides with it
        ([1.3, 1.3, 1.3], [1.0, 1.0, 1.0], 1 / 1.3, True),
        ([1.0, 1.0, 1.0], [1.1, 1.1, 1.1], 1.1, False),  # too little
        ([1.0, 1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 1.0, 2.0, 2.0], 2.0, False),  # another job: the best are equal
        ([1.0, 1.0, 2.0, 2.0, 1.0], [1.4, 1.4, 1.2, 1.2, 1.4], 1.4, False),  # not in every round but one
        ([1.0, 1.0, 1.0, 2.0, 1.0], [1.4, 1.4, 1.4, 1.4, 1.4], 1.4, True),  # all but one
        ([0.0, 0.0], [0.0, 0.0], 1.0, False),
        ([0.0, 0.0], [1.0, 1.0], float("inf"), True),
    ],
)
def test_rule(base: list[float], tree: list[float], factor: float, differs: bool) -> None:
    assert pair(base, tree).factor() == pytest.approx(factor)
    assert pair(base, tree).differs(1.15) is differs


class Machine:
    """Measures nothing: each look at a case gives the next of its factors."""

    def __init__(self, factors: dict[Case, list[float]]) -> None:
        self.factors = {case: iter(some) for case, some in factors.items()}
        self.looks: list[list[Case]] = []

    def __call__(self, _: Any, what: dict[int, list[str]], rounds: int, again: str) -> dict[Case, Pair]:
        cases = [c for c in self.factors if any(re.search(r, c[0]) for r in what.get(c[1], []))]
        self.looks.append(cases)
        return {c: pair([1.0] * rounds, [next(self.factors[c])] * rounds) for c in cases}


def confirm(factors: dict[Case, list[float]]) -> tuple[set[Case], set[Case], list[list[Case]]]:
    """Confirmed, doubtful and the looks, where the first of the factors is the first look's."""
    first = {case: pair([1.0] * 3, [some[0]] * 3) for case, some in factors.items()}
    machine = Machine({case: some[1:] for case, some in factors.items()})
    confirmed, doubtful = compare.confirm(None, first, 1.15, 3, machine)  # type: ignore[arg-type]
    return set(confirmed), doubtful, machine.looks


def test_only_what_differs_in_later_looks_the_same_way_is_confirmed() -> None:
    a, b, c, d = ("f(a)", 1), ("f(b)", 1), ("f(a)", 2), ("f(d)", 2)
    factors = {a: [1.3, 1.3, 1.3], b: [1.5, 1.0], c: [1.2, 1.4, 0.8], d: [1.0]}
    assert confirm(factors) == ({a}, set(), [[a, b, c], [a, c]])
    assert confirm({a: [1.3, 0.7], b: [0.7, 0.7, 1.4]}) == (set(), set(), [[a, b], [b]])
    assert confirm({a: [1.3, 1.4, 1.1]}) == ({a}, set(), [[a], [a]])  # of the later looks together
    assert confirm({a: [1.0], b: [0.9]}) == (set(), set(), [])


def test_the_rest_is_left_when_the_answer_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "AT_ONCE", 2)
    a, b, c, d, e = ((f"f({name})", 1) for name in "abcde")
    slower = {a: [1.2, 1.2, 1.2], b: [2.0, 1.0], c: [1.5, 1.0], d: [0.5, 0.5, 0.5]}
    assert confirm(slower) == ({a, d}, set(), [[b, c], [a, d], [a, d]])  # as nothing was confirmed of the first two
    slower[b] = [2.0, 2.0, 2.0]
    assert confirm(slower) == ({b}, {a, d}, [[b, c], [b]])
    assert confirm({d: [0.5, 0.5, 0.5], c: [0.6, 0.6, 0.6], e: [0.7]}) == ({c, d}, {e}, [[d, c], [d, c]])


def test_noise_is_told_from_what_is_slower() -> None:
    """Forty cases in twenty comparisons, and three of them 1.3 times slower in twenty more.

    Every process is slowed by up to 2 times, most of them by little.
    """
    chance = random.Random(0)

    def noisy(base: float) -> list[float]:
        slow = 1 + chance.random() ** 10
        return [base * slow * (1 + 0.2 * chance.random()) for _ in range(10)]

    def look(factor: float, rounds: int) -> Pair:
        return Pair([noisy(1.0) for _ in range(rounds)], [noisy(factor) for _ in range(rounds)])

    def rounds_of(_: Any, what: dict[int, list[str]], rounds: int, again: str) -> dict[Case, Pair]:
        return {(name[1:-1], 1): look(slowed.get(name[1:-1], 1.0), rounds) for name in what[1]}

    for slowed in ({}, {"f7": 1.3, "f8": 1.3, "f9": 1.3}):
        found = 0
        for _ in range(20):
            first = {(f"f{i}", 1): look(slowed.get(f"f{i}", 1.0), 3) for i in range(40)}
            confirmed, _ = compare.confirm(None, first, 1.15, 3, rounds_of)  # type: ignore[arg-type]
            assert {name for name, _ in confirmed} <= set(slowed)
            found += bool(confirmed)
        assert found >= 18 if slowed else found == 0


def test_results_of_asv() -> None:
    columns = ["result", "params", "version", "samples"]
    rows = {
        "time": [[1.0, float("nan"), None], [["'a'", "'b'", "'c'"]], "1", [[1.0, 1.2], None, None]],
        "track": [[3.0], [], "1"],
        "broken": [None, [], "1"],
    }
    samples, failed = trees.read({"result_columns": columns, "results": rows})
    assert samples == {"time('a')": [1.0, 1.2], "track": [3.0]}
    assert failed == ["time('c')", "broken"]


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 us"), (2e-10, "0.2 ns")])
def test_times(seconds: float, text: str) -> None:
    assert compare.scaled(seconds) == text


# ------------------------------------------------------------------------------------ what is refused


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.splitlines()[-1].startswith("numbanorm: error: ")
    assert "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "BASE must be a commit of this repository: got nowhere;"),
        ([], "BASE must be a commit of this repository: got HEAD~1;"),  # there is but one commit
        (["HEAD", "--factor", "1"], "--factor must be above 1 and --rounds 2 or more: got 1 and 3;"),
        (["HEAD", "--factor", "nan"], "--factor must be above 1"),
        (["HEAD", "--rounds", "1"], "--rounds 2 or more: got 1.15 and 1;"),
        (["HEAD", "--threads", "0"], "--threads must be of 1 to"),
        (["HEAD", "--threads", "many"], "wants integers between commas"),
        (["HEAD", "--bench", "nothing"], "asv run must succeed: got 'No benchmarks selected'"),
        (["HEAD", "--bench", "fails"], "must run in the working tree: got bench_work.Unchosen.time_fails failed"),
        (["HEAD", "HEAD"], "unrecognized arguments: HEAD"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_misuse(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in refused(capsys, *arguments)


def test_other_trees_are_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "tiny" / "__init__.py").write_text("import nothing_of_that_name\n")
    assert "the working tree must be importable: got \"ModuleNotFoundError: No module named 'nothing" in refused(capsys)
    (repository / "tiny" / "__init__.py").write_text("")
    (repository / "benchmarks" / "fast.txt").unlink()
    assert "fast.txt beside the benchmarks must choose some: got none;" in refused(capsys)
