"""`python -m numbanorm dashboard`: what the pages load, what they show in a browser, what is refused."""

from __future__ import annotations

import ast
import base64
import hashlib
import html.parser
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from repositories import git

from numbanorm import cli
from numbanorm.bench.jobs import COPY, FRESH, OURS, STREAMED
from tools.asv import dashboard, measured, summary

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, in which the pages are looked at")
if importlib.util.find_spec("asv") is None or shutil.which("git") is None:
    pytest.skip("asv, of the [dashboard] extra, or git is not installed, and the pages are asv's", allow_module_level=True)

FORWARD, BACKWARD, ERROR = (
    "bench_forward.LayerNorm.time_forward",
    "bench_backward.Backward.time_backward",
    "bench_accuracy.LayerNormError.track_largest_error",
)
COMMITS, SLOWER = 12, 7  # since that commit, FORWARD takes twice the time for one of its parameters
COLOURS = ((36, 122, 173), (226, 74, 51), (152, 142, 213), (119, 119, 119))  # of asv's lines, in their order

# ------------------------------------------------------------------------------------ a repository with results


def suite(name: str, params: dict[str, list[str]], unit: str = "seconds") -> dict[str, Any]:
    """A benchmark in benchmarks.json."""
    names, values = list(params), [[repr(v) for v in some] for some in params.values()]
    kind = "time" if unit == "seconds" else "track"
    return {"name": name, "code": "def f(): ...", "param_names": names, "params": values, "type": kind, "unit": unit} | {
        "version": "1",
        "timeout": 60,
    }


