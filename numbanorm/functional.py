"""The norms as functions. Each checks its arguments, makes a plan and lets a backend run it.

Names, order and defaults are those of torch.nn.functional; everything after `eps` is keyword-only. `x` may be any NumPy
array of float16, bfloat16 (ml_dtypes), float32 or float64. It is read where it lies if it is C-contiguous; any other
layout (Fortran order, strides, unaligned memory, foreign byte order) is copied first. The result is C-contiguous and has
x's dtype, in native byte order.

Arrays on a CUDA device (of CuPy, torch or Numba) are computed where they lie, and their results are arrays of the same
library; all arrays of a call must be there. See docs/cuda.md.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .backends import dispatch
from .spec import blend, checks, plan
from .spec.checks import Array
from .spec.shown import shown

Result: TypeAlias = Any  # an array; with return_stats=True (array, Stats)


class _Pair(NamedTuple):
    mean: Array | None
    rstd: Array


class Stats(_Pair):
    """What a norm measured, in float64: the mean (None for RMS norm) and 1 / sqrt(variance + eps).

    It remembers whether the call had a weight, so that a backward call that was not given one is told.
    """

    weighted: bool = False


def layer_norm(
    x: Array,
    normalized_shape: int | tuple[int, ...],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    method: str = "two_pass",
    out: Array | None = None,
    return_stats: bool = False,
    backend: str | None = None,
) -> Result:
    """Normalize over the last axes: y = (x - mean) / sqrt(var + eps) * weight + bias.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016.

    Parameters
    ----------
    x : array of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        Copied first unless it is C-contiguous.
    normalized_shape : int or tuple of int
        The last axes of x: they share a mean and a (biased) variance.
    weight, bias : array of shape normalized_shape, optional
        Any of x's float types, not necessarily x's own.
    eps : float
        Added to the variance.
    method : {"two_pass", "welford"}
        How the statistics are taken: the mean first and then the squares about it, or with a single pass over x whose
        tiles are merged as in Chan, Golub and LeVeque 1979. Both are exact; welford reads less where x exceeds the cache.
    out : array like x, optional
        Where to write the result; may be x. One that is not C-contiguous costs a copy.
    return_stats : bool
        Also return `Stats(mean, rstd)`, float64 of shape x.shape[:-len(normalized_shape)].
    backend : {None, "cpu", "cuda"}
        None: where x lies. "cuda" carries NumPy arrays to the device and the results back.

    Returns
    -------
    array of x's shape and dtype, C-contiguous; or (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.

    Examples
    --------
    >>> layer_norm(np.array([[1.0, 2.0, 3.0]]), 3, eps=0.0).round(4)
    array([[-1.2247,  0.    ,  1.2247]])
    """
    home = dispatch.home(x, backend)
    x_, with_stats = home.array("x", x), checks.flag("return_stats", return_stats)
    p = plan.trailing(x_.shape, plan.as_shape("normalized_shape", normalized_shape))
    y, stats = _run(p, home, x, x_, weight, bias, checks.eps(eps), out, backend, True, None, method, with_stats)
    return (y, _stats(p, home, stats, weight)) if with_stats else y


def rms_norm(
    x: Array,
    normalized_shape: int | tuple[int, ...],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    method: str = "two_pass",
    out: Array | None = None,
    return_stats: bool = False,
    backend: str | None = None,
) -> Result:
    """Scale the last axes to a root mean square of 1: y = x / sqrt(mean(x**2) + eps) * weight.

    B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019.

    Parameters
    ----------
    x : array of shape (..., *normalized_shape), float16, bfloat16, float32 or float64
        Copied first unless it is C-contiguous.
    normalized_shape : int or tuple of int
        The last axes of x: they share a mean square.
    weight : array of shape normalized_shape, optional
    eps : float, optional
        Added to the mean square; by default the machine epsilon of float32, or float64's for float64: as in torch.
    method, out, return_stats, backend
        As for `layer_norm`; there is no mean to take first, so both methods are one.

    Returns
    -------
    array of x's shape and dtype, C-contiguous; or (array, Stats) with Stats.mean None.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, before anything is computed.
    """
    home = dispatch.home(x, backend)
    x_, with_stats = home.array("x", x), checks.flag("return_stats", return_stats)
    p = plan.trailing(x_.shape, plan.as_shape("normalized_shape", normalized_shape))
    number = _epsilon(x_.dtype) if eps is None else checks.eps_without_bias(eps)
    y, stats = _run(p, home, x, x_, weight, None, number, out, backend, False, None, method, with_stats)
    return (y, _stats(p, home, stats, weight, mean=False)) if with_stats else y


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    method: str = "two_pass",
    out: Array | None = None,
    return_stats: bool = False,
    backend: str | None = None,
) -> Result:
    """Normalize groups of neighbouring channels of each sample: y = (x - mean) / sqrt(var + eps) * weight + bias.

    Y. Wu, K. He, "Group normalization", 2018.

    Parameters
    ----------
    x : array of shape (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64; copied first unless it is C-contiguous.
    num_groups : int
        Divides C. 1 is layer norm over a whole sample, C is instance norm.
    weight, bias : array of shape (C,), optional
    eps : float
        Added to the variance.
    channel_axis : int
        Any axis but 0; -1 reads channels-last arrays as they lie.
    method, out, return_stats, backend
        As for `layer_norm`; the statistics have shape (N, num_groups).

    Returns
    -------
    array of x's shape and dtype, C-contiguous; or (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and (as torch) for a single value in all; before anything is computed.
    """
    home = dispatch.home(x, backend)
    x_, with_stats = home.array("x", x), checks.flag("return_stats", return_stats)
    p = plan.group(x_.shape, plan.as_int("num_groups", num_groups), plan.as_int("channel_axis", channel_axis))
    if p.B * p.count == 1:
        raise ValueError(_one_value("group", x_.shape))
    y, stats = _run(p, home, x, x_, weight, bias, checks.eps(eps), out, backend, True, None, method, with_stats)
    return (y, _stats(p, home, stats, weight)) if with_stats else y


def instance_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    num_batches_tracked: Array | None = None,
    convention: str = "torch",
    method: str = "two_pass",
    out: Array | None = None,
    return_stats: bool = False,
    backend: str | None = None,
) -> Result:
    """Normalize each channel of each sample: y = (x - mean) / sqrt(var + eps) * weight + bias.

    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization: the missing ingredient for fast stylization", 2016.

    Parameters
    ----------
    x : array of shape (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64; copied first unless it is C-contiguous.
    running_mean, running_var : array of shape (C,), optional
        With use_input_stats they are updated in place, with the mean over the samples; without, they normalize.
    weight, bias : array of shape (C,), optional
    use_input_stats : bool
        Whether x's own statistics normalize it.
    momentum, num_batches_tracked, convention
        As for `batch_norm`.
    eps : float
        Added to the variance.
    channel_axis : int
        Any axis but 0; -1 reads channels-last arrays as they lie.
    method, out, return_stats, backend
        As for `layer_norm`; the statistics have shape (N, C).

    Returns
    -------
    array of x's shape and dtype, C-contiguous; or (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel; before anything is computed.
    """
    home = dispatch.home(x, backend)
    x_, with_stats = home.array("x", x), checks.flag("return_stats", return_stats)
    axis = plan.as_int("channel_axis", channel_axis)
    p = plan.instance(x_.shape, axis)
    own = checks.flag("use_input_stats", use_input_stats)
    if own and p.count == 1:
        raise ValueError(_one_value("channel", x_.shape))
    if not with_stats or own:
        at = p if own else plan.batch(x_.shape, axis)
        known = running_mean, running_var, momentum, num_batches_tracked, convention, own
        done = _at_once(at, home, x_, weight, bias, eps, out, backend, method, with_stats, *known)
        if done is not None:
            return (done[0], _stats(p, home, done[1], weight)) if with_stats else done[0]
    numbers = running_mean, running_var, momentum, num_batches_tracked, convention
    tracked = Running(home, *numbers, p.G, own, "use_input_stats=True")
    shared = not own and not (with_stats and home.on_device)  # given statistics, and nothing that would repeat them
    used = plan.batch(x_.shape, axis) if shared else p
    y, stats = _run(used, home, x, x_, weight, bias, checks.eps(eps), out, backend, True, tracked, method, with_stats)
    if own:
        tracked.update(stats, p)
    elif with_stats and shared:
        stats = np.repeat(stats[:, None], p.B, axis=1).reshape(4, -1)
    return (y, _stats(p, home, stats, weight)) if with_stats else y


def batch_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    num_batches_tracked: Array | None = None,
    convention: str = "torch",
    method: str = "two_pass",
    out: Array | None = None,
    return_stats: bool = False,
    backend: str | None = None,
) -> Result:
    """Normalize each channel over the batch: y = (x - mean) / sqrt(var + eps) * weight + bias.

    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Parameters
    ----------
    x : array of shape (N, C), (N, C, ...), or (N, ..., C) with channel_axis=-1
        float16, bfloat16, float32 or float64; copied first unless it is C-contiguous.
    running_mean, running_var : array of shape (C,), optional
        In training they are updated in place (if given); else they are wanted, and normalize.
    weight, bias : array of shape (C,), optional
    training : bool
        Whether the batch's own statistics normalize it.
    momentum : float in [0, 1], or None
        Weight of the batch: running = (1 - momentum) * running + momentum * batch. None averages over all batches
        so far, which num_batches_tracked counts.
    eps : float
        Added to the (biased) variance.
    channel_axis : int
        Any axis; -1 reads channels-last arrays as they lie.
    num_batches_tracked : integer array of one element, optional
        Incremented in place in training.
    convention : {"torch", "keras"}
        Of the running statistics. "keras" (also Flax, ONNX, the d2l book): momentum weighs the *old* value, and the
        running variance is that of the biased batch variance; "torch" takes the unbiased one.
    method, out, return_stats, backend
        As for `layer_norm`; the statistics have shape (C,).

    Returns
    -------
    array of x's shape and dtype, C-contiguous; or (array, Stats).

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for a single value a channel in training; before anything is computed.
    """
    home = dispatch.home(x, backend)
    x_, with_stats = home.array("x", x), checks.flag("return_stats", return_stats)
    p = plan.batch(x_.shape, plan.as_int("channel_axis", channel_axis))
    own = checks.flag("training", training)
    if own and p.count == 1:
        raise ValueError(_one_value("channel", x_.shape))
    numbers = running_mean, running_var, momentum, num_batches_tracked, convention
    done = _at_once(p, home, x_, weight, bias, eps, out, backend, method, with_stats, *numbers, own)
    if done is not None:
        return (done[0], _stats(p, home, done[1], weight)) if with_stats else done[0]
    tracked = Running(home, *numbers, p.G, own, "training=True")
    y, stats = _run(p, home, x, x_, weight, bias, checks.eps(eps), out, backend, True, tracked, method, with_stats)
    if own:
        tracked.update(stats, p)
    return (y, _stats(p, home, stats, weight)) if with_stats else y


class Running:
    """Running statistics: checked on the way in, used or updated on the way out."""

    __slots__ = ("counter", "home", "kept", "mean", "own", "shares", "unbiased", "var")

    def __init__(
        self, home: Any, mean: Any, var: Any, momentum: Any, counter: Any, convention: Any, channels: int, own: bool,
        remedy: str,
    ) -> None:  # fmt: skip
        self.own, self.home = own, home
        self.mean = home.running("running_mean", mean, channels, own)
        self.var = home.running("running_var", var, channels, own)
        share = checks.momentum(momentum)
        self.counter = home.counter(counter)
        self.kept = own and not (self.mean is None and self.counter is None)
        self.unbiased = checks.choice("convention", convention, ("torch", "keras")) == "torch"
        self.shares = blend.of_momentum(share, self.unbiased)
        if not own and (self.mean is None or self.var is None):
            raise ValueError(f"running_mean and running_var must be given to normalize with them: got None; or pass {remedy}")
        if (self.mean is None) is not (self.var is None):
            got = "running_mean=None" if self.mean is None else "running_var=None"
            raise ValueError(f"running_mean and running_var must be given together: got {got}; pass both, or neither")
        if own and self.shares is None and self.counter is None and self.mean is not None:
            raise ValueError("momentum=None averages over all batches and must know their number: got "
                             "num_batches_tracked=None; pass num_batches_tracked=np.array(0) and keep it")  # fmt: skip

    def arrays(self) -> tuple[tuple[str, Any], ...]:
        return (("running_mean", self.mean), ("running_var", self.var), ("num_batches_tracked", self.counter))

    def update(self, stats: Any, p: plan.Plan) -> None:
        """Take in one batch, of any number of samples."""
        if self.kept and p.count and p.B:
            self.home.update(stats, p.B, p.count - self.unbiased, self.mean, self.var, self.counter, self.shares)


def _one_value(what: str, shape: tuple[int, ...]) -> str:
    return f"a variance needs more than one value per {what}: got shape {shape}; use a larger batch, or given statistics"


def _epsilon(dtype: Any) -> float:
    """Machine epsilon of the type that torch computes in: float32, or float64 for its own. float16's own would be as large as
    the mean square of data of standard deviation 0.03."""
    return 2.0**-52 if dtype.itemsize == 8 else 2.0**-23


def _run(
    p: plan.Plan, home: Any, x: Any, x_: Any, weight: Any, bias: Any, eps: float, out: Any, backend: Any, center: bool,
    tracked: Running | None, method: Any, with_stats: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """Check what is left, run, and return y and the statistics (4, B * G). x_: x, its dtype checked."""
    if backend is None and tracked is None:
        done = home.at_once(p, x_, out, weight, bias, eps, center, method, with_stats)
        if done is not None:
            return done  # type: ignore[no-any-return]
    w = home.parameter("weight", weight, p.weight_shape)
    b = home.parameter("bias", bias, p.weight_shape)
    one_read = checks.one_read(method)
    if out is not None:
        running = () if tracked is None else tracked.arrays()
        home.output(out, x_, (("x", x), ("weight", weight), ("bias", bias), *running))
    if tracked is not None and tracked.own:
        home.apart(tracked.arrays(), (("x", x), ("weight", weight), ("bias", bias)))
    has_given = tracked is not None and not tracked.own
    if isinstance(backend, dispatch.Explaining):
        backend.tell(home, p, x_, center, has_given, one_read, w is not None or b is not None)
    module, source = home.module(), home.contiguous(x_)
    if home.on_device:
        w, b = home.ready(w, b)
    given = home.given(tracked.mean, tracked.var) if has_given and tracked is not None else None
    y = home.destination(out, x_, source)
    if p.size:
        stats = module.normalize(p, source, y, w, b, eps, center, given, one_read)
    else:
        stats = _of_nothing(p, home, eps, module, given)
    return home.written(out, y), stats


def _at_once(
    p: plan.Plan, home: Any, x: Any, weight: Any, bias: Any, eps: Any, out: Any, backend: Any, method: Any, with_stats: bool,
    mean: Any, var: Any, momentum: Any, counter: Any, convention: Any, own: bool,
) -> Any:  # fmt: skip
    """Fast path for calls with running statistics; None if the full checks are needed."""
    if backend is not None or counter is not None or convention.__class__ is not str or convention != "torch":
        return None
    if momentum.__class__ is not float or not 0.0 <= momentum <= 1.0:
        return None
    if (mean is None) is not (var is None) or not (own or mean is not None):
        return None
    shares = blend.of_momentum(momentum) if own else None
    return home.at_once(p, x, out, weight, bias, checks.eps(eps), True, method, with_stats, mean, var, shares)


def _of_nothing(p: plan.Plan, home: Any, eps: float, module: Any, given: tuple[Any, Any] | None) -> Any:
    """Statistics of an empty x: those that were given, or nan."""
    if given is None or p.B * p.G == 0:
        return home.full((4, p.B * p.G), math.nan)
    one = plan.Plan(p.B, 1, p.G, 1, 1, p.stats_shape, p.weight_shape)
    x = home.full((p.B * p.G,), 0.0)
    return module.normalize(one, x, x, None, None, eps, True, given, False)


def _stats(p: plan.Plan, home: Any, stats: Any, weight: Any, mean: bool = True) -> Stats:
    measured = Stats(home.row(stats, 0, p.stats_shape) if mean else None, home.row(stats, 3, p.stats_shape))
    measured.weighted = weight is not None
    return measured


def explain(function: Any, *args: Any, **kwargs: Any) -> str:
    """Say which kernel a call would run, and why; nothing is computed or changed.

    Parameters
    ----------
    function : one of the norms, or a functools.partial of one
    *args, **kwargs
        The call's arguments.

    Returns
    -------
    str

    Examples
    --------
    >>> print(explain(layer_norm, np.zeros((8, 16), np.float32), 16))  # doctest: +ELLIPSIS
    cpu, family runs, 1 of ... threads: runs of 16 contiguous elements, 1 a group, 8 groups; ...
    """
    asking = dispatch.Explaining(kwargs.pop("backend", None))
    try:
        if takes_backend(function):
            function(*args, **kwargs, backend=asking)
    except dispatch.Explained as told:
        return str(told)
    raise TypeError(f"explain wants one of the norms: got {shown(function)}; write explain(layer_norm, x, 768)")


def takes_backend(function: Any) -> bool:
    """Whether a function may be a norm, or one that wraps a norm."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not callable, or built in
        return False
    return "backend" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
