"""The command line, through files: results against the direct call, refusals, and what is left on disk."""

from __future__ import annotations

import io
import math
import re
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numbanorm
from numbanorm import cli
from numbanorm.commands import normalize as normalize_file

EXAMPLES = Path(__file__).parents[2] / "examples"

# norm, shape, what is typed, what is called, length of weight and bias (None: without)
CASES = [
    ("layer", (70, 48), [], {"normalized_shape": 48}, (48,)),
    ("layer", (5, 6, 4, 8), ["--normalized-shape", "4,8"], {"normalized_shape": (4, 8)}, (4, 8)),
    ("layer", (96,), ["--eps", "0.5"], {"normalized_shape": 96, "eps": 0.5}, None),
    ("layer", (9, 100), ["--method", "welford"], {"normalized_shape": 100, "method": "welford"}, None),
    ("layer", (9, 100), ["--exact"], {"normalized_shape": 100, "exact": True}, (100,)),
    ("rms", (70, 48), [], {"normalized_shape": 48}, None),
    ("rms", (3, 7, 40), ["--eps", "1e-6"], {"normalized_shape": 40, "eps": 1e-6}, None),
    ("instance", (6, 5, 9, 4), [], {}, (5,)),
    ("instance", (6, 9, 4, 5), ["--channel-axis", "-1"], {"channel_axis": -1}, None),
    ("group", (7, 6, 30), ["--num-groups", "3"], {"num_groups": 3}, (6,)),
    ("group", (7, 30, 6), ["--num-groups", "2", "--channel-axis", "-1"], {"num_groups": 2, "channel_axis": -1}, None),
]
BATCH_CASES = [
    ((64, 12), [], {}, (12,)),
    ((20, 5, 33), [], {}, None),
    ((9, 4, 7, 7), ["--method", "welford", "--eps", "0.01"], {"method": "welford", "eps": 0.01}, (4,)),
    ((9, 7, 7, 4), ["--channel-axis", "-1"], {"channel_axis": -1}, (4,)),
    ((20, 5, 33), ["--exact"], {"exact": True}, (5,)),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a test file many chunks."""
    monkeypatch.setattr(normalize_file, "CHUNK_BYTES", 1000)


def numbers(shape: tuple[int, ...], dtype: str = "f4", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, shape).astype(dtype)


def save(path: Path, x: np.ndarray) -> str:
    np.save(path, x)
    return str(path)


def normalize(folder: Path, x: np.ndarray, norm: str, *arguments: str) -> np.ndarray:
    """What the command writes for `x`."""
    out = folder / "out.npy"
    assert cli.main(["normalize", save(folder / "in.npy", x), str(out), "--norm", norm, *arguments]) == 0
    return np.load(out)


def affine_arguments(folder: Path, norm: str, shape: tuple[int, ...] | None) -> tuple[list[str], dict[str, np.ndarray]]:
    if shape is None:
        return [], {}
    values = {name: numbers(shape, seed=seed) for seed, name in enumerate(("weight", "bias"), 1)}
    typed = [word for name, value in values.items() for word in ("--" + name, save(folder / f"{name}.npy", value))]
    return typed, values


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("numbanorm: error: ")
    assert err.count("\n") == 1
    return err


# ------------------------------------------------------------------------------------ normalize: results


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("norm", "shape", "typed", "called", "affine"), CASES)
def test_file_equals_call(
    tmp_path: Path, norm: str, shape: tuple[int, ...], typed: list[str], called: dict[str, object], affine: tuple | None
) -> None:
    x = numbers(shape)
    files, arrays = affine_arguments(tmp_path, norm, affine)
    expected = getattr(numbanorm, f"{norm}_norm")(x, **called, **arrays)
    # Equal, not close: the bits of a sample do not depend on the samples beside it.
    np.testing.assert_array_equal(normalize(tmp_path, x, norm, *typed, *files), expected, strict=True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("shape", "typed", "called", "affine"), BATCH_CASES)
def test_batch_norm_in_chunks_is_close_to_the_call(
    tmp_path: Path, shape: tuple[int, ...], typed: list[str], called: dict[str, object], affine: tuple | None
) -> None:
    x = numbers(shape)
    files, arrays = affine_arguments(tmp_path, "batch", affine)
    expected = numbanorm.batch_norm(x, training=True, **called, **arrays)
    # Merged statistics differ in the last bits of float64, so float32 may round the other way: one unit in the last
    # place, and where weight*y and bias cancel, one of float64 (one of float32 unless exact) at the scale of the terms.
    atol = 1e-13 if "--exact" in typed else 1e-6
    np.testing.assert_allclose(normalize(tmp_path, x, "batch", *typed, *files), expected, rtol=2**-23, atol=atol)


def test_batch_norm_in_one_chunk_is_the_call(tmp_path: Path) -> None:
    x = numbers((9, 4, 7, 7))
    expected = numbanorm.batch_norm(x, training=True, exact=True)
    np.testing.assert_allclose(normalize(tmp_path, x, "batch", "--exact"), expected, rtol=2**-23, atol=1e-13)


@pytest.mark.usefixtures("small_chunks")
def test_batch_norm_of_a_constant_channel(tmp_path: Path) -> None:
    x = numbers((40, 6, 5))
    x[:, 2] = 7
    y = normalize(tmp_path, x, "batch")
    assert (y[:, 2] == 0).all()
    np.testing.assert_allclose(y, numbanorm.batch_norm(x, training=True), rtol=2**-23, atol=1e-6)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_types_and_orders_of_the_file(tmp_path: Path, dtype: str, order: str, norm: str) -> None:
    x = np.asarray(numbers((30, 5, 8), dtype), order=order)
    native = np.ascontiguousarray(x, x.dtype.newbyteorder("="))
    call = {"layer": lambda: numbanorm.layer_norm(native, 8), "instance": lambda: numbanorm.instance_norm(native)}
    np.testing.assert_array_equal(normalize(tmp_path, x, norm), call[norm](), strict=True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("source", ["u1", "i1", ">i2", "u8", "f2", "f4", ">f8", "longdouble"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_dtype(tmp_path: Path, norm: str, source: str, dtype: str) -> None:
    """It is computed from, and written as, this type."""
    x = (np.random.default_rng(0).integers(0, 100, (300, 8))).astype(source)
    call = {"layer": lambda v: numbanorm.layer_norm(v, 8), "batch": lambda v: numbanorm.batch_norm(v, training=True)}[norm]
    expected, y = call(x.astype(dtype)), normalize(tmp_path, x, norm, "--dtype", dtype)
    assert y.dtype == expected.dtype
    # of merged statistics, see test_cli_batch.py
    rtol, atol = (0, 0) if norm == "layer" else (float(np.finfo(dtype).eps), 4 * 2.0**-52)
    np.testing.assert_allclose(y, expected, rtol=rtol, atol=atol)


def test_dtype_too_small_for_the_numbers(tmp_path: Path) -> None:
    y = normalize(tmp_path, np.array([[1.0, 2.0], [3.0, 1e30]]), "layer", "--dtype", "float16")
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).any()


@pytest.mark.parametrize("norm", ["layer", "rms", "batch", "instance", "group"])
def test_empty_file(tmp_path: Path, norm: str) -> None:
    more = ["--num-groups", "2"] if norm == "group" else []
    y = normalize(tmp_path, np.zeros((0, 4, 3), "f4"), norm, *more)
    assert y.shape == (0, 4, 3)
    assert y.dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "leading"), [((7,), 0), ((7,), 1), ((50, 3), 1), ((2, 40, 9), 2), ((3, 2, 300, 5), 3), ((4, 1000), 1)]
)
def test_blocks_cover_everything_once(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], leading: int) -> None:
    monkeypatch.setattr(normalize_file, "CHUNK_BYTES", 256)
    seen = np.zeros(shape, int)
    for block in normalize_file._blocks(shape, leading, 4):
        assert seen[block].ndim >= len(shape) - leading
        assert 4 * seen[block].size <= max(256, 4 * math.prod(shape[leading:]))
        seen[block] += 1
    assert (seen == 1).all()


def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is only ever given pieces, and writes them straight into the file."""
    monkeypatch.setattr(normalize_file, "CHUNK_BYTES", 4096)
    sizes = []
    direct = numbanorm.layer_norm

    def spy(x: np.ndarray, **arguments: object) -> object:
        if "backend" not in arguments:  # with it `explain` asks, which computes nothing
            sizes.append(x.nbytes)
        return direct(x, **arguments)

    monkeypatch.setattr(numbanorm, "layer_norm", spy)
    normalize(tmp_path, numbers((1000, 64)), "layer")
    assert len(sizes) > 50
    assert max(sizes) <= 4096


# ------------------------------------------------------------------------------------ normalize: refusals


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([], ["--norm"]),
        (["--norm", "spectral"], ["spectral", "layer"]),
        (["--norm", "layer", "--method", "naive"], ["naive", "two_pass", "welford"]),
        (["--norm", "layer", "--dtype", "int8"], ["--dtype", "int8", "float16", "float32", "float64"]),
        (["--norm", "layer", "--num-groups", "2"], ["--num-groups", "group", "layer", "leave it out"]),
        (["--norm", "batch", "--normalized-shape", "4"], ["--normalized-shape", "layer, rms", "batch"]),
        (["--norm", "rms", "--channel-axis", "1"], ["--channel-axis", "batch, instance, group"]),
        (["--norm", "rms", "--bias", "b.npy"], ["--bias", "rms"]),
        (["--norm", "group"], ["--num-groups"]),
        (["--norm", "group", "--num-groups", "two"], ["two"]),
        (["--norm", "group", "--num-groups", "4"], ["num_groups", "6", "4"]),
        (["--norm", "group", "--num-groups", "0"], ["num_groups", "0"]),
        (["--norm", "layer", "--normalized-shape", "6;5"], ["3,224,224", "6;5"]),
        (["--norm", "layer", "--normalized-shape", "7"], ["normalized_shape", "7"]),
        (["--norm", "layer", "--normalized-shape", "1,8,6,5"], ["normalized_shape", "8"]),
        (["--norm", "layer", "--eps", "-1"], ["eps", "-1"]),
        (["--norm", "layer", "--eps", "nan"], ["eps", "nan"]),
        (["--norm", "batch", "--channel-axis", "3"], ["channel_axis", "3"]),
        (["--norm", "layer", "--weight", "nowhere.npy"], ["--weight", "nowhere.npy", "exists"]),
    ],
)
def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: list[str], words: list[str]) -> None:
    source = save(tmp_path / "in.npy", numbers((8, 6, 5)))
    message = refused(capsys, "normalize", source, str(tmp_path / "out.npy"), *typed)
    for word in words:
        assert word in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("axes", [(0,), (0, 1), (-1,), (0, 1, 2)])