def results(commit: str, number: int, threads: str) -> dict[str, Any]:
    """What asv writes of one commit and environment."""
    drift = (1 + 0.01 * (number % 3)) / (1 if threads == "1" else 1.5)
    values = {
        FORWARD: [1e-4 * drift, 2e-4 * drift * (2 if number >= SLOWER else 1)],
        BACKWARD: [3e-4 * drift],
        ERROR: [0.5],
    }
    params = {FORWARD: [["'8x16'", "'512x768'"]], BACKWARD: [], ERROR: []}
    return {
        "commit_hash": commit,
        "date": 1_700_000_000_000 + 86_400_000 * number,
        "env_name": f"virtualenv-py3.11-NUMBA_NUM_THREADS{threads}",
        "env_vars": {"NUMBA_NUM_THREADS": threads},
        "params": {"arch": "x86_64", "cpu": "some CPU", "machine": "bench1", "num_cpu": "2", "os": "Linux", "ram": "1"}
        | {"python": "3.11"},
        "python": "3.11",
        "requirements": {},
        "result_columns": ["result", "params", "version"],
        "results": {name: [value, params[name], "1"] for name, value in values.items()},
        "durations": {},
        "version": 2,
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve commits on main, measured with one and two threads, and a comparison of two cases."""
    root = tmp_path_factory.mktemp("checkout")
    git(root, "init", "-q", "-b", "main")
    machine = root / "results" / "bench1"
    machine.mkdir(parents=True)
    facts = {"machine": "bench1", "arch": "x86_64", "cpu": "some CPU", "num_cpu": "2", "os": "Linux", "ram": "1", "version": 1}
    (machine / "machine.json").write_text(json.dumps(facts))
    suites = [suite(FORWARD, {"shape": ["8x16", "512x768"]}), suite(BACKWARD, {}), suite(ERROR, {}, "ulp")]
    (root / "results" / "benchmarks.json").write_text(json.dumps({**{s["name"]: s for s in suites}, "version": 2}))
    for number in range(COMMITS):
        when = f"{1_700_000_000 + 86_400 * number} +0000"
        git(root, "commit", "-q", "--allow-empty", "-m", str(number), GIT_AUTHOR_DATE=when, GIT_COMMITTER_DATE=when)
        commit = git(root, "rev-parse", "HEAD")
        for threads in "12":
            found = results(commit, number, threads)
            (machine / f"{commit[:8]}-{found['env_name']}.json").write_text(json.dumps(found))
    config = {"version": 1, "project": "numbanorm", "project_url": "https://example.org/", "repo": ".", "branches": ["main"]}
    config |= {"results_dir": "results", "html_dir": "made/html", "environment_type": "virtualenv", "dvcs": "git"}
    (root / "asv.conf.json").write_text(json.dumps(config))
    (root / "results" / "bench").mkdir()
    (root / "results" / "bench" / "bench.json").write_text(json.dumps(comparison("2026-11-20")))
    return root


def comparison(date: str, processor: str = "A <fast> processor") -> dict[str, Any]:
    """What `python -m numbanorm bench --out` writes of two cases."""

    def figure(seconds: float, ulp: float | str | None = 0.5) -> dict[str, Any]:
        return {
            "median": seconds,
            "quartiles": [seconds] * 2,
            "times": [seconds] * 3,
            "ulp": ulp,
            "same_bits": True,
            "note": "",
        }

    def case(norm: str, direction: str, **contenders: float) -> dict[str, Any]:
        named = {COPY: 1e-5, STREAMED: 2e-5, OURS: 3e-5, FRESH: 4e-5, **contenders}
        facts = {
            "norm": norm,
            "shape": [13, 768],
            "layout": "first",
            "dtype": "float32",
            "bytes": 39936,
            "direction": direction,
        }
        return {"name": "any", **facts, "contenders": {name: figure(seconds) for name, seconds in named.items()}}

    return {
        "machine": {"processor": processor, "cores": 2, "threads": 2, "date": date, "torch": "2.13.0", "peers": ["torch"]},
        "options": {},
        "cases": [case("layer", "forward", torch=8e-5, onnxruntime=1e-4), case("rms", "backward", torch=2e-5)],
        "geometric_means": {},
        "accuracy": {"1e+00": {OURS: 0.4999, "torch": 7.5}, "1e+08": {OURS: 0.5, "torch": "not finite"}},
        "scaling": [],
    }


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages."""
    folder = tmp_path_factory.mktemp("made") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        assert cli.main(["dashboard", "--out", str(folder), "--no-serve"]) == 0
    return folder


# ------------------------------------------------------------------------------------ what the pages load


class Loaded(html.parser.HTMLParser):
    """Addresses of what a page loads by itself, and of pages that it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value:
                (self.links if tag == "a" else self.loads).append(value)
            assert name not in ("integrity", "crossorigin", "referrerpolicy", "srcset"), self.get_starttag_text()


def pages(site: Path) -> list[Path]:
    return sorted(site.glob("*.html"))


def test_pages_load_only_what_lies_beside_them(site: Path) -> None:
    assert [p.name for p in pages(site)] == ["error.html", "index.html", "summary.html"]
    seen = set()
    for page in pages(site):
        for address in Loaded(page).loads:
            assert re.match(r"[\w./]+$", address), address  # no scheme, no host
            assert (site / address).is_file(), address
            seen.add(address)
    assert {f"vendor/{p.name}" for p in (site / "vendor").glob("*.*s")} <= seen  # nothing is brought along in vain
    assert {"asv.js", "local.js", "asv.css", "local.css"} <= seen


def test_styles_and_scripts_load_nothing_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.css"):
        text = file.read_text(encoding="utf-8")
        assert "@import" not in text
        for address in re.findall(r"url\(['\"]?([^)'\"]*)", text):
            assert (file.parent / address).is_file(), (file, address)
    for file in [p for p in site.rglob("*.js") if not p.name.endswith(".json.js")]:
        text = file.read_text(encoding="utf-8")
        assert "sourceMappingURL" not in text
        assert not re.search(r"(url|src|open)['\"]?\s*[:=(,]\s*['\"](https?:)?//", text), file


def test_links_between_pages_exist(site: Path) -> None:
    benchmarks = json.loads((site / "index.json").read_text())["benchmarks"]
    assert "summary.html" in Loaded(site / "index.html").links
    links = [link for link in Loaded(site / "summary.html").links if not link.startswith("#")]
    for page, _, place in (link.partition("#") for link in links):
        assert (site / page).is_file()
        assert place.startswith("/") or place in benchmarks or page == "summary.html"
    assert {f"index.html#{name}" for name in (FORWARD, BACKWARD, ERROR)} <= set(links)


def test_every_json_is_a_script_too(site: Path) -> None:
    files = list(site.rglob("*.json"))
    assert len(files) >= 3 + 3 + 3 * 2  # index, info, regressions; summaries; a graph for each number of threads
    for file in files:
        script = file.with_name(file.name + ".js").read_text(encoding="utf-8")
        assert script == f"dashboard_data({file.read_text(encoding='utf-8')});\n"


def test_vendored_files_are_those_that_asv_asks_for() -> None:
    """By asv's own digests, but for flot, which is not published minified, and stupidtable: see the README there."""
    asv = importlib.util.find_spec("asv")
    assert asv is not None
    assert asv.origin is not None
    page = (Path(asv.origin).parent / "www" / "index.html").read_text()
    others, wanted = [], re.findall(r'"(https:[^"]*)" integrity="(sha\d+)-([^"]*)"', page)
    assert len(wanted) == 10
    for address, kind, digest in wanted:
        name = re.search(r'"vendor/(.*)"', dashboard.local_tag(f'<script src="{address}">'))
        assert name
        content = (dashboard.WWW / "vendor" / name[1]).read_bytes()
        if base64.b64encode(hashlib.new(kind, content).digest()).decode() != digest:
            others.append(name[1])
    flot = [f"jquery.flot{part}.js" for part in ("", ".categories", ".selection", ".time")]
    assert sorted(others) == sorted([*flot, "stupidtable.min.js"])
    texts = [p.read_text(encoding="utf-8") for p in (dashboard.WWW / "vendor" / "licences").iterdir()]
    assert len(texts) == 5
    assert all("Permission is hereby granted, free of charge" in text for text in texts)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ('<script src="asv.js">', '<script src="asv.js">'),
        (
            '<link href="//cdn.org/a/bootstrap.min.css" rel="x" integrity="s" crossorigin="c">',
            '<link href="vendor/bootstrap.min.css" rel="x">',
        ),
        ('<script src="https://a.b/jquery-9.8.7.js" onerror="f()">', '<script src="vendor/jquery.min.js" onerror="f()">'),
    ],
)
def test_tags(tag: str, expected: str) -> None:
    assert dashboard.local_tag(tag) == expected


