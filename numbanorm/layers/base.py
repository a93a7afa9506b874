"""The part that all layers share: their arrays, modes, state_dict, and the call that `backward` differentiates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from .. import functional
from .. import gradients as backward
from ..backends import dispatch
from ..spec import checks
from ..spec.around import Around, activation_of
from ..spec.checks import Array
from ..spec.dtypes import FLOATS
from ..spec.norms import NORMS
from ..spec.shown import shown

# every array that a layer may have, in the order of torch's state_dict, and what fills it at first
INITIAL = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
PARAMETERS = ("weight", "bias")
RUNNING = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"
# the arguments that torch does not have; repr shows those that differ
EXTRA = {"channel_axis": 1, "batch_axis": 0, "weight_offset": 0.0, "convention": "torch", "method": None, "exact": False}
EXTRA |= {"activation": None, "backend": None, "axis": None}

# what Keras and Flax call these arrays
KERAS = {"gamma": "weight", "scale": "weight", "beta": "bias", "moving_mean": "running_mean", "mean": "running_mean"}
KERAS |= {"moving_variance": "running_var", "var": "running_var"}

NOT_CALLED = "none, for the layer, or this copy of it, was not called; call it first"
OVERWRITTEN = "one that was written over, for out was x; call the layer again, with another out"

Named = str | tuple[str, float]  # an activation
Gradients = partial[Any]  # (dy, out=out) -> dx and the gradients of the parameters


class IncompatibleKeys(NamedTuple):
    """Names that `load_state_dict` did not find, and names that it did not know."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Layer:
    """Base of all layers.

    Attributes
    ----------
    weight, bias : array or None
        The parameters; RMSNorm has no bias.
    grad : dict of str to array
        Gradients of the parameters, by name: those of the last `backward` alone, in new arrays. torch adds them to what was
        there, so that a zero_grad that was forgotten goes unnoticed; here the caller adds: `total += layer.grad["weight"]`.
    training : bool
        True at first; see `train` and `eval`.
    """

    weight: Array | None
    _norm: ClassVar[str]  # the function's name
    _shown: ClassVar[str]  # extra_repr, as torch writes it
    exact: bool = False  # of the class for layers that were pickled when there was no choice
    activation: Named | None = None  # likewise
    weight_offset: float = 0.0  # likewise; the weight begins at what makes it 1

    def __init__(self, eps: float | None, method: str | None, exact: bool, backend: str | None, activation: Any) -> None:
        checks.eps(eps)
        self.eps, self.method, self.exact, self.backend = eps, checks.method(method), checks.flag("exact", exact), backend
        activation_of(activation)  # raises for what is none
        self.activation, self.training = activation, True
        self.grad: dict[str, Array] = {}
        self._last: tuple[Array, Gradients] | str = NOT_CALLED

    def _hold(self, wanted: Mapping[str, bool], shape: tuple[int, ...], dtype: DTypeLike | None) -> None:
        """Make the arrays that are wanted; the others are None."""
        kind = float_type(dtype)
        if any(n < 0 for n in shape):
            raise ValueError(f"{type(self).__name__} wants sizes >= 0: got {shape}; take them from x.shape")
        for name, is_wanted in wanted.items():
            array = np.array(0) if name == COUNTER else np.full(shape, INITIAL[name], kind)
            setattr(self, name, array if is_wanted else None)
        self._begin()

    def _begin(self) -> None:
        """Make the weight, which is as all arrays are at first, that of no scaling."""
        if self.weight is not None and self.weight_offset:
            self.weight -= self.weight_offset

    def _fits(self, shape: tuple[int, ...]) -> None:
        """Raise unless x may have this shape, as far as the functions do not."""

    def _fits_channels(self, shape: tuple[int, ...], axis: int, channels: int) -> None:
        """Raise unless x, of this shape, has the layer's number of channels."""
        if shape[axis] != channels:
            raise ValueError(
                f"{type(self).__name__} was made for {channels} channels: got {shape[axis]} on axis {axis} of shape {shape}; "
                f"make one for {shape[axis]}, or say with channel_axis where the channels are"
            )

    def _batch(self, ndim: int) -> dict[str, Any]:
        """Whether x of so many axes has a batch axis, as an argument, if that is one."""
        return {}

    def _arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of this norm beside the common ones: those of both functions, and those of the forward one alone."""
        raise NotImplementedError

    def _forward(
        self, x: Array, out: Array | None, where: Array | None, ndim: int, around: Around
    ) -> tuple[Array, Array, Gradients]:
        """y, what was normalized, and what makes gradients of dy."""
        shared, extra = self._arguments()
        shared |= self._batch(ndim) | {"exact": self.exact, "where": where, "backend": self.backend}
        if self.weight_offset and self.weight is not None:
            shared["weight_offset"] = self.weight_offset
        parameters = {name: getattr(self, name) for name in PARAMETERS if hasattr(self, name)}
        before = {} if around.residual is None else {"residual": around.residual, "return_residual": True}
        after = {"addend": around.addend, "activation": self.activation}
        y, *h, stats = getattr(functional, self._norm)(
            x, eps=self.eps, method=self.method, out=out, return_stats=True, **parameters, **shared, **extra, **before, **after
        )
        x = h[0] if h else x
        needs = (True, *(p is not None for p in parameters.values()))
        function = getattr(backward, f"{self._norm}_backward")
        shared |= {} if self.activation is None else {"y": y, "activation": self.activation}
        shared |= {} if around.addend is None else {"return_daddend": True}
        return y, x, partial(function, x=x, stats=stats, weight=self.weight, needs=needs, **shared)

    def __call__(
        self,
        x: Array,
        out: Array | None = None,
        where: Array | None = None,
        *,
        residual: Array | None = None,
        return_residual: bool = False,
        addend: Array | None = None,
    ) -> Any:
        """Normalize x.

        Parameters
        ----------
        x : array of float16, bfloat16, float32 or float64
            `backward` reads it again, and the weight: leave both as they are until then.
        out : array like x, optional
            Where to write y; may be x, which leaves nothing for `backward`.
        where : bool array that broadcasts to x's shape, optional
            The elements that are measured, see `numbanorm.layer_norm`. `backward` reads it again.
        residual, return_residual, addend
            As for `numbanorm.layer_norm`; batch and instance norm have no residual. The layer's activation comes last, and then
            `backward` reads y again, too.

        Returns
        -------
        array of x's shape and dtype; with return_residual=True (y, x + residual)

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit; the layer is then as it was.
        """
        space = dispatch.space(x, self.backend)
        x_ = space.array("x", x)
        self._fits(x_.shape)
        x = space.callers(x_)
        with_sum = checks.flag("return_residual", return_residual)
        if residual is None and with_sum:
            raise ValueError("return_residual returns x + residual: got residual=None; pass one, or leave return_residual out")
        if residual is not None and NORMS[self._norm].own:
            raise ValueError(f"residual is for layer, RMS and group norm: got one for {type(self).__name__}; add it to x")
        y, h, gradients = self._forward(x, out, where, len(x_.shape), Around(residual, None, addend))
        overwritten = out is not None and residual is None and space.shares(out, x_)
        self._last = OVERWRITTEN if overwritten else (h, gradients)
        return (y, h) if with_sum else y

    def backward(self, dy: Array, out: Array | None = None, *, dresidual: Array | None = None) -> Any:
        """Gradient of x for the last call, in training or evaluation; `grad` gets those of the parameters.

        Parameters
        ----------
        dy : array of x's shape and dtype
            Gradient of y.
        out : array like x, optional
            Where to write dx; may be dy, or x, which leaves nothing for another `backward`.
        dresidual : array like x, optional
            The gradient of x + residual, where the call returned it.

        Returns
        -------
        array of x's shape and dtype; (dx, gradient of the addend) if the call had one

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit, and where there is no x to take gradients at; `grad` is then as it was.
        """
        if isinstance(self._last, str):
            raise ValueError(f"{type(self).__name__}.backward wants the x of the last call: got {self._last}")
        x, gradients = self._last
        added = {} if dresidual is None else {"dresidual": dresidual}
        if added and NORMS[self._norm].own:
            raise ValueError(f"dresidual is for layer, RMS and group norm: got one for {type(self).__name__}; add it to dx")
        dx, *rest = gradients(dy, out=out, **added)
        if out is not None and dispatch.space(x, self.backend).shares(out, x):
            self._last = OVERWRITTEN
        self.grad = {name: g for name, g in zip(PARAMETERS, rest, strict=False) if g is not None}
        return (dx, rest[-1]) if gradients.keywords.get("return_daddend") else dx

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation; only running statistics make a difference.

        Parameters
        ----------
        mode : bool
            False sets evaluation.

        Returns
        -------
        Self
            The layer itself.

        Raises
        ------
        TypeError
            For a mode that is neither.
        """
        self.training = checks.flag("mode", mode)
        return self

    def eval(self) -> Self:
        """Set evaluation; `train(False)`.

        Returns
        -------
        Self
            The layer itself.
        """
        return self.train(False)

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """Name and array of each parameter.

        Returns
        -------
        iterator of (str, array)
            The arrays themselves, in which an optimizer can write.
        """
        return ((name, array) for name, array in self.state_dict().items() if name in PARAMETERS)

    def parameters(self) -> Iterator[Array]:
        """The array of each parameter.

        Returns
        -------
        iterator of array
        """
        return (array for _, array in self.named_parameters())

    def state_dict(self) -> dict[str, Array]:
        """The layer's arrays by name, in torch's order.

        Returns
        -------
        dict of str to array
            The arrays themselves, as in torch: training goes on in them. `copy.deepcopy` of it keeps a state.
        """
        arrays = ((name, getattr(self, name, None)) for name in INITIAL)
        return {name: array for name, array in arrays if array is not None}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays into those of the layer: its own kind, or torch's as `{k: v.numpy() for k, v in d.items()}`.

        With convention="keras" they may have the names of Keras (gamma, beta, moving_mean, moving_variance) or Flax (scale,
        bias, mean, var).

        Parameters
        ----------
        state_dict : mapping of str to array
            Of any float types; rounded to the layer's. The count of batches may be missing, as from torch before 0.4.1: the
            layer's own stays.
        strict : bool
            Whether the names must be the layer's; if not, those that only one side has are left alone.

        Returns
        -------
        IncompatibleKeys
            (missing_keys, unexpected_keys), two lists.

        Raises
        ------
        TypeError, ValueError
            For names and shapes that are not the layer's, all of them listed; before anything is changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must map names to arrays: got {type(state_dict).__name__}; write layer.state_dict()")
        own, state_dict = self.state_dict(), self._renamed(state_dict)
        missing = [name for name in own if name not in state_dict and name != COUNTER]
        unexpected = [name for name in state_dict if name not in own]
        new = {name: entry(name, state_dict[name]) for name in own if name in state_dict}
        wrong = [f"{name} of shape {a.shape}, not {own[name].shape}" for name, a in new.items() if a.shape != own[name].shape]
        wrong += [f"a read-only {name} in the layer" for name in new if not own[name].flags.writeable]
        names = {"missing": missing, "unexpected": unexpected} if checks.flag("strict", strict) else {}
        wrong += [f"{what} {', '.join(map(str, some))}" for what, some in names.items() if some]
        if wrong:
            raise ValueError(
                f"state_dict must fit {self!r}: got {'; '.join(wrong)}; {self._remedy(unexpected)}"
                f"{', or pass strict=False to leave out names' if any(names.values()) else ''}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large for the layer's dtype is inf there
            rounded = {name: a.astype(own[name].dtype) for name, a in new.items()}  # copies: they may be the layer's own
        for name, a in rounded.items():
            own[name][...] = a
        return IncompatibleKeys(missing, unexpected)

    def _renamed(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arrays by the layer's own names."""
        return state_dict

    def _remedy(self, unexpected: list[str]) -> str:
        """Words for who has arrays of these names, which the layer does not."""
        return "make the layer as the one that was saved"

    def reset_parameters(self) -> None:
        """Fill the layer's arrays, running statistics too, with what they held at first."""
        refill(self.state_dict())
        self._begin()

    def extra_repr(self) -> str:
        """Text that repr shows in brackets: torch's words, then the extra arguments that are not the default.

        Returns
        -------
        str
        """
        text = self._shown.format(**self.__dict__, use_bias=getattr(self, "bias", None) is not None)
        extra = ((name, getattr(self, name, default), default) for name, default in EXTRA.items())
        return ", ".join([text, *(f"{name}={value!r}" for name, value, default in extra if value != default)])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the last call."""
        return {**self.__dict__, "_last": NOT_CALLED}


def float_type(dtype: DTypeLike | None) -> np.dtype[Any]:
    """The dtype of a layer's arrays."""
    try:
        kind = np.dtype(np.float32 if dtype is None else dtype)
    except TypeError:
        kind = np.dtype(object)
    if not checks.is_float(kind):
        raise TypeError(f"dtype must be one of {', '.join(FLOATS)}: got {shown(dtype)}; write np.float32")
    return kind


def affine_parameters(affine: Any, bias: Any) -> dict[str, bool]:
    """Parameters by name, and whether there are such."""
    return {"weight": affine, "bias": checks.flag("bias", bias) and affine}


def entry(name: str, value: Any) -> Array:
    """An array of a state_dict; the count of batches may come as an integer, or as an array of one."""
    if name != COUNTER:
        return checks.array(name, value)
    count = np.array(value)
    checks.counter(count)
    return count.reshape(())


def refill(arrays: Mapping[str, Array]) -> None:
    """Make arrays as they were at first."""
    for name, array in arrays.items():
        array[...] = INITIAL[name]
