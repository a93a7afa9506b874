"""`convert` and `revert`, and what the modules of `numbanorm.interop.torch` do where torch has to see through them.

Those modules are told by `register`; what is imported here must not import them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...spec import checks

OURS: dict[type, Any] = {}
THEIRS: dict[type, Any] = {}
RECOGNIZERS: list[Callable[[type], None]] = []  # asked for classes that are in neither: each may register one
# what a TransformerEncoderLayer asks before torch computes it, its norms included, by one operator from the parameters
FUSES = "activation_relu_or_gelu"
SAVED = "_numbanorm_saved_activation"


def convert(module: torch.nn.Module, exact: bool = False) -> torch.nn.Module:
    """Let the norm layers of a model compute with numbanorm.

    The layers stay the objects that they are, with their parameters, buffers, hooks and modes; only their class is another.

    Parameters
    ----------
    module : torch.nn.Module
        A model, changed in place, or a single norm layer. These are converted, wherever they are: layers whose class is exactly
        torch's BatchNorm1d/2d/3d, InstanceNorm1d/2d/3d, LayerNorm, GroupNorm or RMSNorm; RMS norms of the library
        transformers whose forward is one that is known (LlamaRMSNorm, T5LayerNorm, GemmaRMSNorm and those that compute as
        they do, with their roundings); and timm's BatchNormAct2d and GroupNormAct. Others are left alone, and `report`
        lists them: subclasses of yours, layers whose forward was replaced on the instance, parametrized layers,
        SyncBatchNorm, and lazy layers (convert after the first call). A TransformerEncoderLayer with converted norms is no
        longer computed by torch's one operator for evaluation, which would not call them.
    exact : bool
        As for `numbanorm.layer_norm`: the `exact` of the layers that are converted. True also sets that of layers which were
        converted before.

    Returns
    -------
    torch.nn.Module
        `module` itself.

    Raises
    ------
    TypeError
        For an `exact` that is no bool; the model is then as it was.

    Examples
    --------
    >>> import torch
    >>> from numbanorm.interop.torch import LayerNorm, convert
    >>> model = convert(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.LayerNorm(4)))
    >>> isinstance(model[1], LayerNorm)
    True
    """
    exact = checks.flag("exact", exact)
    for m in module.modules():
        if "forward" not in vars(m):
            m.__class__ = ours_of(type(m)) or type(m)
            if exact and type(m) in THEIRS:
                m.exact = True
    for m in module.modules():
        if any(isinstance(norm, tuple(THEIRS)) for norm in fused_norms(m)):
            setattr(m, SAVED, getattr(m, FUSES))
            setattr(m, FUSES, 0)
    return module


def revert(module: torch.nn.Module) -> torch.nn.Module:
    """Undo `convert`.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place: layers of this module's classes get the class again that they had. From one that was parametrized
        since, take the parametrizations first.

    Returns
    -------
    torch.nn.Module
        `module` itself.

    Examples
    --------
    >>> import torch
    >>> from numbanorm.interop.torch import convert, revert
    >>> layer = revert(convert(torch.nn.LayerNorm(4)))
    >>> type(layer) is torch.nn.LayerNorm
    True
    """
    for m in module.modules():
        if type(m) in THEIRS:
            m.__class__ = THEIRS[type(m)]
            vars(m).pop("exact", None)
        if SAVED in vars(m):
            setattr(m, FUSES, getattr(m, SAVED))
            delattr(m, SAVED)
    return module


def ours_of(theirs: type) -> Any:
    """The class of numbanorm's that stands for this one; None for what is not converted."""
    if theirs not in OURS and theirs not in THEIRS:
        for recognize in RECOGNIZERS:
            recognize(theirs)
    return OURS.get(theirs)


def fused_norms(m: Any) -> tuple[Any, ...]:
    """The norms that torch may compute without a call of them, because this module asks for it."""
    if isinstance(m, torch.nn.TransformerEncoderLayer) and getattr(m, FUSES, False):
        return getattr(m, "norm1", None), getattr(m, "norm2", None)
    return ()


def register(classes: Iterable[type], functions: Iterable[Any]) -> None:
    """Make modules `convert`'s: each stands for the last of its bases. Functions only learn what to tell TorchScript."""
    for f in functions:
        f.__prepare_scriptable__ = functools.partial(_refuse_to_script, f.__name__, f"torch.nn.functional.{f.__name__}")
    for cls in classes:
        theirs = cls.__bases__[-1]
        OURS[theirs], THEIRS[cls] = cls, theirs
        for name in ("forward", "_apply_instance_norm"):  # of InstanceNorm, torch's forward calls the second
            if hasattr(cls, name):
                setattr(cls, name, _forward(getattr(cls, name), getattr(theirs, name)))
        constructor = _constructor(theirs)
        cls.__init__, cls.exact, cls.extra_repr = constructor, False, _extra_repr(theirs)  # type: ignore[misc,attr-defined]
        refuse = functools.partial(_refuse_to_script, cls.__name__, "torch.jit.script(revert(model))")
        cls.__prepare_scriptable__ = staticmethod(refuse)  # type: ignore[attr-defined]