def test_unknown_script_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got https://a\.b/react\.js; install asv"):
        dashboard.rewritten('<head><script src="https://a.b/react.js"></script></head>')
    with pytest.raises(ValueError, match=r"index\.html must have one </head>: got 0; install asv"):
        dashboard.rewritten("<html></html>")


# ------------------------------------------------------------------------------------ the summary


def rows(page: str, heading: str) -> list[list[str]]:
    """Cells of the table under a heading, as they are read."""
    part = page.partition(f"<h2>{heading}</h2>")[2].partition("</table>")[0]
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", part)]
    return [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in found]


def test_summary_has_speed_accuracy_and_machine(site: Path) -> None:
    page = (site / "summary.html").read_text(encoding="utf-8")
    head, *means = rows(page, "Speed: geometric means")
    assert head == ["norm, direction", "of copy", "of nt copy", "of best peer", "of onnxruntime", "of torch"]
    assert means[0] == ["layer, forward", "3.00", "1.50", "0.50", "0.30", "0.50"]  # onnxruntime writes into out, torch does not
    assert means[1] == ["rms, backward", "3.00", "1.50", "2.00", "-", "2.00"]
    assert means[2][0] == "all"
    cases = rows(page, "Speed: every case")
    assert cases[1][:7] == ["layer (13, 768)", "0.0", "10.0", "20.0", "30.0", "3.00", "1.50"]
    assert cases[2][0] == "rms (13, 768) backward"
    assert cases[2][8:11] == ["torch", "20.0", "2.00"]
    assert 'class="number success">0.50' in page
    assert 'class="number danger">2.00' in page
    assert rows(page, "Accuracy") == [["mean / std", OURS, "torch"], ["1e+00", "0.50", "7.50"], ["1e+08", "0.50", "not finite"]]
    assert ["processor", "A &lt;fast&gt; processor"] in rows(page, "Machine of these figures")
    assert ["torch", "2.13.0"] in rows(page, "Machine of these figures")
    assert f'<a href="index.html#{FORWARD}">layer (13, 768)</a>' in page
    assert f'<a href="index.html#{BACKWARD}">rms (13, 768) backward</a>' in page


