"""examples/models.py: its table, its exit status, and what it refuses."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="torch is not installed: the example compares its layers")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says of itself
    pytest.importorskip("transformers", reason="transformers is not installed: the example needs it, the [examples] extra")

EXAMPLE = Path(__file__).parents[2] / "examples" / "models.py"


def loaded() -> Any:
    """The example as a module; what it sets in the environment does not outlast its import."""
    spec = importlib.util.spec_from_file_location("models", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("OMP_WAIT_POLICY", "passive")
        spec.loader.exec_module(module)
    return module


models = loaded()


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """All norm layers are converted, and the differences are within their bounds."""
    assert models.main(["--small", "--rounds", "1", "--models", "llama,resnet"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()[3:]
    assert head.split()[:5] == ["model", "converted", "outputs", "gradients", "running"]
    assert [row.split()[0] for row in rows] == ["llama", "resnet"]
    for row in rows:
        _, converted, _, every, *numbers = row.split()
        assert converted == every
        assert all(float(n) < 1e-4 for n in numbers[:3])


def test_difference_beyond_its_bound(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(models.BOUNDS, "gradients", 0.0)
    assert models.main(["--small", "--models", "unet", "--rounds", "1"]) == models.FAILED
    assert capsys.readouterr().out.endswith("  beyond its bound\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--models", "bert,gpt"], "--models must be of bert, vit, llama, whisper, resnet, unet: got gpt; write them with"),
        (["--rounds", "0"], "--rounds must be at least 1: got 0"),
        (["--rounds", "x"], "argument --rounds: invalid int value: 'x' (see --help)"),
    ],
)
def test_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"models: error: {told}")


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "row", interrupt)
    assert models.main(["--small"]) == 130
    assert capsys.readouterr().err == "models: interrupted\n"