@pytest.mark.parametrize(("norm", "typed", "called"), [
    ("layer", [], {"normalized_shape": 30}), ("rms", [], {"normalized_shape": 30}), ("instance", [], {}),
    ("group", ["--num-groups", "3"], {"num_groups": 3})])  # fmt: skip
def test_where(tmp_path: Path, norm: str, typed: list[str], called: dict[str, int], axes: tuple[int, ...]) -> None:
    """A mask is cut as the data are."""
    x, shape = numbers((7, 6, 30)), [n if k in axes or k - 3 in axes else 1 for k, n in enumerate((7, 6, 30))]
    mask = np.random.default_rng(3).random(shape) < 0.7
    y = normalize(tmp_path, x, norm, *typed, "--where", save(tmp_path / "mask.npy", mask))
    np.testing.assert_array_equal(y, getattr(numbanorm, f"{norm}_norm")(x, **called, where=mask))


def test_where_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [save(tmp_path / "x.npy", numbers((4, 6))), str(tmp_path / "y.npy")]
    masks = {name: save(tmp_path / f"{name}.npy", np.ones(shape, kind)) for name, shape, kind in
             (("good", (6,), bool), ("wide", (5,), bool), ("float", (6,), float))}  # fmt: skip
    for norm, mask, words in [("batch", "good", "--where is for --norm layer"), ("layer", "wide", "where must broadcast"),
                              ("layer", "float", "where must be a NumPy array of bool")]:  # fmt: skip
        assert cli.main(["normalize", *files, "--norm", norm, "--where", masks[mask]]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("norm", ["layer", "batch", "instance"])
def test_weight_of_the_wrong_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str], norm: str) -> None:
    source, weight = save(tmp_path / "in.npy", numbers((8, 6, 5))), save(tmp_path / "w.npy", numbers((7,)))
    message = refused(capsys, "normalize", source, str(tmp_path / "out.npy"), "--norm", norm, "--weight", weight)
    assert "weight" in message
    assert "7" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "w.npy"]