def test_summary_counts_regressions(site: Path) -> None:
    page = (site / "summary.html").read_text(encoding="utf-8")
    assert f"Graphs of {COMMITS} commits; asv finds" in page
    counts = {row[0]: row[3] for row in rows(page, "Over the commits")[1:]}
    names = [measured.NAMES[name] for name in (FORWARD, BACKWARD, ERROR)]
    assert counts == dict(zip(names, "200", strict=True))  # with one thread and with two
    assert rows(page, "Machines of the graphs")[1] == ["bench1", "some CPU", "2", "1", "Linux"]


def test_benchmarks_have_names_to_read() -> None:
    """Every one of benchmarks/, and nothing else; asv's own names are those of the committed results."""
    found = set()
    for file in Path(dashboard.__file__).parents[2].glob("benchmarks/bench_*.py"):
        for suite in [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]:
            methods = [node.name for node in suite.body if isinstance(node, ast.FunctionDef)]
            if not methods or methods == ["setup"]:
                methods = ["time_forward"]  # of the class that it is made from
            kinds = ("time_", "track_", "peakmem_")
            found |= {f"{file.stem}.{suite.name}.{m}" for m in methods if m.startswith(kinds) and suite.name[0] != "_"}
    assert found == set(measured.NAMES)
    assert {name.partition(".")[0] for name in found} == set(measured.GROUPS)


@pytest.fixture
def two_machines(repository: Path, tmp_path: Path) -> Path:
    """asv's pages of two machines, of which the second took ten times as long and has the newer half of the commits, of a
    benchmark that has no result, and of parameters that have none; untouched."""
    found = tmp_path / "results"
    shutil.copytree(repository / "results", found)
    shutil.copytree(found / "bench1", found / "a slow one")
    suites = json.loads((found / "benchmarks.json").read_text())
    copy = "bench_forward.Copy.time_copy"
    suites[FORWARD] = suite(FORWARD, {"shape": ["1x1", "8x16", "512x768"]})
    (found / "benchmarks.json").write_text(json.dumps({**suites, copy: suite(copy, {})}))
    ranks = {commit[:8]: k for k, commit in enumerate(reversed((git(repository, "rev-list", "HEAD") or "").split()))}
    for file in [path for path in found.glob("*/*.json") if path.stem not in ("bench", "machine")]:
        content = json.loads(file.read_text())
        slow, rank = file.parent.name != "bench1", ranks[file.name[:8]]
        values = [value * (10 if slow else 1) for value in content["results"][FORWARD][0]]
        if rank == 3:
            values[0] *= 2
        content["results"][FORWARD] = [[None, *values], [["'1x1'", "'8x16'", "'512x768'"]], "1"]
        content["params"]["machine"] = file.parent.name
        file.write_text(json.dumps(content))
        if rank < 6 if slow else rank == COMMITS - 1:
            file.unlink()
    facts = found / "a slow one" / "machine.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "machine": "a slow one"}))
    config = json.loads((repository / "asv.conf.json").read_text())
    site = tmp_path / "site"
    dashboard.run_asv(repository, config, found, site)
    return site


