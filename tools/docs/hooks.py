"""mkdocs hooks: pages that are kept outside docs/, and the gallery, whose examples are executed as the site is built."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the examples, and mkdocstrings, are of this clone
LOG = logging.getLogger("mkdocs.hooks.numbanorm")  # warnings end a strict build
OUTSIDE_WORLD = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
# page of the site, and the file of the clone that it shows
OUTSIDE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
PAGES = {source: page for page, source in OUTSIDE.items()} | {"README.md": "index.md"}
EXAMPLES = ROOT / "examples" / "gallery"
HEAD = """# Gallery

Examples that were executed as these pages were built. Each is a file of `examples/gallery`; `pip install 'numbanorm[demo]'`
brings what they need.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are no files of docs/."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    entries = [HEAD]
    for example in sorted(EXAMPLES.glob("*.py")):
        printed, picture = executed(example)
        files.append(File.generated(config, f"gallery/{example.stem}.png", content=picture))
        entries.append(entry(example, printed))
    files.append(File.generated(config, "gallery.md", content="\n".join(entries)))
    return files


def executed(example: Path) -> tuple[str, bytes]:
    """What an example prints, and the picture that it shows, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    printed, picture, show = io.StringIO(), io.BytesIO(), pyplot.show
    pyplot.close("all")
    pyplot.show = lambda: None
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(example), run_name="__main__")
        pyplot.gcf().savefig(picture, format="png", dpi=100)
    finally:
        pyplot.show = show
        pyplot.close("all")
    return printed.getvalue(), picture.getvalue()


def entry(example: Path, printed: str) -> str:
    """An example as a section of the gallery; its docstring is heading and text."""
    _, docstring, code = example.read_text(encoding="utf-8").split('"""', 2)
    title, _, text = docstring.partition("\n")
    output = f"\n```text\n{printed.rstrip()}\n```\n" if printed else ""
    return (
        f"## {title.rstrip('.')}\n{text.rstrip()}\n\n![{title}](gallery/{example.stem}.png)\n{output}\n"
        f'??? example "{example.relative_to(ROOT).as_posix()}"\n\n' + indented(f"```python\n{code.strip()}\n```") + "\n"
    )


def indented(text: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are for the site: those of pages from outside docs/, and those that lead there."""
    if page.file.src_uri in OUTSIDE:
        markdown = re.sub(r"\]\(docs/", "](", markdown)
    for source, target in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}", f"]({target}", markdown)
    return markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Pages are complete in themselves: nothing is fetched from elsewhere when one is opened."""
    for found in OUTSIDE_WORLD.findall(output):
        LOG.warning("%s asks another host for something: %s", page.file.src_uri, found)
    return output
