"""`normalize` from and to zarr arrays: the numbers of .npy files, and nothing lost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from numbanorm import cli
from numbanorm.commands import normalize as normalize_file

zarr: Any = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'numbanorm[zarr]'")

Array = NDArray[Any]
NORMS = {
    "layer": [],
    "rms": ["--normalized-shape", "4,30"],
    "group": ["--num-groups", "2"],
    "instance": ["--channel-axis", "-1"],
    "batch": ["--channel-axis", "1"],
}


@pytest.fixture
def x(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Array:
    """In both formats; pieces are of some rows, and chunks of zarr of others."""
    monkeypatch.setattr(normalize_file, "CHUNK_BYTES", 2500)
    x = rng.normal(3, 2, (23, 4, 30)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(3, 4, 7))
    return x


def run(*typed: Any) -> int:
    return cli.main(["normalize", *map(str, typed)])


@pytest.mark.parametrize("norm", NORMS)
def test_as_npy(norm: str, x: Array, tmp_path: Path) -> None:
    """All ways between the formats give what .npy to .npy gives; those of batch norm have other pieces, so other last bits."""
    assert run(tmp_path / "x.npy", tmp_path / "y.npy", "--norm", norm, *NORMS[norm]) == 0
    expected = np.load(tmp_path / "y.npy")
    for source, out in (("x.zarr", "a.zarr"), ("x.zarr", "b.npy"), ("x.npy", "c.zarr")):
        assert run(tmp_path / source, tmp_path / out, "--norm", norm, *NORMS[norm]) == 0
        y = np.load(tmp_path / out) if out.endswith("npy") else zarr.open_array(tmp_path / out, mode="r")[...]
        assert y.dtype == np.float32
        if norm == "batch":
            assert np.count_nonzero(y != expected) <= 1  # of fewer than 10,000, by one rounding
            assert (np.abs(y - expected) <= np.spacing(np.abs(expected))).all()
        else:
            assert y.tobytes() == expected.tobytes()
    assert zarr.open_array(tmp_path / "a.zarr", mode="r").chunks == (3, 4, 7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.npy", "c.zarr", "x.npy", "x.zarr", "y.npy"]


def test_each_chunk_is_in_one_piece() -> None:
    """Along the axis that is cut."""
    steps = [piece[0].stop - piece[0].start for piece in normalize_file._blocks((10**6, 1000), 1, 4, (300, 10))]  # type: ignore[union-attr]
    assert all(step == 16500 for step in steps)  # 16777 rows, in whole chunks


def test_existing_output(x: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stays until all is written, also where something fails on the way."""
    out, bad = tmp_path / "y.zarr", tmp_path / "weight.npy"
    np.save(bad, np.ones(7))
    assert run(tmp_path / "x.zarr", out, "--norm", "layer") == 0
    before = zarr.open_array(out, mode="r")[...]
    assert run(tmp_path / "x.zarr", out, "--norm", "rms") == 2
    assert "OUT must not exist yet" in capsys.readouterr().err
    assert run(tmp_path / "x.zarr", out, "--norm", "layer", "--weight", bad, "--overwrite") == 2
    assert "weight must have shape (30,)" in capsys.readouterr().err
    assert zarr.open_array(out, mode="r")[...].tobytes() == before.tobytes()
    assert run(tmp_path / "x.zarr", out, "--norm", "rms", "--overwrite", "--dtype", "float64") == 0
    assert zarr.open_array(out, mode="r").dtype == np.float64
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert run(out, out, "--norm", "rms", "--overwrite") == 2
    assert "OUT must not be a file that is read" in capsys.readouterr().err


def test_what_is_no_array(x: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    zarr.create_group(tmp_path / "group.zarr")
    assert run(tmp_path / "group.zarr", tmp_path / "y.zarr", "--norm", "layer") == 2
    assert "IN must be the folder of one zarr array" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "zarr", None)
    for source, out in (("x.zarr", "y.npy"), ("x.npy", "y.zarr")):
        assert run(tmp_path / source, tmp_path / out, "--norm", "layer") == 2
        assert "for which zarr must be installed: got none; pip install" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["group.zarr", "x.npy", "x.zarr"]
