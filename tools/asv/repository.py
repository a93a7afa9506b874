"""The clone that asv's commands work in."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CONFIG = "asv.conf.json"


def checkout(command: str) -> Path:
    """The folder with the configuration, here or above; it must be of a repository with commits, and git and asv be there."""
    for tool, there in (("git", shutil.which("git")), ("asv", importlib.util.find_spec("asv"))):
        if there is None:
            remedy = "install it" if tool == "git" else "pip install 'numbanorm[dashboard]' brings it"
            raise ValueError(f"{command} needs {tool}, which is not installed; {remedy}")
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / CONFIG).is_file()), None)
    if root is None or git(root, "rev-parse", "HEAD") is None:
        rule = f"{command} must run in a git clone with commits and {CONFIG}"
        raise ValueError(f"{rule}: got {root or here}; clone the repository and change to its folder")
    return root


def git(root: Path, *arguments: str) -> str | None:
    """Output of git; None where it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def read_config(root: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((root / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{CONFIG} must be JSON without comments: got {error}; correct it") from None
    return config


def base_of(root: Path, name: str | None) -> tuple[str, str]:
    """The commit that the working tree is compared with, and what it is called."""
    if name is None:
        name = "HEAD" if git(root, "--no-optional-locks", "status", "--porcelain", "--", ".") else "HEAD~1"
    commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if commit is None:
        raise ValueError(f"BASE must be a commit of this repository: got {name}; see git log, or fetch it")
    return commit, name


def last_lines(text: str, count: int = 1) -> str:
    """Last `count` lines of an error, without asv's marks."""
    lines = [re.sub(r"^\[.*?%\]|[·\s]+", " ", line).strip() for line in text.splitlines()]
    return " ".join([line for line in lines if line and not line.startswith("asv:")][-count:]) or "nothing"