def test_one_value_per_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "in.npy", numbers((1, 6)))
    refused(capsys, "normalize", source, str(tmp_path / "out.npy"), "--norm", "batch")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["IN", "exists", "check the name"]),
        (b"", ["numpy.save"]),
        (b"a,b\n1,2\n", ["numpy.save"]),
        (b"PK\x03\x04", ["numpy.save"]),
        (np.array([None, "a"], object), ["numpy.save"]),
        (np.zeros((3, 4), "V2"), ["|V2", "x.view(ml_dtypes.bfloat16).astype(numpy.float32)"]),
        (np.zeros(3, [("a", "f4")]), ["plain numbers"]),
        (np.zeros((3, 4), int), ["int64", "add --dtype float32"]),
        (np.zeros((3, 4), np.uint8), ["uint8", "add --dtype float32"]),
        (np.zeros((3, 4), complex), ["complex128"]),
        (np.zeros((3, 4), bool), ["bool"]),
        (np.float32(3), ["single number"]),
    ],
    ids=["missing", "empty", "text", "zip", "object", "bfloat16", "fields", "int", "uint8", "complex", "bool", "number"],
)
def test_bad_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | np.ndarray | None, words: list[str]
) -> None:
    source = tmp_path / "in.npy"
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        np.save(source, content)
    message = refused(capsys, "normalize", str(source), str(tmp_path / "out.npy"), "--norm", "layer")
    for word in words:
        assert word in message
    assert not list(tmp_path.glob("*out*"))


