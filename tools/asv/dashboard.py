"""asv's pages of the committed results, which need nothing from the internet, with a summary page of our own."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import measured, summary
from .repository import CONFIG, checkout, git, last_lines, read_config

WWW = Path(__file__).parent / "www"
OUTSIDE = re.compile(r'(src|href)="((?:https?:)?//[^"]*)"')


def run(out: Path | None = None, results: Path | None = None, port: int = 0, serve: bool = True) -> None:
    """Write the pages, and show them on localhost until Ctrl-C; ValueError where that cannot be done."""
    root = checkout("dashboard")
    config = read_config(root)
    folder = (out or root / config.get("html_dir", "html")).resolve()
    found = (results or root / config.get("results_dir", "results")).resolve()
    check(root, folder, found, port)
    if out is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
    publish(root, config, found, folder)
    print(f"{folder / 'index.html'}: opens as it is, with the summary first")
    if serve:
        show(folder, port)


def check(root: Path, folder: Path, results: Path, port: int) -> None:
    """All that can be known before anything is written."""
    measured = [path for path in results.glob("*/*.json") if path.name != "machine.json" and path.parent.name != "bench"]
    if not (results / "benchmarks.json").is_file() or not measured:
        raise ValueError(f"there must be results of asv in {results}: got none; measure with asv run, or give --results DIR")
    commits = {commit[:8] for commit in (git(root, "rev-list", "--all") or "").split()}
    if not any(path.name[:8] in commits for path in measured):
        rule = "results must be of commits of this repository"
        raise ValueError(f"{rule}: got none of {len(measured)}; fetch its whole history, and its main branch")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else {str(folder)} if folder.exists() else set()
    if there and not there >= {"asv.js", "index.json"}:
        raise ValueError(f"--out must be new, empty or a dashboard, for it is replaced: got {folder}; choose another folder")
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port must be 0 to 65535: got {port}; leave it out for any that is free")


def publish(root: Path, config: dict[str, Any], results: Path, folder: Path) -> None:
    """Made beside `folder`, and moved there when it is whole."""
    if not folder.parent.is_dir():
        raise ValueError(f"--out must be in a folder that exists: got {folder}; make the folder first")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        site = Path(temporary) / "site"
        run_asv(root, config, results, site)
        missing = measured.tidy(site)
        complete(site)
        page = summary.page(site, summary.newest(results / "bench"), missing)
        (site / "summary.html").write_text(page, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(site, folder)


def run_asv(root: Path, config: dict[str, Any], results: Path, site: Path) -> None:
    """`asv publish` with a configuration whose paths are absolute, for asv takes them from its own folder."""
    inside = {"repo": str((root / config.get("repo", ".")).resolve()), "results_dir": str(results), "html_dir": str(site)}
    branches = [branch_of(root, name) for name in config.get("branches") or ["HEAD"]]
    copy = site.parent / CONFIG
    copy.write_text(json.dumps({**config, **inside, "branches": list(dict.fromkeys(branches))}))
    command = [sys.executable, "-m", "asv", "publish", "--no-pull", "--config", str(copy)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode or not (site / "index.json").is_file():
        reason = last_lines(done.stdout, 1 if "Traceback" in done.stdout else 2)
        raise ValueError(f"asv publish must succeed: got {reason!r}; repair what it names and try again")


def branch_of(root: Path, name: str) -> str:
    """A clone of another branch, or of none, has only the remote's; or just what is checked out."""
    return next((b for b in (name, f"origin/{name}") if git(root, "rev-parse", "--verify", "--quiet", b)), "HEAD")


def complete(site: Path) -> None:
    """All that the pages load comes to lie beside them."""
    for name, change in {"index.html": rewritten, **SCRIPTS}.items():
        file = site / name
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copytree(WWW, site, dirs_exist_ok=True)
    (site / "vendor" / ".gitattributes").unlink(missing_ok=True)
    for file in (site / "vendor").glob("*.*"):
        text = re.sub(r"@font-face\{[^}]*\}", "", file.read_bytes().decode())  # of icons that no page shows
        file.write_bytes(re.sub(r"(?m)^//# sourceMappingURL=.*$|/\*# sourceMappingURL=.*?\*/", "", text).encode())
    for file in [*site.glob("*.json"), *site.glob("graphs/**/*.json")]:
        file.with_name(f"{file.name}.js").write_text(f"dashboard_data({file.read_text(encoding='utf-8')});\n", encoding="utf-8")


def rewritten(page: str) -> str:
    """index.html of asv with scripts and styles from vendor/, our own, and a link to the summary."""
    page = re.sub(r"<(?:script|link)\b[^>]*>", lambda tag: local_tag(tag[0]), page)
    page = replaced(page, "index.html", {
        "</head>": '<link href="local.css" rel="stylesheet"/>\n    <script src="local.js"></script>\n  </head>',
        '<li id="nav-li-" ': '<li><a href="summary.html">Summary</a></li>\n        <li id="nav-li-" ',
    })  # fmt: skip
    return page


def replaced(text: str, file: str, changes: Mapping[str, str]) -> str:
    """A file of asv with each of these words, which it must have once, replaced."""
    for mark, change in changes.items():
        if text.count(mark) != 1:
            raise ValueError(f"asv's {file} must have one {mark}: got {text.count(mark)}; install asv 0.6.6")
        text = text.replace(mark, change)
    return text


def with_names(script: str) -> str:
    """summarygrid.js, which has headings for people."""
    heading = f"({json.dumps(measured.GROUPS)}[group] || group)"
    return replaced(script, "summarygrid.js", {"$('<h1>' + group + '</h1>')": f"$('<h1>' + {heading} + '</h1>')"})


def one_machine(script: str) -> str:
    """graphdisplay.js, which draws lines of one machine until another is chosen, under a name for people."""
    title = "$.asv.main_json.benchmarks[bm_name].pretty_name || bm_name"
    return replaced(script, "graphdisplay.js", {
        '$("#title").text(bm_name)': f'$("#title").text({title})',
        "                if (values.length > 1 && param !== 'machine') {\n                    if (param == 'branch') {":
        "                if (values.length > 1) {\n                    if (param == 'branch' || param == 'machine') {",
        "parts[j] +": f"({json.dumps(measured.GROUPS)}[parts[j]] || parts[j]) +",
    })  # fmt: skip


SCRIPTS = {"summarygrid.js": with_names, "graphdisplay.js": one_machine}


def local_tag(tag: str) -> str:
    """The tag with the file of vendor/; one that loads nothing from outside stays as it is."""
    found = OUTSIDE.search(tag)
    if found is None:
        return tag
    here = {plain(file.name): file.name for file in (WWW / "vendor").iterdir()}
    name = plain(found[2].rpartition("/")[2])
    if name not in here:
        raise ValueError(f"asv's pages must load what numbanorm brings along: got {found[2]}; install asv 0.6.6")
    tag = tag.replace(found[0], f'{found[1]}="vendor/{here[name]}"')
    return re.sub(r'\s(?:integrity|crossorigin|referrerpolicy)="[^"]*"', "", tag)


def plain(name: str) -> str:
    """jquery-3.3.1.min.js -> jquery.js"""
    return re.sub(r"(-[\d.]+)?(\.min)?(?=\.(?:js|css)$)", "", name)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing of each request."""

    def log_message(self, *_: Any) -> None:
        pass


def show(folder: Path, port: int) -> None:
    """Serve until Ctrl-C."""
    handler = functools.partial(Quiet, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise ValueError(f"--port must be free: got {port} ({error.strerror}); leave it out for any that is free") from None
    with server:
        print(f"http://localhost:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