def test_only_what_was_measured_is_shown(two_machines: Path) -> None:
    site = two_machines
    before = {file.name: file.read_text() for file in site.glob("graphs/summary/*.json")}
    assert measured.tidy(site) == ["bench_forward.Copy.time_copy"]
    index = json.loads((site / "index.json").read_text())
    assert set(index["benchmarks"]) == {FORWARD, BACKWARD, ERROR}
    assert index["benchmarks"][FORWARD]["params"] == [["'8x16'", "'512x768'"]]
    assert index["params"]["machine"] == ["a slow one", "bench1"], "the one with the newest commit comes first"
    lists = [json.loads(file.read_text()) for file in site.glob("graphs/*/**/summary.json")]
    assert len(lists) == 4
    for rows_of_list in lists:
        assert [row["idx"] for row in rows_of_list if row["name"] == FORWARD] == [0, 1]
        assert all(
            row["last_value"] is not None and row["pretty_name"].startswith(measured.NAMES[row["name"]]) for row in rows_of_list
        )
    faults = json.loads((site / "regressions.json").read_text())["regressions"]
    assert {row[3] for row in faults} == {1}, "512x768 has moved up"
    line = json.loads((site / "graphs" / "summary" / f"{FORWARD}.json").read_text())
    assert len(line) == 6, "of one machine, which has the newer half"
    assert min(value for _, value in line) > 5e-4, "and takes ten times as long as the other"
    assert len(json.loads(before[f"{FORWARD}.json"])) == COMMITS, "asv itself mixes both"


def test_outliers_are_named(two_machines: Path) -> None:
    measured.tidy(two_machines)
    index = json.loads((two_machines / "index.json").read_text())
    found = measured.outliers(two_machines, index)
    assert {(o.name, o.case, o.environment) for o in found} == {
        (FORWARD, "'8x16'", f"threads: {threads}, bench1") for threads in "12"
    }
    assert all(o.value == pytest.approx(2 * o.before, rel=0.05) for o in found)
    words = html.unescape(summary.page(two_machines, None, ["bench_forward.Copy.time_copy"]))
    assert "Do not rely on these 2." in words
    assert "Not measured of these commits, so without a graph: NumPy's copy, to compare with." in words


def test_summary_without_a_comparison(site: Path) -> None:
    page = summary.page(site, None)
    assert "No comparison" in page
    assert "Over the commits" in page


def test_newest_comparison(tmp_path: Path) -> None:
    assert summary.newest(tmp_path / "nowhere") is None
    for name, content in [("a", comparison("2026-11-20", "old")), ("b", comparison("2026-11-21", "new"))]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench.json").write_text(json.dumps(content))
    (tmp_path / "scaling.json").write_text(json.dumps({**comparison("2026-12-01"), "cases": []}))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text('{"cases": [')
    found = summary.newest(tmp_path)
    assert found is not None
    assert found["machine"]["processor"] == "new"