def test_truncated_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.npy"
    save(source, numbers((100, 8)))
    source.write_bytes(source.read_bytes()[:500])
    assert "numpy.save" in refused(capsys, "normalize", str(source), str(tmp_path / "out.npy"), "--norm", "layer")


def test_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "in.npz", x=numbers((3, 4)))
    source = str(tmp_path / "in.npz")
    assert "numpy.save" in refused(capsys, "normalize", source, str(tmp_path / "out.npy"), "--norm", "layer")


def test_folder_as_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "IN" in refused(capsys, "normalize", str(tmp_path), str(tmp_path / "out.npy"), "--norm", "layer")


# ------------------------------------------------------------------------------------ normalize: the output file


def test_existing_output_needs_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, out = numbers((8, 16)), tmp_path / "out.npy"
    arguments = ["normalize", save(tmp_path / "in.npy", x), str(out), "--norm", "layer"]
    out.write_text("precious")
    assert "--overwrite" in refused(capsys, *arguments)
    assert out.read_text() == "precious"
    assert cli.main([*arguments, "--overwrite"]) == 0
    np.testing.assert_array_equal(np.load(out), numbanorm.layer_norm(x, 16))


def test_output_must_not_be_an_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "in.npy", numbers((8, 16)))
    before = (tmp_path / "in.npy").read_bytes()
    link = tmp_path / "link.npy"
    link.symlink_to(source)
    for out in (source, str(link)):
        assert "read" in refused(capsys, "normalize", source, out, "--norm", "layer", "--overwrite")
    weight = save(tmp_path / "w.npy", np.ones(16))
    refused(capsys, "normalize", source, weight, "--norm", "layer", "--weight", weight, "--overwrite")
    assert (tmp_path / "in.npy").read_bytes() == before


def test_output_folder_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "in.npy", numbers((8, 16)))
    for out in (tmp_path / "nowhere" / "out.npy", tmp_path):
        assert "folder" in refused(capsys, "normalize", source, str(out), "--norm", "layer")


def test_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "in.npy", numbers((8, 16)))
    monkeypatch.setattr(normalize_file.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    assert "space" in refused(capsys, "normalize", source, str(tmp_path / "out.npy"), "--norm", "layer")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("error", "status"), [(OSError("disk"), 2), (KeyboardInterrupt(), 130), (ValueError("x"), 2)])
def test_failure_on_the_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    out, calls = tmp_path / "out.npy", []
    direct = numbanorm.layer_norm

    def breaks(x: np.ndarray, **arguments: object) -> object:
        calls.append(x.shape)  # the first is `explain`
        if len(calls) > 5:
            raise error
        return direct(x, **arguments)

    source = save(tmp_path / "in.npy", numbers((1000, 16)))
    out.write_text("precious")
    monkeypatch.setattr(numbanorm, "layer_norm", breaks)
    assert cli.main(["normalize", source, str(out), "--norm", "layer", "--overwrite"]) == status
    assert len(calls) == 6
    assert out.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.npy"]


# ------------------------------------------------------------------------------------ progress


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    normalize(tmp_path, numbers((1000, 16)), norm)
    lines = terminal.getvalue().split("\r")
    percents = [int(found[1]) for line in lines if (found := re.search(r"(\d+)%", line))]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert "MB/s" in lines[-1]
    assert lines[-1].endswith("ETA 0:00 \n")


def test_no_progress_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    normalize(tmp_path, numbers((1000, 16)), "layer")
    out, err = capsys.readouterr()
    assert err == ""
    assert "float32 (1000, 16)" in out


