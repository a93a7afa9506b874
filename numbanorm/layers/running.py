"""Batch and instance norm as layers: those that have running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import DTypeLike

from ..spec import checks, plan
from ..spec.checks import Array
from ..spec.norms import NORMS
from .base import COUNTER, KERAS, PARAMETERS, RUNNING, IncompatibleKeys, Layer, affine_parameters, refill


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
    comm: Any = None  # of the class for layers that were pickled when there was none
    _axes: ClassVar[tuple[str, ...]]  # of x, a letter each, for channel_axis=1

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
        method: str | None = None,
        exact: bool = False,
        activation: str | tuple[str, float] | None = None,
        backend: str | None = None,
        comm: Any = None,
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
        affine : bool
            Whether there are a weight and a bias, of shape (num_features,).
        track_running_stats : bool
            Whether there are running statistics: training updates them, and evaluation normalizes with them. Without, x's
            own statistics normalize it in evaluation too.
        dtype : NumPy dtype, optional
            Of parameters and running statistics, by default float32; x may be of another.
        bias : bool
            False leaves out the bias.
        channel_axis, convention, method, exact, activation, backend
            As for `numbanorm.batch_norm`.
        comm : communicator, optional
            Of batch norm, as for `numbanorm.batch_norm`: the processes whose batches are one. It may be set later, too. A
            pickle has it, if it is one that can be pickled.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit.
        """
        super().__init__(eps, method, exact, backend, activation)
        checks.momentum(momentum)
        if comm is not None:
            self.comm = comm
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

    def _renamed(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.convention != "keras":
            return state_dict
        renamed = {KERAS.get(name, name): array for name, array in state_dict.items()}
        return renamed if len(renamed) == len(state_dict) else state_dict  # two for one array: neither is taken

    def _remedy(self, unexpected: list[str]) -> str:
        if self.convention != "keras" and any(name in KERAS for name in unexpected):
            return "make the layer with convention='keras', which knows these names of Keras and Flax"
        return super()._remedy(unexpected)

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
        shared = {"channel_axis": self.channel_axis, NORMS[self._norm].own: own}
        if self.comm is not None:
            shared["comm"] = self.comm
        return shared, {"momentum": self.momentum, "convention": self.convention, **tracked}


def _named(axes: str, channel_axis: int) -> str:
    """'NCHW' with the channels where they are, as (N, H, W, C)."""
    names = [name for name in "N" + axes.lstrip("N") if name != "C"]
    names.insert(channel_axis % (len(names) + 1), "C")
    return f"({', '.join(name for name in names if name in axes)})"


class _BatchNorm(_Tracking):
    """See `numbanorm.batch_norm`."""

    _norm = "batch_norm"

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
    """Batch norm of x of shape (N, C, H, W); see `numbanorm.batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchNorm2d(3)
    >>> y = layer(np.arange(384.0).reshape(8, 3, 4, 4))
    >>> y.shape, bool(abs(y.mean()) < 1e-6)
    ((8, 3, 4, 4), True)
    """

    _axes = ("NCHW",)


class BatchNorm3d(_BatchNorm):
    """Batch norm of x of shape (N, C, D, H, W); see `numbanorm.batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchNorm3d(3)
    >>> y = layer(np.arange(768.0).reshape(8, 3, 4, 4, 2))
    >>> y.shape, bool(abs(y.mean()) < 1e-6)
    ((8, 3, 4, 4, 2), True)
    """

    _axes = ("NCDHW",)


class _InstanceNorm(_Tracking):
    """See `numbanorm.instance_norm`.

    Two things are not as in torch. A wrong number of channels is always an error; torch only warns where there are no
    parameters. momentum=None averages over all batches; torch takes it for 0, so the running statistics never move. With
    any other momentum batches are not counted, as in torch.
    """

    _norm = "instance_norm"

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
        method: str | None = None,
        exact: bool = False,
        activation: str | tuple[str, float] | None = None,
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
        affine : bool
            Whether there are a weight and a bias, of shape (num_features,).
        track_running_stats : bool
            Whether there are running statistics: training updates them, and evaluation normalizes with them.
        dtype : NumPy dtype, optional
            Of parameters and running statistics, by default float32; x may be of another.
        bias : bool
            False leaves out the bias.
        channel_axis, convention, method, exact, activation, backend
            As for `numbanorm.instance_norm`.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit.
        """
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, dtype, bias=bias, channel_axis=channel_axis,
            convention=convention, method=method, exact=exact, activation=activation,
            backend=backend,
        )  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays into those of the layer: its own kind, torch's, or those of Keras and Flax, as `BatchNorm1d` does.

        Running statistics are an error for a layer that has none, even with strict=False, as in torch.

        Parameters
        ----------
        state_dict : mapping of str to array
            Of any float types; rounded to the layer's.
        strict : bool
            Whether the names must be the layer's; if not, those that only one side has are left alone.

        Returns
        -------
        IncompatibleKeys
            (missing_keys, unexpected_keys), two lists.

        Raises
        ------
        TypeError, ValueError
            For names and shapes that are not the layer's; before anything is changed.
        """
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

    def _batch(self, ndim: int) -> dict[str, Any]:
        return {"batch_axis": 0 if ndim == len(self._axes[-1]) else None}


class InstanceNorm1d(_InstanceNorm):
    """Instance norm of x of shape (N, C, L), or a sample (C, L); see `numbanorm.instance_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = InstanceNorm1d(3)
    >>> y = layer(np.arange(96.0).reshape(8, 3, 4))
    >>> y.shape, bool(abs(y.mean()) < 1e-6)
    ((8, 3, 4), True)
    """

    _axes = ("CL", "NCL")


class InstanceNorm2d(_InstanceNorm):
    """Instance norm of x of shape (N, C, H, W), or a sample (C, H, W); see `numbanorm.instance_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = InstanceNorm2d(3)
    >>> y = layer(np.arange(384.0).reshape(8, 3, 4, 4))
    >>> y.shape, bool(abs(y.mean()) < 1e-6)
    ((8, 3, 4, 4), True)
    """

    _axes = ("CHW", "NCHW")


class InstanceNorm3d(_InstanceNorm):
    """Instance norm of x of shape (N, C, D, H, W), or a sample (C, D, H, W); see `numbanorm.instance_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = InstanceNorm3d(3)
    >>> y = layer(np.arange(768.0).reshape(8, 3, 4, 4, 2))
    >>> y.shape, bool(abs(y.mean()) < 1e-6)
    ((8, 3, 4, 4, 2), True)
    """

    _axes = ("CDHW", "NCDHW")
