"""The disk cache of CUDA kernels: whole files or none, and never an error. It needs the compiler, and no GPU."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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


def keys() -> str:
    return compiler.source_key.__wrapped__()


def test_cache_of_another_python_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytecode orders a kernel's operations otherwise."""
    before = keys()
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(cache_tag="cpython-399"))
    assert keys() != before


def without_wheels(monkeypatch: pytest.MonkeyPatch, *prefixes: str) -> None:
    version = importlib.metadata.version

    def asked(package: str) -> str:
        if package.startswith(prefixes):
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", asked)


@pytest.mark.parametrize("library", list(compiler.LIBRARIES))
def test_cache_of_another_toolkit_is_another(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no wheel says of which version a library is, its file does; and where there is no library, the cache works."""
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="cuda.pathfinder, of the extras, is not installed")
    without_wheels(monkeypatch, *compiler.LIBRARIES[library])
    one, other = tmp_path / "libone.so", tmp_path / "libother.so"
    one.write_bytes(b"12.4")
    other.write_bytes(b"12.9")
    found = {}
    for path in (one, other, tmp_path / "gone"):
        monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", lambda name, path=path: SimpleNamespace(abs_path=str(path)))
        found[path.name] = keys()
    (tmp_path / "link").symlink_to(one)
    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", lambda name: SimpleNamespace(abs_path=str(tmp_path / "link")))
    assert keys() == found["libone.so"], "a link is what it leads to"
    one.write_bytes(b"12.4 of a later day")
    assert len({*found.values(), keys()}) == 4

    def missing(name: str) -> None:
        raise pathfinder.DynamicLibNotFoundError(name)

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    assert keys() == found["gone"]


def test_wheels_are_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library is loaded for a key, where versions are known."""
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="cuda.pathfinder, of the extras, is not installed")
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1")
    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", None)
    before = keys()
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2" if package == "nvidia-nvvm" else "1")
    assert keys() != before


def test_cache_of_other_sources_is_another(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cached.file
    monkeypatch.setattr(compiler, "source_key", lambda: "0" * 64)
    assert cached.file.parent != before.parent
    assert cached.file.name == before.name
