"""What the commands that use asv and git say where they cannot work."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from repositories import git

from numbanorm import cli

COMMANDS = ("compare", "dashboard")
NEITHER = "must run in a git clone with commits and asv.conf.json: got {0}; clone the repository and change to its folder"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def refused(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The one line on stderr."""
    assert cli.main([command]) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.count("\n") == 1
    return errors


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.skipif(importlib.util.find_spec("asv") is None, reason="asv is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_clone(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "asv.conf.json"
    message = f"{command} {NEITHER.format(tmp_path)}"
    assert message in refused(capsys, command)
    config.write_text("// a comment\n{}")
    assert message in refused(capsys, command)
    git(tmp_path, "init", "-q")
    assert message in refused(capsys, command)
    git(tmp_path, "add", "asv.conf.json")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "commit", "-qm", "second", "--allow-empty")
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert "asv.conf.json must be JSON without comments: got Expecting value" in refused(capsys, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_tools(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda _: None)
        assert f"{command} needs git, which is not installed; install it" in refused(capsys, command)
        patch.setattr(shutil, "which", lambda _: "git")
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        words = f"{command} needs asv, which is not installed; pip install 'numbanorm[dashboard]' brings it"
        assert words in refused(capsys, command)