def _constructor(theirs: Any) -> Callable[..., None]:
    """torch's constructor, and `exact` by name."""

    @functools.wraps(theirs.__init__)
    def __init__(self: Any, *args: Any, exact: bool = False, **kwargs: Any) -> None:
        theirs.__init__(self, *args, **kwargs)
        if checks.flag("exact", exact):
            self.exact = True

    signature, flag = (
        inspect.signature(theirs.__init__),
        inspect.Parameter("exact", inspect.Parameter.KEYWORD_ONLY, default=False),
    )
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), flag])  # type: ignore[attr-defined]
    return __init__


def _extra_repr(theirs: Any) -> Callable[[Any], str]:
    """torch's words, if there are any, and `exact` where it is set."""

    def extra_repr(self: Any) -> str:
        return ", ".join(filter(None, (str(theirs.extra_repr(self)), "exact=True" * self.exact)))

    return extra_repr


def _forward(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    """`ours`; torch's where torch has to see it; and for torch.fx a module whose inside is not traced, as torch's are."""

    @functools.wraps(ours)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        for x in (*args, *kwargs.values()):
            if isinstance(x, Tensor):
                if x.is_nested:
                    if len(args) + len(kwargs) > 1:
                        raise ValueError(
                            "where must be None for a nested tensor, whose parts have no padding: got a mask; leave it out"
                        )
                    return _nested(ours, theirs, self, x)
            elif isinstance(x, torch.fx.Proxy):
                return _traced(ours, self, x.tracer, args, kwargs)
        if _per_sample(self) or _in_onnx_export():
            return theirs(self, *args, **kwargs)
        return ours(self, *args, **kwargs)

    return forward


def leaf(ours: Callable[..., Any]) -> Callable[..., Any]:
    """A forward whose inside torch.fx does not trace, of a module that convert does not make."""

    @functools.wraps(ours)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        for x in (*args, *kwargs.values()):
            if isinstance(x, torch.fx.Proxy):
                return _traced(ours, self, x.tracer, args, kwargs)
        return ours(self, *args, **kwargs)

    return forward


def _traced(ours: Callable[..., Any], module: Any, tracer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call of the module in the graph, or of `ours` where the tracer does not find the module."""
    path = _path(module, tracer)
    return tracer.create_proxy("call_module", path, args, kwargs) if path else ours(module, *args, **kwargs)


def _nested(ours: Callable[..., Any], theirs: Callable[..., Any], module: Any, x: Any) -> Any:
    """One call for all parts of a nested tensor, as TransformerEncoder makes them; torch's forward for other kinds."""
    shape = getattr(module, "normalized_shape", ())
    parts = x.unbind() if shape and x.layout == torch.strided else ()
    if not parts or any(p.shape[p.dim() - len(shape) :] != shape for p in parts):
        return theirs(module, x)
    rows = [p.reshape(-1, *shape) for p in parts]
    y = ours(module, torch.cat(rows)).split([len(r) for r in rows])
    return torch.nested.as_nested_tensor([piece.reshape(p.shape) for piece, p in zip(y, parts, strict=True)])


def _path(module: Any, tracer: Any) -> str:
    """Path by which torch.fx finds a module; empty if it is traced itself."""
    return str(tracer.path_of_module(module)) if isinstance(tracer, torch.fx.Tracer) else ""


def _per_sample(module: Any) -> bool:
    """Whether torch's per-sample gradients stand in for the parameters. By name: what defines them is dear to import."""
    for p in module._parameters.values():  # noqa: SIM110 - a generator would take 0.3 us more
        if type(p).__name__ == "ExpandedWeight":
            return True
    return False


def _in_onnx_export() -> bool:
    """Whether torch.onnx.export is at work, which knows no operators but torch's. What costs least is asked first."""
    return bool((torch.compiler.is_exporting() or torch._C._get_tracing_state()) and torch.onnx.is_in_onnx_export())


def _refuse_to_script(name: str, remedy: str) -> Any:
    """Say what TorchScript would not say: its compiler reads Python, and stops deep in what it cannot."""
    raise TypeError(f"torch.jit.script must be given torch's own norms: got numbanorm's {name}; write {remedy}")
