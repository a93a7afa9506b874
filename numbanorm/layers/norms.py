"""The norms as layers with state: torch.nn's constructor arguments, attributes and state_dict, on NumPy arrays.

    y = (x - mean) / sqrt(var + eps) * weight + bias        (RMS norm: x / sqrt(mean(x**2) + eps) * weight)

A layer keeps parameters and running statistics and hands them to the functions of `functional` and `gradients`, which say
what is computed: the bits are theirs.

    y = layer(x)
    dx = layer.backward(dy)
    layer.weight -= rate * layer.grad["weight"]

There is no tape. `backward` is that of the layer's last call; what it needs (x itself, not a copy, and the statistics) is
kept until the next one. In evaluation mode a call changes nothing else, so many threads may share a layer; whose call was
the last is then a matter of chance, so `backward` is for a layer that one thread uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import DTypeLike

from ..backends import dispatch
from ..spec import checks, plan
from ..spec.checks import Array
from .base import COUNTER, PARAMETERS, RUNNING, Gradients, IncompatibleKeys, Layer, affine_parameters, refill


class _Tracking(Layer):
    """Batch and instance norm: the layers that have running statistics."""

    bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None
    _shown = (
        "{num_features}, eps={eps}, momentum={momentum}, affine={affine}, bias={use_bias}, "
        "track_running_stats={track_running_stats}"
    )
    _axes: ClassVar[tuple[str, ...]]  # of x, a letter each, for channel_axis=1
    _own: ClassVar[str]  # the functions' name for the flag that x's own statistics normalize it

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        convention: str = "torch",
        method: str = "two_pass",
        backend: str | None = None,
    ) -> None:
        """Make the layer.

        Parameters
        ----------
        num_features : int
            Channels of x.
        eps : float
            Added to the variance.
        momentum : float in [0, 1], or None
            Weight of a batch in the running statistics; None averages over all batches so far.
        affine, bias : bool
            Whether there is a weight, and with it a bias, of shape (num_features,).
        track_running_stats : bool
            Whether there are running statistics: training updates them, and evaluation normalizes with them. Without, x's
            own statistics normalize it in evaluation too.
        dtype : NumPy dtype, optional
            Of parameters and running statistics, by default float32; x may be of another.
        channel_axis, convention, method, backend
            As for `numbanorm.batch_norm`.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit.
        """
        super().__init__(eps, method, backend)
        checks.momentum(momentum)
        self.num_features, self.momentum = plan.as_int("num_features", num_features), momentum
        self.affine = checks.flag("affine", affine)
        self.track_running_stats = checks.flag("track_running_stats", track_running_stats)
        self.channel_axis = plan.as_int("channel_axis", channel_axis)
        self.convention = checks.choice("convention", convention, ("torch", "keras"))
        tracked = dict.fromkeys((*RUNNING, COUNTER), self.track_running_stats)
        self._hold(affine_parameters(self.affine, bias) | tracked, (self.num_features,), dtype)

    def reset_running_stats(self) -> None:
        """Fill the running statistics and the count of batches with what they held at first."""
        refill({name: array for name, array in self.state_dict().items() if name not in PARAMETERS})

    def _fits(self, shape: tuple[int, ...]) -> None:
        axes = next((axes for axes in self._axes if len(axes) == len(shape)), None)
        if axes is None:
            count = " or ".join(str(len(axes)) for axes in self._axes)
            names = " or ".join(_named(axes, self.channel_axis) for axes in self._axes)
            raise ValueError(
                f"{type(self).__name__} wants x of {count} axes, {names}: got shape {shape}; "
                f"reshape x, or take another of the 1d, 2d and 3d layers"
            )
        alone = "N" not in axes  # channel_axis is that of x[None] then
        axis = plan.channel_index((1, *shape) if alone else shape, self.channel_axis, int(alone)) - alone
        self._fits_channels(shape, axis, self.num_features)

    def _uses_own(self) -> bool:
        """Whether x's own statistics normalize it."""
        raise NotImplementedError

    def _counter(self) -> Array | None:
        """Counter of batches in training."""
        return self.num_batches_tracked

    def _arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        own, averages = self._uses_own(), self.momentum is not None or self._counter() is not None
        updated = self.training and self.track_running_stats and averages  # over no number of batches: left alone, as in torch
        mean, var = (self.running_mean, self.running_var) if updated or not own else (None, None)
        tracked = {"running_mean": mean, "running_var": var, COUNTER: self._counter() if updated else None}
        shared = {"channel_axis": self.channel_axis, self._own: own}
        return shared, {"momentum": self.momentum, "convention": self.convention, **tracked}


def _named(axes: str, channel_axis: int) -> str:
    """'NCHW' with the channels where they are, as (N, H, W, C)."""
    names = [name for name in "N" + axes.lstrip("N") if name != "C"]
    names.insert(channel_axis % (len(names) + 1), "C")
    return f"({', '.join(name for name in names if name in axes)})"


class _BatchNorm(_Tracking):
    """See `numbanorm.batch_norm`."""

    _norm, _own = "batch_norm", "training"

    def _uses_own(self) -> bool:
        return self.training or (self.running_mean is None and self.running_var is None)


