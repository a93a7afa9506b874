"""How commands end: what is left of files, and what is said, after signals, full pipes and Ctrl-C."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbanorm
from numbanorm import cli
from numbanorm.commands import normalize as normalize_file
from numbanorm.commands import quiet, signals, stores

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, modes and pipes are those of POSIX")


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "in.npy"
    np.save(path, np.random.default_rng(0).normal(size=(1000, 16)))
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    return capsys.readouterr().err


# --- the output file ---


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
@pytest.mark.parametrize("kind", ["device", "pipe", "link"])
def test_output_that_is_no_regular_file(
    tmp_path: Path, source: str, kind: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npy"
    if kind == "device":
        out = Path("/dev/null")
    elif kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to("/dev/null")
    before = out.lstat()
    assert "must be a regular file or a new one" in refused(capsys, "normalize", source, str(out), "--norm", "layer", *more)
    assert (out.lstat().st_mode, out.lstat().st_ino) == (before.st_mode, before.st_ino)


@pytest.mark.parametrize("what", ["IN", "--weight"])
def test_input_that_is_no_regular_file(tmp_path: Path, source: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be waited for, for ever."""
    pipe, out = tmp_path / "pipe.npy", str(tmp_path / "out.npy")
    os.mkfifo(pipe)
    files = [str(pipe), out] if what == "IN" else [source, out, "--weight", str(pipe)]
    assert f"{what} must be a regular file" in refused(capsys, "normalize", *files, "--norm", "layer")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_mode_is_kept(tmp_path: Path, source: str, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And on the way nobody may read more."""
    out, seen = tmp_path / "out.npy", []
    direct = numbanorm.layer_norm

    def spy(x: Any, **options: Any) -> Any:
        seen.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(".*.tmp"))
        return direct(x, **options)

    monkeypatch.setattr(numbanorm, "layer_norm", spy)
    out.write_text("old")
    out.chmod(mode)
    assert cli.main(["normalize", source, str(out), "--norm", "layer", "--overwrite"]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == mode
    assert np.load(out).shape == (1000, 16)
    assert seen
    assert set(seen) == {0o600}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_owner_is_kept(tmp_path: Path, source: str) -> None:
    out = tmp_path / "out.npy"
    out.write_text("old")
    os.chown(out, 1234, 1235)
    assert cli.main(["normalize", source, str(out), "--norm", "layer", "--overwrite"]) == 0
    assert (out.stat().st_uid, out.stat().st_gid) == (1234, 1235)


def test_mode_of_a_new_file(tmp_path: Path, source: str) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out.npy"
    plain.write_text("")
    assert cli.main(["normalize", source, str(out), "--norm", "layer"]) == 0
    assert out.stat().st_mode == plain.stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path, source: str) -> None:
    link, out = tmp_path / "link.npy", tmp_path / "out.npy"
    out.write_text("old")
    link.symlink_to(out)
    assert cli.main(["normalize", source, str(link), "--norm", "layer", "--overwrite"]) == 0
    assert link.is_symlink()
    assert np.load(out).shape == (1000, 16)


# --- killed on the way ---

KILLED = """
import os, signal, sys
import numbanorm
from numbanorm import cli
from numbanorm.commands import normalize
normalize.CHUNK_BYTES, direct, calls = 1000, numbanorm.layer_norm, []
def spy(x, **options):
    calls.append(x.shape)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return direct(x, **options)
numbanorm.layer_norm = spy
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no signal that nobody can catch")
def test_after_a_kill_nothing_is_lost(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """IN and OUT are what they were; the next run is complete, and says what the killed one left."""
    out, before = tmp_path / "out.npy", Path(source).read_bytes()
    out.write_text("old")
    typed = ["normalize", source, str(out), "--norm", "layer", "--overwrite"]
    assert subprocess.run([sys.executable, "-c", KILLED, *typed], timeout=120).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".out.npy.*.tmp")
    assert (out.read_text(), Path(source).read_bytes()) == ("old", before)
    assert cli.main(typed) == 0
    assert (
        f"{left} is what a killed run had written so far; unless a run is writing it now, delete it" in capsys.readouterr().err
    )
    assert np.array_equal(np.load(out), numbanorm.layer_norm(np.load(source), 16))
    left.unlink()
    assert cli.main(typed) == 0
    assert capsys.readouterr().err == ""


def test_what_was_before_a_killed_run_is_named(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A zarr array is put aside before the new one takes its place."""
    old = tmp_path / ".out[1].npy.0123abcd.old.zarr"
    old.mkdir()
    (tmp_path / ".out[1].npy.mine.tmp").write_text("of somebody else")
    assert cli.main(["normalize", source, str(tmp_path / "out[1].npy"), "--norm", "layer"]) == 0
    assert capsys.readouterr().err == (
        f"numbanorm: {old} is out[1].npy as it was before a killed run; rename it to have it back, or delete it\n"
    )


def test_a_finished_result_is_not_called_unfinished(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run killed between its two renames: OUT is missing, and both what it was and what it was to be are there."""
    new, old, half = (tmp_path / f".out.npy.{name}.zarr" for name in ("0123abcd.tmp", "0123abcd.old", "89abcdef.tmp"))
    for folder in (new, old, half):
        folder.mkdir()
        (folder / "zarr.json").write_text(folder.name)
    assert cli.main(["normalize", source, str(tmp_path / "out.npy"), "--norm", "layer"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"numbanorm: {old} is out.npy as it was before a killed run; rename it to have it back, or delete it",
        f"numbanorm: {new} is the whole result of a run that was killed just before its end; rename it to have it or delete it",
        f"numbanorm: {half} is what a killed run had written so far; unless a run is writing it now, delete it",
    ]
    assert [(folder / "zarr.json").read_text() for folder in (new, old, half)] == [new.name, old.name, half.name]


def test_a_signal_between_two_renames_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out.zarr", os.rename
    out.mkdir()
    (out / "zarr.json").write_text("old")

    def renamed(old: Path, new: Path) -> None:
        rename(old, new)
        if new.name.endswith(".old.zarr"):
            raise SystemExit(143)  # as the handler of SIGTERM does

    monkeypatch.setattr(os, "rename", renamed)
    with pytest.raises(SystemExit), stores.replacing(out) as temporary:
        temporary.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    assert (out / "zarr.json").read_text() == "old"


# --- signals on the way ---


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of a program that nobody has started with `nohup`."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def killed_on_the_way(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """A few chunks are written, and then come the signals."""
    monkeypatch.setattr(normalize_file, "CHUNK_BYTES", 1000)
    direct, calls = numbanorm.layer_norm, []

    def spy(x: Any, **options: Any) -> Any:
        calls.append(x.shape)
        if len(calls) == 6:
            for number in numbers:
                os.kill(os.getpid(), number)
        return direct(x, **options)

    monkeypatch.setattr(numbanorm, "layer_norm", spy)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP)], ids=lambda n: str(len(n))
)
def test_signals_leave_no_temporary(
    tmp_path: Path, source: str, numbers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_on_the_way(monkeypatch, *numbers)
    out = tmp_path / "out.npy"
    out.write_text("precious")
    with pytest.raises(SystemExit) as ended:
        cli.main(["normalize", source, str(out), "--norm", "layer", "--overwrite"])
    assert ended.value.code == 128 + numbers[0]
    assert out.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.npy"]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
def test_what_is_ignored_stays_so(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    killed_on_the_way(monkeypatch, signal.SIGHUP)
    assert cli.main(["normalize", source, str(tmp_path / "out.npy"), "--norm", "layer"]) == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# --- Ctrl-C while modules are imported ---

DEFAULT_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def interrupted_import(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that gets a Ctrl-C in the middle of the import of Numba."""
    shim = folder / "shim"
    (shim / "numba").mkdir(parents=True)
    (shim / "numba" / "__init__.py").write_text("import os, signal, time\nos.kill(os.getpid(), 2)\ntime.sleep(60)\n")
    (shim / "sitecustomize.py").write_text(DEFAULT_SIGINT)  # tests may run where it is ignored
    path = os.pathsep.join([str(shim), str(Path(numbanorm.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False, timeout=50)


def script(folder: Path, name: str) -> str:
    path = folder / name
    path.write_text("import sys\nfrom numbanorm.cli import main\nsys.exit(main())\n")
    return str(path)


@pytest.mark.parametrize("command", [["-m", "numbanorm", "info"], ["-mnumbanorm", "info"], ["-Wignore", "-m", "numbanorm"]])
def test_ctrl_c_during_imports(tmp_path: Path, command: list[str]) -> None:
    ended = interrupted_import(tmp_path, *command)
    assert (ended.returncode, ended.stderr, ended.stdout) == (-signal.SIGINT, "", "")


def test_ctrl_c_during_imports_of_the_script(tmp_path: Path) -> None:
    ended = interrupted_import(tmp_path, script(tmp_path, "numbanorm"), "info")
    assert (ended.returncode, ended.stderr, ended.stdout) == (-signal.SIGINT, "", "")


def test_ctrl_c_during_imports_of_other_programs(tmp_path: Path) -> None:
    """They get a KeyboardInterrupt, as ever."""
    for command in (["-c", "import numbanorm"], [script(tmp_path, "other.py")]):
        ended = interrupted_import(tmp_path / command[0][-1], *command)
        assert "KeyboardInterrupt" in ended.stderr


def test_ctrl_c_after_imports_is_told(tmp_path: Path, source: str) -> None:
    """In a process of its own: `main` has Ctrl-C raise again, and the file that is half written goes."""
    program = script(tmp_path, "numbanorm")
    Path(program).write_text(
        f"{DEFAULT_SIGINT}import os, sys\nimport numbanorm\nassert signal.getsignal(signal.SIGINT) is signal.SIG_DFL\n"
        "from numbanorm.cli import main\n"
        "numbanorm.layer_norm = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "status = main()\nassert signal.getsignal(signal.SIGINT) is signal.SIG_DFL\nsys.exit(status)\n"
    )
    command = [sys.executable, program, "normalize", source, str(tmp_path / "out.npy"), "--norm", "layer"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (ended.returncode, ended.stderr) == (cli.INTERRUPTED, "numbanorm: interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "numbanorm"]


def test_a_program_that_imports_it_keeps_its_handler() -> None:
    assert not quiet.is_command()
    before = signal.getsignal(signal.SIGINT)
    with signals.interruptible():
        assert signal.getsignal(signal.SIGINT) is before


# --- pipes ---


@pytest.mark.parametrize(
    "command", [["info"], ["--help"], ["normalize", "--help"], ["normalize", "IN", "OUT", "--norm", "layer"]], ids=" ".join
)
@pytest.mark.parametrize("unbuffered", [True, False])
def test_a_reader_that_has_gone(tmp_path: Path, source: str, command: list[str], unbuffered: bool) -> None:
    """As `| head` goes when it has its lines."""
    out = tmp_path / "out.npy"
    typed = [{"IN": source, "OUT": str(out)}.get(word, word) for word in command]
    words = [sys.executable, "-m", "numbanorm", *typed]
    env = os.environ | {"PYTHONUNBUFFERED": "1" if unbuffered else ""}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process:
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert out.exists() is ("OUT" in command)


def test_an_error_that_nobody_reads(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "numbanorm", "paint"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    assert process.returncode == 2


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(_: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(cli.COMMANDS, "info", breaks)
    assert "Broken pipe" in refused(capsys, "info")


def test_output_that_is_closed(tmp_path: Path, source: str) -> None:
    """`>&-`: there is no stdout."""
    words = f"{sys.executable} -m numbanorm normalize {source} {tmp_path / 'out.npy'} --norm layer >&-"
    ended = subprocess.run(["sh", "-c", words], stderr=subprocess.PIPE, text=True, check=False, timeout=100)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert time.time() - (tmp_path / "out.npy").stat().st_mtime < 100
