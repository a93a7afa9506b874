"""The disk cache of CUDA kernels: whole files or none, and never an error. It needs the compiler, and no GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest
from cuda_gates import KEYS, FakeDevice  # skips without a compiler

from numbanorm.cuda import compiler


class Cached:
    """A small kernel by way of the disk cache, and how often it was compiled."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.key = next(key for key in KEYS if key[0].build.__name__ == "prepare")
        self.compilations = 0
        compile_ = compiler.intermediate

        def counted(*args: Any) -> bytes:
            self.compilations += 1
            return compile_(*args)

        patch.setattr("numba.cuda.dispatcher.get_current_device", FakeDevice)
        patch.delenv("NUMBANORM_CACHE", raising=False)
        patch.setattr(compiler, "intermediate", counted)
        patch.setattr(numba.config, "CACHE_DIR", str(folder))

    @property
    def file(self) -> Path:
        path = compiler.cache_file(*self.key)
        assert path is not None
        return path

    def cubin(self) -> bytes:
        code = compiler.cubin(*self.key)
        assert compiler.entry(code)
        return code


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cached:
    return Cached(monkeypatch, tmp_path)


def test_cache_keeps_a_cubin(cached: Cached, tmp_path: Path) -> None:
    first = cached.cubin()
    assert cached.cubin() == first
    assert cached.compilations == 1
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [cached.file]  # no temporary file is left


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "shorter than its digest": lambda b: b[:20],
    "cut short": lambda b: b[:-1],
    "longer": lambda b: b + b"\0",
    "a bit flipped": lambda b: b[:1000] + bytes([b[1000] ^ 1]) + b[1001:],
    "of another format": lambda b: b[32:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_cache_does_not_trust_a_damaged_file(cached: Cached, damage: str) -> None:
    cached.cubin()
    whole = cached.file.read_bytes()
    cached.file.write_bytes(DAMAGES[damage](whole))
    cached.cubin()
    assert cached.compilations == 2
    cached.cubin()
    assert cached.compilations == 2, "the damaged file must be replaced"


def test_cache_that_cannot_be_written(cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file lies where the folder should be; and a folder lies where the file should be. (root may write anywhere.)"""
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(occupied))
    cached.cubin()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    cached.file.mkdir(parents=True)
    cached.cubin()
    assert cached.compilations == 2
    assert occupied.read_text() == ""
    assert list(cached.file.parent.iterdir()) == [cached.file]  # no temporary file is left


def test_cache_without_room(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        cached.cubin()
        assert list(cached.file.parent.iterdir()) == []
    cached.cubin()
    cached.cubin()
    assert cached.compilations == 2


def test_cache_switched_off(cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBANORM_CACHE", "0")
    assert compiler.cache_file(*cached.key) is None
    cached.cubin()
    cached.cubin()
    assert cached.compilations == 2
    assert list(tmp_path.iterdir()) == []


def test_cache_lies_with_the_users_caches(cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached.file.name.startswith("prepare-")
    assert "numbanorm" in str(cached.file)


def test_cache_of_other_sources_is_another(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cached.file
    monkeypatch.setattr(compiler, "source_key", lambda: "0" * 64)
    assert cached.file.parent != before.parent
    assert cached.file.name == before.name
