"""Layer, RMS and group norm as layers."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from ..execute import offset
from ..spec import checks, plan
from ..spec.checks import Array
from .base import Layer, affine_parameters


class GroupNorm(Layer):
    """Group norm of x of shape (N, C, ...); see `numbanorm.group_norm`.

    Parameters
    ----------
    num_groups, num_channels : int
        The groups must divide the channels.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a weight and a bias, of shape (num_channels,).
    dtype : NumPy dtype, optional
        Of the parameters, by default float32; x may be of another.
    bias : bool
        False leaves out the bias.
    channel_axis, batch_axis, method, exact, activation, backend
        As for `numbanorm.group_norm`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> layer = GroupNorm(2, 4, eps=0.0)
    >>> layer(np.array([[1.0, 3.0, 10.0, 30.0]]))
    array([[-1.,  1., -1.,  1.]])
    """

    bias: Array | None
    batch_axis: int | None = 0  # of the class for layers that were pickled when there was no choice
    _norm = "group_norm"
    _shown = "{num_groups}, {num_channels}, eps={eps}, affine={affine}, bias={use_bias}"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        batch_axis: int | None = 0,
        method: str | None = None,
        exact: bool = False,
        activation: str | tuple[str, float] | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(eps, method, exact, backend, activation)
        self.num_groups, self.num_channels = plan.as_int("num_groups", num_groups), plan.as_int("num_channels", num_channels)
        plan.group((1, self.num_channels), self.num_groups, 1)  # raises unless the groups divide the channels
        self.affine, self.batch_axis = checks.flag("affine", affine), batch_axis
        self.channel_axis = plan.channels_at(channel_axis, batch_axis)[0]
        self._hold(affine_parameters(self.affine, bias), (self.num_channels,), dtype)

    def _fits(self, shape: tuple[int, ...]) -> None:
        alone = self.batch_axis is None  # channel_axis is that of x[None] then
        if len(shape) < 2 - alone:
            least = "1 axis, (C, ...)" if alone else "2 axes, (N, C, ...)"
            raise ValueError(f"GroupNorm wants x of at least {least}: got shape {shape}; write x[None]")
        axis = plan.channel_index((1, *shape) if alone else shape, self.channel_axis, 1) - alone
        self._fits_channels(shape, axis, self.num_channels)

    def _batch(self, ndim: int) -> dict[str, Any]:
        return {"batch_axis": self.batch_axis}

    def _arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"num_groups": self.num_groups, "channel_axis": self.channel_axis}, {}


class _Trailing(Layer):
    """Layer and RMS norm."""

    axis: int | tuple[int, ...] | None = None  # of the class for layers that were pickled when there was no choice

    def _over(self, normalized_shape: Any, elementwise_affine: bool) -> None:
        """Take the arguments that both have."""
        self.normalized_shape = plan.as_shape("normalized_shape", normalized_shape)
        plan.trailing(self.normalized_shape, self.normalized_shape)  # raises for ()
        self.elementwise_affine = checks.flag("elementwise_affine", elementwise_affine)

    def _arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        shared: dict[str, Any] = {"normalized_shape": self.normalized_shape}
        return shared if self.axis is None else shared | {"axis": self.axis}, {}


class LayerNorm(_Trailing):
    """Layer norm of x of shape (..., *normalized_shape); see `numbanorm.layer_norm`.

    Parameters
    ----------
    normalized_shape : int, tuple or list of int
        The last axes of x.
    eps : float
        Added to the variance.
    elementwise_affine, bias : bool
        Whether there is a weight, and with it a bias, of shape normalized_shape.
    dtype : NumPy dtype, optional
        Of the parameters, by default float32; x may be of another.
    weight_offset : float
        Added to the weight, which begins at 1 less that.
    axis, method, exact, activation, backend
        As for `numbanorm.layer_norm`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> layer = LayerNorm(2, eps=0.0)
    >>> layer(np.array([[1.0, 3.0], [8.0, 4.0]]))
    array([[-1.,  1.],
           [ 1., -1.]])
    >>> dx = layer.backward(np.array([[1.0, 0.0], [0.0, 2.0]]))
    >>> layer.grad["weight"]
    array([-1., -2.], dtype=float32)
    """

    bias: Array | None
    _norm = "layer_norm"
    _shown = "{normalized_shape}, eps={eps}, elementwise_affine={elementwise_affine}, bias={use_bias}"

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...] | list[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        *,
        weight_offset: float = 0.0,
        axis: int | tuple[int, ...] | None = None,
        method: str | None = None,
        exact: bool = False,
        activation: str | tuple[str, float] | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(eps, method, exact, backend, activation)
        self._over(normalized_shape, elementwise_affine)
        self.weight_offset = offset.checked(weight_offset)
        self.axis = None if axis is None else plan.as_shape("axis", axis)
        self._hold(affine_parameters(self.elementwise_affine, bias), self.normalized_shape, dtype)


class RMSNorm(_Trailing):
    """RMS norm of x of shape (..., *normalized_shape); see `numbanorm.rms_norm`.

    Parameters
    ----------
    normalized_shape : int, tuple or list of int
        The last axes of x.
    eps : float, optional
        Added to the mean square; by default that of `numbanorm.rms_norm`.
    elementwise_affine : bool
        Whether there is a weight, of shape normalized_shape.
    dtype : NumPy dtype, optional
        Of the weight, by default float32; x may be of another.
    weight_offset : float
        Added to the weight, which begins at 1 less that.
    axis, method, exact, activation, backend
        As for `numbanorm.layer_norm`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> layer = RMSNorm(2)
    >>> layer(np.array([[3.0, 4.0]])).round(4)
    array([[0.8485, 1.1314]])
    """

    _norm = "rms_norm"
    _shown = "{normalized_shape}, eps={eps}, elementwise_affine={elementwise_affine}"

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...] | list[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype: DTypeLike | None = None,
        *,
        weight_offset: float = 0.0,
        axis: int | tuple[int, ...] | None = None,
        method: str | None = None,
        exact: bool = False,
        activation: str | tuple[str, float] | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(0.0 if eps is None else eps, method, exact, backend, activation)
        self.eps = eps
        self._over(normalized_shape, elementwise_affine)
        self.weight_offset = offset.checked(weight_offset)
        self.axis = None if axis is None else plan.as_shape("axis", axis)
        self._hold({"weight": self.elementwise_affine}, self.normalized_shape, dtype)