def test_progress_estimates_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.01, 2.0])
    monkeypatch.setattr(normalize_file.time, "perf_counter", lambda: next(clock))
    terminal = Terminal()
    with normalize_file.Progress(400_000_000, terminal) as progress:
        for _ in range(3):
            progress.advance(2_000_000)
    drawn = terminal.getvalue().split("\r")[1:]
    assert len(drawn) == 2  # 0.01 s after the first is too soon
    assert "2 MB/s  ETA 3:19" in drawn[0]
    assert "3 MB/s  ETA 2:11" in drawn[1]


# ------------------------------------------------------------------------------------ demo, info, example


def table(text: str, heading: str) -> dict[str, list[float]]:
    """The numbers of one table of the demo, by row."""
    lines = text.partition(heading + "\n")[2].partition("\n\n")[0].splitlines()[1:]
    plain = [re.sub(r" ms| ulp|x\b", "", line.partition("   a ")[0]).split() for line in lines]
    return {name: [float(cell) for cell in cells] for name, *cells in plain}


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the photograph and the picture come from matplotlib, the [demo] extra")
    out = tmp_path / "before_after.png"
    assert cli.main(["demo", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "2 photographs of 512 x 600 pixels" in text
    assert re.search(r"warm-up: \d+\.\d s", text)
    assert str(out) in text

    pictures = table(text, "The two pictures before, and after each norm")
    norms = ["batch", "instance", "group", "layer", "rms"]
    assert list(pictures) == ["before", *norms]
    assert all(0 < value < 1 for value in pictures["before"])
    for norm in ("instance", "group", "layer"):
        assert pictures[norm] == pytest.approx([0, 1, 0, 1], abs=3e-3)  # eps within the root takes some of the dark one's 1
    assert pictures["batch"][0] == -pictures["batch"][2] > 0
    mean, std, *_ = pictures["rms"]
    assert mean**2 + std**2 == pytest.approx(1, abs=2e-3)  # three decimals each

    costs = table(text, "Time of a call, and its largest error")
    assert list(costs) == norms
    for seconds, numpy_seconds, ratio, ulp, numpy_ulp in costs.values():
        assert ratio == pytest.approx(numpy_seconds / seconds, abs=0.1, rel=0.05)
        assert ulp <= 3
        assert ulp <= numpy_ulp < 1e3
    assert f"Its largest error is {max(row[3] for row in costs.values()):.2f} ulp" in text

    header = out.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", header[16:]) == (1500, 800)


def test_demo_gives_five_results() -> None:
    from numbanorm import demo

    x = np.random.default_rng(0).random((2, 3, 6, 8), np.float32)
    results = [norm.call(x) for norm in demo.NORMS]
    for norm, y in zip(demo.NORMS, results, strict=True):
        assert demo.distance(y, demo.textbook(norm, x.astype(np.longdouble))) < 3
    assert len({y.round(2).tobytes() for y in results}) == 5


def test_demo_without_matplotlib(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refused(capsys, "demo", "--out", str(tmp_path / "p.png"))
    assert "pip install 'numbanorm[demo]'" in message
    assert not list(tmp_path.iterdir())


def test_demo_into_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--out" in refused(capsys, "demo", "--out", str(tmp_path / "nowhere" / "p.png"))


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m numbanorm")
    assert all(command in text for command in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"numbanorm {numbanorm.__version__}\n"


@pytest.mark.parametrize(("typed", "words"), [(["paint"], "paint"), (["info", "x"], "x")])
def test_bad_commands(capsys: pytest.CaptureFixture[str], typed: list[str], words: str) -> None:
    message = refused(capsys, *typed)
    assert words in message
    assert "--help" in message


def test_module_runs() -> None:
    """`python -m numbanorm` from a shell: the versions on stdout, an error on stderr with its status."""
    info = subprocess.run([sys.executable, "-m", "numbanorm", "info"], capture_output=True, text=True, check=True)
    assert info.stderr == ""
    for name in numbanorm.info():
        assert name in info.stdout
    assert np.__version__ in info.stdout


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("numba", "numpy", np.__version__):
        assert word in printed


def test_quickstart_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "quickstart.py"), run_name="__main__")
    assert "running mean" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["compare", "dashboard"])
def test_what_wants_a_clone_says_so(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wheel has neither the repository nor the tools that work on it."""
    from numbanorm import cli

    monkeypatch.setattr(cli, "__file__", str(tmp_path / "numbanorm" / "cli.py"))
    assert cli.main([command]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"numbanorm: error: {command} must run in a clone of the repository")
    assert "clone it" in said