# ------------------------------------------------------------------------------------ the command


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error."""
    capsys.readouterr()
    assert cli.main(["dashboard", "--no-serve", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("numbanorm: error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def inside(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(repository)
    return repository


def test_default_folder_from_a_subfolder(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """html_dir of the configuration; and what was there is replaced."""
    monkeypatch.chdir(repository / "results")
    made = repository / "made" / "html"
    made.mkdir(parents=True)
    for name in ("asv.js", "index.json", "stale"):
        (made / name).touch()
    assert cli.main(["dashboard", "--no-serve"]) == 0
    assert str(made / "index.html") in capsys.readouterr().out
    assert (made / "summary.html").is_file()
    assert not (made / "stale").exists()
    assert [p.name for p in made.parent.iterdir()] == ["html"]


def test_branch_that_is_not_there(inside: Path, tmp_path: Path) -> None:
    """As in a clone of another branch, or where a commit is checked out."""
    clone, site = tmp_path / "clone", tmp_path / "site"
    git(tmp_path, "clone", "-q", str(inside), "clone")
    shutil.copy(inside / "asv.conf.json", clone)
    assert dashboard.branch_of(clone, "main") == "main"
    git(clone, "checkout", "-q", "--detach")
    git(clone, "branch", "-q", "-D", "main")
    assert dashboard.branch_of(clone, "main") == "origin/main"
    git(clone, "remote", "remove", "origin")
    assert dashboard.branch_of(clone, "main") == "HEAD"
    command = [sys.executable, "-m", "numbanorm", "dashboard", "--no-serve", "--out", str(site)]
    subprocess.run([*command, "--results", str(inside / "results")], cwd=clone, check=True, capture_output=True)
    assert len(json.loads((site / "index.json").read_text())["revision_to_hash"]) == COMMITS
    assert len(list(site.rglob(f"branch-HEAD/**/{FORWARD}.json"))) == 2


def test_without_results(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asv.conf.json").write_text("{}")
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    assert "asv run" in refused(capsys)
    words = refused(capsys, "--results", str(repository / "results"))  # as in a clone without history
    assert f"got none of {2 * COMMITS}; fetch" in words


@pytest.mark.usefixtures("inside")
def test_bad_folders_and_ports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "letters"
    precious.mkdir()
    (precious / "letter").write_text("dear")
    assert "replaced" in refused(capsys, "--out", str(precious))
    assert "replaced" in refused(capsys, "--out", str(precious / "letter"))
    assert (precious / "letter").read_text() == "dear"
    assert "make the folder first" in refused(capsys, "--out", str(tmp_path / "no" / "where"))
    assert "asv run" in refused(capsys, "--results", str(tmp_path))
    assert "--port" in refused(capsys, "--port", "65536")
    assert [p.name for p in tmp_path.iterdir()] == ["letters"]


def test_failure_of_asv_is_told(inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of it, and nothing is left."""
    broken = tmp_path / "results"
    shutil.copytree(inside / "results", broken)
    (broken / "benchmarks.json").write_text('{"version": 99}')
    assert "newer than what this version of asv" in refused(capsys, "--results", str(broken), "--out", str(tmp_path / "site"))
    assert [p.name for p in tmp_path.iterdir()] == ["results"]


# ------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def address(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command serves until it is interrupted, as by Ctrl-C."""
    folder = tmp_path_factory.mktemp("served") / "site"
    command = [sys.executable, "-m", "numbanorm", "dashboard", "--out", str(folder)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "opens as it is" in server.stdout.readline()
            found = re.match(r"http://localhost:\d+/", server.stdout.readline())
            assert found
            yield found[0]
            server.send_signal(2)
            assert server.wait(10) == 0
        finally:
            server.kill()


def test_served(address: str) -> None:
    with urllib.request.urlopen(f"{address}index.json") as answer:
        assert set(json.load(answer)["benchmarks"]) == {FORWARD, BACKWARD, ERROR}
    port = address.split(":")[2].strip("/")
    with pytest.raises(ValueError, match=rf"--port must be free: got {port}"):
        dashboard.show(Path(), int(port))


class Seen(NamedTuple):
    """What came of a page."""

    page: str
    console: list[str]
    hosts: set[str]  # that were asked for something, by whatever means


def browse(folder: Path, address: str, *options: str) -> Seen:
    """The page after ten seconds of the browser's own time, with every host but this one out of reach."""
    assert CHROMIUM
    blocked = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost"
    quiet = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking")
    log = folder / "net.json"
    command = [CHROMIUM, "--headless", *quiet, blocked, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    command += [
        f"--log-net-log={log}",
        "--virtual-time-budget=10000",
        "--window-size=1200,900",
        "--dump-dom",
        *options,
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    hosts = set(re.findall(r'"url":"https?://([^/:"]*)', log.read_text()))
    own = {host for host in hosts if host.endswith((".google.com", ".googleapis.com", ".gvt1.com"))}  # of the browser itself
    return Seen(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], hosts - own)


def shown(folder: Path, address: str, *options: str) -> str:
    """A page without errors, which asked nobody but the server for anything."""
    seen = browse(folder, address, *options)
    assert seen.console == []
    assert seen.hosts == ({"localhost"} if address.startswith("http") else set())
    assert "<h1>A script of these pages is missing" not in seen.page
    assert "Error fetching content" not in seen.page
    return seen.page


def words_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<script.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL))