class BatchNorm1d(_BatchNorm):
    """Batch norm of x of shape (N, C) or (N, C, L); see `numbanorm.batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchNorm1d(2)
    >>> layer(np.array([[1.0, 10.0], [3.0, 30.0]])).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean, layer.num_batches_tracked
    (array([0.2, 2. ], dtype=float32), array(1))
    >>> layer.eval()
    BatchNorm1d(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    _axes = ("NC", "NCL")


class BatchNorm2d(_BatchNorm):
    """Batch norm of x of shape (N, C, H, W); see `numbanorm.batch_norm`."""

    _axes = ("NCHW",)


class BatchNorm3d(_BatchNorm):
    """Batch norm of x of shape (N, C, D, H, W); see `numbanorm.batch_norm`."""

    _axes = ("NCDHW",)


class _InstanceNorm(_Tracking):
    """See `numbanorm.instance_norm`.

    Two things are not as in torch. A wrong number of channels is always an error; torch only warns where there are no
    parameters. momentum=None averages over all batches; torch takes it for 0, so the running statistics never move. With
    any other momentum batches are not counted, as in torch.
    """

    _norm, _own = "instance_norm", "use_input_stats"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        convention: str = "torch",
        method: str = "two_pass",
        backend: str | None = None,
    ) -> None:
        """Make the layer; the arguments are those of `BatchNorm1d`, with other defaults."""
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, dtype, bias=bias, channel_axis=channel_axis,
            convention=convention, method=method, backend=backend,
        )  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """As for any layer, but running statistics are an error for one that has none, even with strict=False, as in torch."""
        if not self.track_running_stats and isinstance(state_dict, Mapping) and any(name in state_dict for name in RUNNING):
            raise ValueError(
                f"state_dict must have no running statistics for {self!r}: got {', '.join(map(str, state_dict))}; leave "
                f"running_mean and running_var out, or make the layer with track_running_stats=True"
            )
        return super().load_state_dict(state_dict, strict)

    def _uses_own(self) -> bool:
        return self.training or not self.track_running_stats

    def _counter(self) -> Array | None:
        return self.num_batches_tracked if self.momentum is None else None

    def _forward(self, x: Array, out: Array | None) -> tuple[Array, Gradients]:
        if x.ndim == len(self._axes[-1]):
            return super()._forward(x, out)

        space = dispatch.space(x, self.backend)
        x_ = space.array("x", x)

        def batched(out: Array | None) -> Array | None:
            if out is not None:
                space.output(out, x_, ())
            return None if out is None else out[None]

        y, of_batch = super()._forward(x[None], batched(out))

        def gradients(dy: Array, out: Array | None) -> tuple[Array | None, ...]:
            dx, *rest = of_batch(space.callers(space.like("dy", dy, x_))[None], out=batched(out))
            return (dx[0] if out is None else out, *rest)

        return (y[0] if out is None else out), gradients


class InstanceNorm1d(_InstanceNorm):
    """Instance norm of x of shape (N, C, L), or a sample (C, L); see `numbanorm.instance_norm`."""

    _axes = ("CL", "NCL")


class InstanceNorm2d(_InstanceNorm):
    """Instance norm of x of shape (N, C, H, W), or a sample (C, H, W); see `numbanorm.instance_norm`."""

    _axes = ("CHW", "NCHW")


class InstanceNorm3d(_InstanceNorm):
    """Instance norm of x of shape (N, C, D, H, W), or a sample (C, D, H, W); see `numbanorm.instance_norm`."""

    _axes = ("CDHW", "NCDHW")


class GroupNorm(Layer):
    """Group norm of x of shape (N, C, ...); see `numbanorm.group_norm`.

    Parameters
    ----------
    num_groups, num_channels : int
        The groups must divide the channels.
    eps : float
        Added to the variance.
    affine, bias : bool
        Whether there is a weight, and with it a bias, of shape (num_channels,).
    dtype : NumPy dtype, optional
        Of the parameters, by default float32; x may be of another.
    channel_axis, method, backend
        As for `numbanorm.group_norm`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
    """

    bias: Array | None
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
        method: str = "two_pass",
        backend: str | None = None,
    ) -> None:
        super().__init__(eps, method, backend)
        self.num_groups, self.num_channels = plan.as_int("num_groups", num_groups), plan.as_int("num_channels", num_channels)
        plan.group((1, self.num_channels), self.num_groups, 1)  # raises unless the groups divide the channels
        self.affine, self.channel_axis = checks.flag("affine", affine), plan.as_int("channel_axis", channel_axis)
        self._hold(affine_parameters(self.affine, bias), (self.num_channels,), dtype)

    def _fits(self, shape: tuple[int, ...]) -> None:
        if len(shape) < 2:
            raise ValueError(f"GroupNorm wants x of at least 2 axes, (N, C, ...): got shape {shape}; write x[None]")
        self._fits_channels(shape, plan.channel_index(shape, self.channel_axis, 1), self.num_channels)

    def _arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"num_groups": self.num_groups, "channel_axis": self.channel_axis}, {}


class _Trailing(Layer):
    """Layer and RMS norm."""

    def _over(self, normalized_shape: Any, elementwise_affine: bool) -> None:
        """Take the arguments that both have."""
        self.normalized_shape = plan.as_shape("normalized_shape", normalized_shape)
        plan.trailing(self.normalized_shape, self.normalized_shape)  # raises for ()
        self.elementwise_affine = checks.flag("elementwise_affine", elementwise_affine)

    def _arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"normalized_shape": self.normalized_shape}, {}


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
    method, backend
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
        method: str = "two_pass",
        backend: str | None = None,
    ) -> None:
        super().__init__(eps, method, backend)
        self._over(normalized_shape, elementwise_affine)
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
    method, backend
        As for `numbanorm.layer_norm`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
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
        method: str = "two_pass",
        backend: str | None = None,
    ) -> None:
        super().__init__(0.0 if eps is None else eps, method, backend)
        self.eps = eps
        self._over(normalized_shape, elementwise_affine)
        self._hold({"weight": self.elementwise_affine}, self.normalized_shape, dtype)
