"""Errors show what they got on one line, arrays by dtype and shape."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import device_fakes as fakes
import numpy as np
import pytest

import numbanorm as nn
from numbanorm.spec.shown import shown

BIG = np.arange(2000.0).reshape(40, 50)


class Table:
    """Whose repr has many lines."""

    def __repr__(self) -> str:
        return "a  b\n1  2\n" * 40


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (BIG, "float64 array of shape (40, 50)"),
        (np.array(3), "int64 array of shape ()"),
        (np.ma.array([1.0], mask=[True]), "float64 MaskedArray of shape (1,)"),
        (fakes.Tensor(BIG), "torch.float64 Tensor of shape (40, 50)"),
        ([BIG, 1, "a"], "[float64 array of shape (40, 50), 1, 'a']"),
        ((BIG,), "(float64 array of shape (40, 50),)"),
        (namedtuple("Pair", "x")(BIG), "(float64 array of shape (40, 50),)"),
        (list(range(1000)), "[0, 1, 2, 3, 4, 5, ...]"),
        ((1, 2, 3), "(1, 2, 3)"),
        ([], "[]"),
        ((), "()"),
        (None, "None"),
        (1.5, "1.5"),
        (np.float32(1.5), "np.float32(1.5)"),
        ("a  b", "'a  b'"),
        (np.float32, "<class 'numpy.float32'>"),
        ("x" * 1000, "'" + "x" * 119 + "..."),
        ({"a": BIG}, None),
        (Table(), None),
    ],
)
def test_shown(value: Any, text: str | None) -> None:
    assert text is None or shown(value) == text
    assert len(shown(value)) < 200
    assert "\n" not in shown(value)


def test_a_list_of_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert len(shown(endless)) < 200


X = np.ones((4, 6, 5))
# an array in place of every argument that is none
CALLS: dict[str, Callable[[], Any]] = {
    "normalized_shape": lambda: nn.layer_norm(X, BIG),
    "one axis of it": lambda: nn.layer_norm(X, (BIG, 5)),
    "eps": lambda: nn.layer_norm(X, 5, eps=BIG),
    "method": lambda: nn.layer_norm(X, 5, method=BIG),
    "return_stats": lambda: nn.layer_norm(X, 5, return_stats=BIG),
    "backend": lambda: nn.layer_norm(X, 5, backend=BIG),
    "num_groups": lambda: nn.group_norm(X, BIG),
    "channel_axis": lambda: nn.group_norm(X, 2, channel_axis=BIG),
    "training": lambda: nn.batch_norm(X, training=BIG),
    "momentum": lambda: nn.batch_norm(X, training=True, momentum=BIG),
    "convention": lambda: nn.batch_norm(X, training=True, convention=BIG),
    "num_batches_tracked": lambda: nn.batch_norm(X, training=True, num_batches_tracked=BIG),
    "axis": lambda: nn.moments(X, BIG),
    "needs": lambda: nn.layer_norm_backward(X, X, 5, (X[..., 0], X[..., 0]), needs=(BIG, BIG, BIG)),
    "all needs": lambda: nn.layer_norm_backward(X, X, 5, (X[..., 0], X[..., 0]), needs=BIG),
    "explain": lambda: nn.explain(BIG),
    "warmup": lambda: nn.warmup(BIG),
    "dtypes": lambda: nn.warmup(dtypes=(BIG,)),
    "backend of warmup": lambda: nn.warmup(backend=BIG),
    "channels": lambda: nn.BatchNorm1d(BIG),
    "shape of a layer": lambda: nn.LayerNorm(BIG),
    "affine": lambda: nn.BatchNorm1d(3, affine=BIG),
    "dtype": lambda: nn.BatchNorm1d(3, dtype=BIG),
    "strict": lambda: nn.BatchNorm1d(3).load_state_dict({}, strict=BIG),
    "ddof": lambda: nn.moments(X).rstd(BIG),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_arrays_in_errors(name: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        CALLS[name]()
    message = str(caught.value)
    assert "float64 array of shape (40, 50)" in message or "ndarray" in message
    assert "\n" not in message
    assert len(message) < 250