@pytest.fixture(params=["served", "file"])
def base(request: pytest.FixtureRequest) -> str:
    """Where the pages are: both ways show the same."""
    if request.param == "served":
        return str(request.getfixturevalue("address"))
    return request.getfixturevalue("site").as_uri() + "/"


def steps(picture: Path) -> list[float]:
    """How many pixels each of the four lines rises at the planted regression, beyond the legend."""
    image = pytest.importorskip("matplotlib.image", reason="matplotlib, of the [test] extra, reads the picture")
    pixels = (255 * image.imread(picture)[:, :, :3]).astype(int)
    found = []
    for colour in COLOURS:
        y, x = np.nonzero((abs(pixels - colour) <= 12).all(axis=2))
        before, after = ((x > low) & (x < high) & (y > 110) & (y < 760) for low, high in ((580, 700), (850, 1150)))
        assert before.sum() > 20, colour
        assert after.sum() > 50, colour
        found.append(float(np.median(y[before]) - np.median(y[after])))
    return sorted(found)


@needs_browser
def test_graph_in_a_browser(base: str, tmp_path: Path) -> None:
    picture = tmp_path / "graph.png"
    words = words_of(shown(tmp_path, f"{base}index.html#{FORWARD}", f"--screenshot={picture}"))
    for threads, shape in itertools.product("12", ("8x16", "512x768")):  # in the order in which they were loaded
        assert f"env-NUMBA_NUM_THREADS-{threads}; shape-{shape}" in words
    assert "machine bench1" in words
    first, second, third, fourth = steps(picture)
    assert max(abs(first), abs(second)) < 10
    assert min(third, fourth) > 100  # twice the time; in about 650 pixels of height
    assert 1.3 < fourth / third < 1.7  # one thread takes 1.5 times as long as two


@needs_browser
def test_grid_in_a_browser(base: str, tmp_path: Path) -> None:
    """Every benchmark, each with a drawing."""
    page = shown(tmp_path, f"{base}index.html#/")
    assert set(re.findall(r"<h1>(.*?)</h1>", page)) == {"Accuracy", "Gradients", "Forward"}
    for name in (FORWARD, BACKWARD, ERROR):
        assert re.search(rf'<div id="summarygrid-{re.escape(name)}"[^>]*><canvas class="flot-base"', page), name


@needs_browser
def test_regressions_in_a_browser(base: str, tmp_path: Path) -> None:
    words = words_of(shown(tmp_path, f"{base}index.html#/regressions"))
    assert words.count(f"{FORWARD}('512x768')") == 2
    assert words.count("2.00x 202.000μs 404.000μs") == 1
    assert BACKWARD not in words


@needs_browser
def test_list_and_summary_in_a_browser(base: str, tmp_path: Path) -> None:
    words = words_of(shown(tmp_path, f"{base}index.html#/summarylist"))
    for name in (FORWARD, BACKWARD, ERROR):
        assert measured.NAMES[name] in words
    assert "404.000μs" in words
    assert "How fast and how exact numbanorm is" in words_of(shown(tmp_path, f"{base}index.html")), "opens first"


@needs_browser
def test_browser_tells_what_is_missing(site: Path, tmp_path: Path) -> None:
    """asv's own page asks other hosts; a page without its data says so; an error of a script is on the console."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    page, asv = copy / "index.html", importlib.util.find_spec("asv")
    assert asv
    assert asv.origin
    shutil.copy(Path(asv.origin).parent / "www" / "index.html", page)
    seen = browse(tmp_path, f"{page.as_uri()}#/")
    assert "<h1>A script of these pages is missing" in seen.page
    assert {"code.jquery.com", "cdnjs.cloudflare.com"} <= seen.hosts
    shutil.copy(site / "index.html", page)
    (copy / "index.json.js").unlink()
    assert "Error fetching content" in browse(tmp_path, f"{page.as_uri()}#/").page
    (copy / "asv_ui.js").write_text("$.nothing();")
    assert "is not a function" in str(browse(tmp_path, f"{page.as_uri()}#/").console)
