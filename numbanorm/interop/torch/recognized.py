"""RMS norms of the library transformers for `convert`: a class is known by the source of its forward pass.

The library, which is not imported here, writes the same few formulas into hundreds of classes. All normalize in float32, and
differ in where they round and in what they multiply by; a text that is not among these is left alone.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .convert import THEIRS, ours_of, register
from .norms import rms_norm

TRANSFORMERS = "transformers."
Formula = Callable[[Any, Tensor, float], Tensor]


def _once(module: Any, x: Tensor, eps: float) -> Tensor:
    """Rounded once, after the weight, if there is one."""
    return rms_norm(x, x.shape[-1:], getattr(module, "weight", None), eps, exact=module.exact)


def _once_centered(module: Any, x: Tensor, eps: float) -> Tensor:
    """Rounded once; the weight is what is added to 1."""
    return rms_norm(x, x.shape[-1:], module.weight, eps, exact=module.exact, weight_offset=1.0)


def _unweighted(module: Any, x: Tensor, eps: float) -> Tensor:
    """Rounded once, whatever weight the module has."""
    return rms_norm(x, x.shape[-1:], None, eps, exact=module.exact)


def _before_weight(module: Any, x: Tensor, eps: float) -> Tensor:
    """Rounded to x's type, and again when torch has multiplied by the weight; of float32 these are one rounding here."""
    if x.dtype.itemsize > 2 and torch.promote_types(x.dtype, module.weight.dtype) == x.dtype:
        return _once(module, x, eps)
    return module.weight * _unweighted(module, x, eps)


def _to_weight(module: Any, x: Tensor, eps: float) -> Tensor:
    """Rounded to the weight's type before it if that is a half type, and not before it otherwise."""
    kind = module.weight.dtype
    if x.dtype != kind:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
    if kind.itemsize == 2:
        return module.weight * _unweighted(module, x, eps).to(kind)
    return _before_weight(module, x, eps)


ONE = """def forward(self, hidden_states):
    input_dtype = hidden_states.dtype
    hidden_states = hidden_states.to(torch.float32)
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
    return """
TWO = """def forward(self, x):
    output = self._norm(x.float())
    output = output * """
NORM = """def _norm(self, x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)"""
T5 = """def forward(self, hidden_states):
    variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
    hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
    if self.weight.dtype in [torch.float16, torch.bfloat16]:
        hidden_states = hidden_states.to(self.weight.dtype)
    return self.weight * hidden_states"""
LLAMA4 = """def forward(self, x):
    output = self._norm(x.float()).type_as(x)
    return output * self.weight"""
L2 = """def forward(self, x):
    return self._norm(x.float()).type_as(x)"""
GEMMA4 = """def forward(self, hidden_states):
    normed_output = self._norm(hidden_states.float())
    if self.with_scale:
        normed_output = normed_output * self.weight.float()
    return normed_output.type_as(hidden_states)"""
GEMMA4_NORM = """def _norm(self, hidden_states):
    mean_squared = hidden_states.pow(2).mean(-1, keepdim=True) + self.eps
    return hidden_states * torch.pow(mean_squared, -0.5)"""
# forward and _norm as transformers has them; how it is computed here, and the attribute that is eps
SOURCES: tuple[tuple[str, str, Formula, str], ...] = (
    (ONE + "self.weight * hidden_states.to(input_dtype)", "", _before_weight, "variance_epsilon"),  # Llama, Mistral, Qwen
    (ONE + "(self.weight * hidden_states).to(input_dtype)", "", _once, "variance_epsilon"),  # Olmo2, GptOss
    (ONE + "(self.weight.to(torch.float32) * hidden_states).to(input_dtype)", "", _once, "variance_epsilon"),  # NemotronH
    (T5, "", _to_weight, "variance_epsilon"),  # T5, MT5, Udop
    (TWO + "(1.0 + self.weight.float())\n    return output.type_as(x)", NORM, _once_centered, "eps"),  # Gemma, Qwen3Next
    (TWO + "self.weight.float()\n    return output.type_as(x)", NORM, _once, "eps"),  # Moshi
    (LLAMA4, NORM, _before_weight, "eps"),  # Llama4Text
    (L2, NORM, _unweighted, "eps"),  # Llama4TextL2Norm, NanoChat
    (GEMMA4, GEMMA4_NORM, _once, "eps"),  # Gemma3n, Gemma4
)


def recognize(theirs: type) -> None:
    """Make and register a class for one of the library's, if its formula is known."""
    if theirs.__module__.startswith(TRANSFORMERS) and "Norm" in theirs.__name__:
        known = _formulas().get(_methods(theirs))
        if known is not None:
            _register(theirs, *known)


@functools.cache
def _formulas() -> dict[tuple[str, str], tuple[Formula, str]]:
    """`SOURCES` as `_methods` gives them."""
    return {(_text(forward), _text(norm)): (formula, eps) for forward, norm, formula, eps in SOURCES}


def _methods(theirs: Any) -> tuple[str, str]:
    """What a class computes, as text: its `forward`, and the `_norm` that some call; empty where none can be read."""
    return _source(getattr(theirs, "forward", None)), _source(getattr(theirs, "_norm", None))


@functools.cache
def _source(method: Any) -> str:
    """Normalized source of a method; empty for what is none, or is wrapped: it may do something else."""
    if not isinstance(method, FunctionType) or hasattr(method, "__wrapped__"):
        return ""
    try:
        return _text(textwrap.dedent(inspect.getsource(method)))
    except (OSError, SyntaxError):
        return ""


def _text(source: str) -> str:
    """A function's source without its comments, docstring and annotations, written in one way."""
    node = next(iter(ast.parse(source).body), None)
    if not isinstance(node, ast.FunctionDef):
        return ""
    node.returns = None
    for argument in node.args.args:
        argument.annotation = None
    if ast.get_docstring(node) is not None:
        node.body = node.body[1:]
    return ast.unparse(node)


def _register(theirs: Any, formula: Formula, eps: str) -> None:
    """Make a subclass that computes by a formula; it has the name of its base, for repr."""

    @functools.wraps(theirs.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        (x,) = *args, *kwargs.values()
        weight = getattr(self, "weight", None)
        if weight is not None and weight.shape != x.shape[-1:]:  # one that is spread out: the library's own
            return theirs.forward(self, x)
        return formula(self, x, getattr(self, eps))

    cls = type(theirs.__name__, (theirs,), {"__doc__": theirs.__doc__, "forward": forward, "__reduce_ex__": _reduce})
    register((cls,), ())


def _reduce(module: Any, protocol: Any) -> tuple[Any, ...]:
    """Pickle a module as the library's class and what it holds: the class here has no place where pickle would find it."""
    held = object.__reduce_ex__(module, 2)[2:]
    return _restored, (THEIRS[type(module)],), *held


def _restored(theirs: Any) -> Any:
    """An empty module for a pickle; the library's own where its source is another, and not known."""
    cls = ours_of(theirs) or theirs
    return cls.__new__(cls)
