"""README and docs: snippets run as printed, commands are ones that there are, links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import numbanorm
from numbanorm.commands.parsers import parser

ROOT = Path(numbanorm.__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
OPTIONAL = ("torch", "dask", "xarray", "sklearn")
GENERATED = {"contributing.md", "changelog.md", "security.md", "gallery.md"}  # pages that tools/docs/hooks.py makes
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def snippets(page: Path) -> list[tuple[int, str]]:
    """Line numbers and code of the snippets of a page."""
    text = page.read_text(encoding="utf-8")
    return [(text[: found.start(1)].count("\n"), found[1]) for found in FENCE.finditer(text)]


def anchors(text: str) -> set[str]:
    """Names of the headings of a page, as links have them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, as one program; those that want a library of the extras only where it is."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}  # as Python runs it: what Numba keeps of it asks for that module
    for line, code in snippets(page):
        wanted = [name for name in OPTIONAL if re.search(rf"import {name}|interop\.{name}", code)]
        if any(importlib.util.find_spec(name) is None for name in wanted):
            continue
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("example", sorted((ROOT / "examples" / "gallery").glob("*.py")), ids=lambda path: path.stem)
def test_examples_of_the_gallery_run(example: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib, of the [demo] extra, draws the pictures")
    pyplot.switch_backend("Agg")
    pyplot.close("all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyplot, "show", lambda: None)
        runpy.run_path(str(example), run_name="__main__")
    assert pyplot.get_fignums()
    pyplot.close("all")
    assert re.match(r'"""[^\n.]+\n\n\w', example.read_text(encoding="utf-8"))  # heading and text of the page


@named
def test_commands_are_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for command in re.findall(r"-m numbanorm((?: +[\w./=,'*-]+)+)", text):
        parser().parse_args(shlex.split(command))


@named
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if link.startswith(("https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if file.parent == ROOT / "docs" and file.name in GENERATED:
            continue
        assert os.path.exists(file), f"{page.name} links to {link}"
        if anchor and file.suffix == ".md" and "api" not in file.parts:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page.name} links to {link}"


def test_the_description_on_an_index_links_to_nothing_beside_it() -> None:
    """The metadata of a wheel, as its build makes it: pages of the repository are named there, pictures are left out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    described = ProjectMetadata(str(ROOT), PluginManager()).core
    assert described.readme_content_type == "text/markdown"
    beside = re.compile(r"(!?)\[[^]]*\]\((?!https://)([^)#]*)[^)]*\)")
    assert len(beside.findall(readme)) > 20
    assert beside.search(described.readme) is None
    for picture, page in beside.findall(readme):
        assert picture == "" or page not in described.readme
        assert picture == "!" or page in described.readme
    assert described.readme.count("\n## ") == readme.count("\n## ")


def test_the_reference_has_every_public_name() -> None:
    told = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "api").glob("*.md"))
    assert [name for name in numbanorm.__all__ if f".{name}\n" not in told] == []
    if importlib.util.find_spec("torch") is not None:
        import numbanorm.interop.torch as ours

        shown = re.findall(r"torch\.(?:\w+\.)?(\w+)\n", told)
        assert [name for name in ours.__all__ if name not in shown and f"`{name}`" not in told] == []


def test_the_reference_has_functions_where_modules_have_their_names() -> None:
    """As `numbanorm.standardize`, the function, is in `numbanorm/standardize.py`, and would be shown as that file."""
    entries = [entry for page in PAGES for entry in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)]
    assert len(entries) > 40
    places = [ROOT.joinpath(*entry.split(".")) for entry in entries]
    assert [place for place in places if place.is_dir() or place.with_suffix(".py").exists()] == []


def test_the_citation_has_the_version() -> None:
    assert f"\nversion: {numbanorm.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {numbanorm.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
