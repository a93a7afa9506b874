"""The examples in docstrings, as they are printed."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import numbanorm


@pytest.mark.parametrize(
    "name",
    [
        "numbanorm.functional.rows",
        "numbanorm.functional.channels",
        "numbanorm.gradients.rows",
        "numbanorm.gradients.channels",
        "numbanorm.moments",
        "numbanorm.standardize",
        "numbanorm.layers.norms",
        "numbanorm.layers.running",
        "numbanorm.precompile",
        "numbanorm.spec.call",
        "numbanorm.versions",
        "numbanorm.explained",
    ],
)
def test_examples(name: str) -> None:
    check(name)


@pytest.mark.parametrize("library", ["dask", "sklearn", "torch", "xarray"])
def test_examples_over(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'numbanorm[{library}]'")
    check(f"numbanorm.interop.{library}")


@pytest.mark.parametrize("module", ["norms", "gradients"])
def test_examples_of_norms_over_dask(module: str) -> None:
    pytest.importorskip("dask", reason="dask is not installed: pip install 'numbanorm[dask]'")
    check(f"numbanorm.interop.dask.{module}")


@pytest.mark.parametrize("module", ["norms", "convert", "report"])
def test_examples_of_torch(module: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'numbanorm[torch]'")
    check(f"numbanorm.interop.torch.{module}")


def check(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("name", numbanorm.__all__)
def test_everything_public_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(numbanorm, name)) or "")
