"""examples/lenet_batchnorm.py: what it prints and draws, its layer from scratch, and the files that it reads or refuses."""

from __future__ import annotations

import gzip
import importlib.util
import io
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(package, reason=f"{package} is not installed: the example needs it, the [examples] extra")
torch: Any = pytest.importorskip("torch", reason="torch is not installed: the example trains with it")

EXAMPLE = Path(__file__).parents[2] / "examples" / "lenet_batchnorm.py"
TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def loaded() -> Any:
    """The example as a module; what it sets in the environment does not outlast its import."""
    spec = importlib.util.spec_from_file_location("lenet_batchnorm", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        spec.loader.exec_module(module)
    return module


lenet_batchnorm = loaded()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def idx(a: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return bytes((0, 0, 8, a.ndim)) + np.array(a.shape, ">u4").tobytes() + a.tobytes()


def fashion_mnist(folder: Path, rng: np.random.Generator, **other: np.ndarray) -> Path:
    """A folder with four tiny files, some of them gzipped; `other` arrays instead of them by x, y, test_x, test_y."""
    images = rng.integers(0, 256, (300, 28, 28), np.uint8)
    labels = np.arange(300, dtype=np.uint8) % 10
    arrays = {"x": images, "y": labels, "test_x": images[:40], "test_y": labels[:40]} | other
    for name, array in zip((TRAIN_X, TRAIN_Y + ".gz", TEST_X + ".gz", TEST_Y), arrays.values(), strict=True):
        content = idx(array)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr with which the example ends."""
    assert lenet_batchnorm.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lenet_batchnorm: error: ")
    assert err.count("\n") == 1
    return err


def runs(**losses: list[float]) -> dict[str, Any]:
    """Trained variants with these losses, a batch an epoch; the others have those of numbanorm."""
    made = {}
    for name in lenet_batchnorm.VARIANTS:
        values = losses.get(name, losses["numbanorm"])
        made[name] = lenet_batchnorm.Run(torch.nn.Identity(), [[v] for v in values], [0.5] * len(values), [1e3] * len(values))
    return made


def test_digits(tmp_path: Path) -> None:
    """The whole of it, by a process of its own: two epochs are enough for everything that it claims."""
    picture = tmp_path / "curves.png"
    command = [sys.executable, str(EXAMPLE), "--epochs", "2", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # no progress bar where there is no terminal
    assert "6400 images to train with, 517 held out; 25 batches of 256 an epoch" in done.stdout
    assert len(re.findall(r"^ +[12]  ( +\d\.\d{5} +\d+\.\d\d%){4}$", done.stdout, re.MULTILINE)) == 2
    assert re.findall(r"^- .*: (yes|no)$", done.stdout, re.MULTILINE) == ["yes"] * 4
    assert len(re.findall(r"^  \w+ +[\d,]+  \([\d,]+ to [\d,]+\)  \d\.\d\d$", done.stdout, re.MULTILINE)) == 4
    assert f"picture: {picture}" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_fashion_mnist_with_a_bar_on_a_terminal(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    picture = tmp_path / "curves.png"
    arguments = ["--data", str(fashion_mnist(tmp_path, rng)), "--epochs", "1", "--out", str(picture)]
    assert lenet_batchnorm.main(arguments) == 0
    assert "Fashion-MNIST, 300 images to train with, 40 held out; 1 batches of 256 an epoch" in capsys.readouterr().out
    assert "epoch 1/1" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")  # the bar makes room for the line of the epoch
    assert picture.exists()


def test_a_claim_that_fails_says_no() -> None:
    def said(losses: dict[str, Any]) -> list[str]:
        return re.findall(r": (yes|no)$", lenet_batchnorm.summary(losses), re.MULTILINE)

    assert said(runs(plain=[3.0, 3.0], numbanorm=[2.0, 1.0])) == ["yes"] * 4
    assert said(runs(plain=[3.0, 1.0], numbanorm=[2.0, 1.0])) == ["yes", "no", "yes", "yes"]
    assert said(runs(plain=[3.0, 3.0], numbanorm=[2.0, 1.0], scratch=[4.0, 1.0])) == ["no", "yes", "yes", "no"]
    assert said(runs(plain=[3.0, 3.0], numbanorm=[2.0, 1.0], torch=[2.0, 1.001])) == ["yes", "yes", "no", "yes"]
    assert said(runs(plain=[3.0, 3.0], numbanorm=[2.0, np.nan])) == ["yes", "no", "no", "no"]


def test_variants_differ_in_their_norms_only() -> None:
    nets = {}
    for name, build in lenet_batchnorm.VARIANTS.items():
        torch.manual_seed(0)
        nets[name] = build()
    for net in nets.values():
        for layer, other in zip(net, nets["plain"], strict=True):
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                assert torch.equal(layer.weight, other.weight)
                assert torch.equal(layer.bias, other.bias)
    norms = {name: [type(net[i]) for i in (1, 5, 10, 13)] for name, net in nets.items()}
    assert norms["plain"] == [torch.nn.Identity] * 4
    assert norms["torch"] == [torch.nn.BatchNorm2d] * 2 + [torch.nn.BatchNorm1d] * 2
    assert {cls.__module__ for cls in norms["numbanorm"]} == {"numbanorm.interop.torch"}
    assert norms["scratch"] == [lenet_batchnorm.BatchNorm] * 4


@pytest.mark.parametrize("shape", [(7, 3), (5, 3, 4, 6)])
def test_scratch_keeps_moving_statistics_as_the_book_does(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """moving = 0.9 * moving + 0.1 * batch, with the biased variance; they start at 0 and 1, and normalize in eval mode."""
    layer = lenet_batchnorm.BatchNorm(3)
    axes, along = (0, *range(2, len(shape))), (1, 3, *(1 for _ in shape[2:]))
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(4):
        x = rng.normal(3, 2, shape).astype(np.float32)
        layer(torch.from_numpy(x))
        mean = 0.9 * mean + 0.1 * x.mean(axis=axes, dtype=np.float64)
        var = 0.9 * var + 0.1 * x.var(axis=axes, dtype=np.float64)
    # rounded to float32 in each of four steps
    np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_var.numpy(), var, rtol=1e-6)
    y = layer.eval()(torch.from_numpy(x)).detach().numpy()
    expected = (x - mean.reshape(along)) / np.sqrt(var.reshape(along) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)  # atol: where x is near the mean, whose rounding then shows


@pytest.mark.parametrize("training", [True, False])
def test_scratch_has_the_gradients_of_torch(training: bool, rng: np.random.Generator) -> None:
    """Both in float64, where they differ by some roundings."""
    x, dy = (torch.from_numpy(rng.normal(1, 2, (5, 3, 4, 6))) for _ in range(2))
    layers = lenet_batchnorm.BatchNorm(3).double().train(training), torch.nn.BatchNorm2d(3).double().train(training)
    gradients = []
    for layer in layers:
        leaf = x.clone().requires_grad_()
        layer(leaf).backward(dy)
        gradients.append([leaf.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("shape", [(5,), (0,), (3, 4, 2)])
def test_idx_files_are_read(shape: tuple[int, ...], gzipped: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    a = rng.integers(0, 256, shape, np.uint8)
    path = tmp_path / ("file.gz" if gzipped else "file")
    path.write_bytes(gzip.compress(idx(a)) if gzipped else idx(a))
    got = lenet_batchnorm.read_idx(path, a.ndim)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, a, strict=True)


WHOLE = idx(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", b"", "must begin as IDX, with 00000803 and 3 sizes: got nothing"),
        ("text", b"<html>", "must begin as IDX, with 00000803 and 3 sizes: got 3c68746d 6c3e"),
        ("floats", WHOLE[:2] + b"\x0d" + WHOLE[3:], "with 00000803 and 3 sizes: got 00000d03 00000001 00000002 00000003;"),
        ("labels", idx(np.zeros(20, np.uint8)), "with 00000803 and 3 sizes: got 00000801"),
        ("header", WHOLE[:15], "with 00000803 and 3 sizes: got 00000803 00000001 00000002 000000;"),
        ("short", WHOLE[:-1], r"must hold the 6 bytes of its shape \(1, 2, 3\): got 5; fetch it again"),
        ("long", WHOLE + b"\0", r"must hold the 6 bytes of its shape \(1, 2, 3\): got 7; fetch it again"),
        ("huge", WHOLE[:4] + b"\xff" * 12, r"must hold the 79228162458924105385300197375 bytes"),
        ("plain.gz", WHOLE, r"must be a gzip file: got one that does not unpack \(Not a gzipped file"),
        ("short.gz", gzip.compress(WHOLE)[:-9], "must be a gzip file: got one that does not unpack"),
        ("bent.gz", gzip.compress(WHOLE)[:10] + b"\xff" * 20, "must be a gzip file: got one that does not unpack"),
        ("half.gz", gzip.compress(WHOLE[:-3]), r"must hold the 6 bytes of its shape \(1, 2, 3\): got 3"),
    ],
)
def test_broken_idx_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(lenet_batchnorm.CommandError, match=f"{re.escape(str(path))} .*{message}"):
        lenet_batchnorm.read_idx(path, 3)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda a: a[:, :27], r"train-images-idx3-ubyte must hold images of 28 x 28, at least 256: got \(300, 27, 28\)"),
        ("x", lambda a: a[:255], r"train-images-idx3-ubyte must hold images of 28 x 28, at least 256: got \(255, 28, 28\)"),
        ("test_x", lambda a: a[:0], r"t10k-images-idx3-ubyte must hold images of 28 x 28, at least 1: got \(0, 28, 28\)"),
        ("y", lambda a: a[:299], "train-labels-idx1-ubyte must hold a class from 0 to 9 for each image: got 299 of 300"),
        ("test_y", lambda a: a[:0], "t10k-labels-idx1-ubyte must hold a class from 0 to 9 for each image: got 0 of 40"),
        (
            "test_y",
            lambda a: a + 1,
            "t10k-labels-idx1-ubyte must hold a class from 0 to 9 for each image: got 40 of 40, up to 10",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray], message: str, tmp_path: Path,
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = {"x": np.zeros((300, 28, 28), np.uint8), "test_x": np.zeros((40, 28, 28), np.uint8)}
    whole |= {"y": np.arange(300, dtype=np.uint8) % 10, "test_y": np.arange(40, dtype=np.uint8) % 10}
    folder = fashion_mnist(tmp_path, rng, **{name: change(whole[name])})
    assert re.search(message, refused(capsys, "--data", str(folder)))


def test_options_are_refused_in_one_line(tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--epochs must be at least 1: got 0" in refused(capsys, "--epochs", "0")
    assert "invalid int value: 'many' (see --help)" in refused(capsys, "--epochs", "many")
    for out in (tmp_path, tmp_path / "none" / "curves.png"):
        assert f"--out must be a file in a folder that exists: got {out}" in refused(capsys, "--out", str(out))
    assert f"got {tmp_path} without {TRAIN_X}[.gz]; fetch the four files first" in refused(capsys, "--data", str(tmp_path))
    fashion_mnist(tmp_path, rng)
    (tmp_path / TEST_Y).unlink()
    assert f"got {tmp_path} without {TEST_Y}[.gz]" in refused(capsys, "--data", str(tmp_path))
    (tmp_path / TEST_Y).mkdir()
    assert f"{tmp_path / TEST_Y}: Is a directory" in refused(capsys, "--data", str(tmp_path))


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(SystemExit, match=r"tqdm.*; run pip install 'numbanorm\[examples\]'"):
        runpy.run_path(str(EXAMPLE))
