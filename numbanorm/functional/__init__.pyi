"""Types of the norms: without return_stats an array, with it (array, Stats).

`tests/contract/test_typing.py` compares the arguments with those of this package.
"""

from typing import Any, Literal, TypeAlias, TypedDict, Unpack, overload

from ..spec.call import Stats as Stats
from ..spec.checks import Array

Optional: TypeAlias = Array | None
Shape: TypeAlias = int | tuple[int, ...]
Both: TypeAlias = tuple[Array, Stats]
Result: TypeAlias = Array | Both
WithSum: TypeAlias = tuple[Array, Array]
All: TypeAlias = tuple[Array, Array, Stats]

class How(TypedDict, total=False):
    """Options that all norms have; only `return_stats` and `return_residual` change what comes back."""

    method: str | None
    exact: bool
    out: Optional
    where: Optional
    fill: float | None
    addend: Optional
    activation: str | tuple[str, float] | None
    weight_offset: float
    backend: str | None

class Summed(How, total=False):
    """Options of norms of x + residual."""

    residual: Optional

class Rows(Summed, total=False):
    """Options of norms over axes that are named."""

    axis: Shape | None

class Channels(How, total=False):
    """Options of norms with channels."""

    channel_axis: int

class OfSamples(Channels, total=False):
    """Options of norms of each sample's channels."""

    batch_axis: int | None

class Running(Channels, total=False):
    """Options of norms with running statistics."""

    num_batches_tracked: Optional
    convention: str

class OfBatch(Running, total=False):
    """Options of batch norm."""

    weights: Optional
    comm: Any

class SummedOfSamples(Summed, OfSamples, total=False):
    """Options of group norm."""

class RunningOfSamples(Running, OfSamples, total=False):
    """Options of instance norm."""

@overload
def layer_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[False] = False,
    return_residual: Literal[False] = False,
    **how: Unpack[Rows],
) -> Array: ...
@overload
def layer_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[True],
    return_residual: Literal[False] = False,
    **how: Unpack[Rows],
) -> Both: ...
@overload
def layer_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[False] = False,
    return_residual: Literal[True],
    **how: Unpack[Rows],
) -> WithSum: ...
@overload
def layer_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[True],
    return_residual: Literal[True],
    **how: Unpack[Rows],
) -> All: ...
@overload
def layer_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: bool = ...,
    return_residual: bool = ...,
    **how: Unpack[Rows],
) -> Result | WithSum | All: ...
@overload
def rms_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    eps: float | None = ...,
    *,
    return_stats: Literal[False] = False,
    return_residual: Literal[False] = False,
    **how: Unpack[Rows],
) -> Array: ...
@overload
def rms_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    eps: float | None = ...,
    *,
    return_stats: Literal[True],
    return_residual: Literal[False] = False,
    **how: Unpack[Rows],
) -> Both: ...
@overload
def rms_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    eps: float | None = ...,
    *,
    return_stats: Literal[False] = False,
    return_residual: Literal[True],
    **how: Unpack[Rows],
) -> WithSum: ...
@overload
def rms_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    eps: float | None = ...,
    *,
    return_stats: Literal[True],
    return_residual: Literal[True],
    **how: Unpack[Rows],
) -> All: ...
@overload
def rms_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Optional = ...,
    eps: float | None = ...,
    *,
    return_stats: bool = ...,
    return_residual: bool = ...,
    **how: Unpack[Rows],
) -> Result | WithSum | All: ...
@overload
def group_norm(
    x: Array,
    num_groups: int,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[False] = False,
    return_residual: Literal[False] = False,
    **how: Unpack[SummedOfSamples],
) -> Array: ...
@overload
def group_norm(
    x: Array,
    num_groups: int,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[True],
    return_residual: Literal[False] = False,
    **how: Unpack[SummedOfSamples],
) -> Both: ...
@overload
def group_norm(
    x: Array,
    num_groups: int,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[False] = False,
    return_residual: Literal[True],
    **how: Unpack[SummedOfSamples],
) -> WithSum: ...
@overload
def group_norm(
    x: Array,
    num_groups: int,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: Literal[True],
    return_residual: Literal[True],
    **how: Unpack[SummedOfSamples],
) -> All: ...
@overload
def group_norm(
    x: Array,
    num_groups: int,
    weight: Optional = ...,
    bias: Optional = ...,
    eps: float = ...,
    *,
    return_stats: bool = ...,
    return_residual: bool = ...,
    **how: Unpack[SummedOfSamples],
) -> Result | WithSum | All: ...
@overload
def instance_norm(
    x: Array,
    running_mean: Optional = ...,
    running_var: Optional = ...,
    weight: Optional = ...,
    bias: Optional = ...,
    use_input_stats: bool = ...,
    momentum: float | None = ...,
    eps: float = ...,
    *,
    return_stats: Literal[False] = False,
    **how: Unpack[RunningOfSamples],
) -> Array: ...
@overload
def instance_norm(
    x: Array,
    running_mean: Optional = ...,
    running_var: Optional = ...,
    weight: Optional = ...,
    bias: Optional = ...,
    use_input_stats: bool = ...,
    momentum: float | None = ...,
    eps: float = ...,
    *,
    return_stats: Literal[True],
    **how: Unpack[RunningOfSamples],
) -> Both: ...
@overload
def instance_norm(
    x: Array,
    running_mean: Optional = ...,
    running_var: Optional = ...,
    weight: Optional = ...,
    bias: Optional = ...,
    use_input_stats: bool = ...,
    momentum: float | None = ...,
    eps: float = ...,
    *,
    return_stats: bool,
    **how: Unpack[RunningOfSamples],
) -> Result: ...
@overload
def batch_norm(
    x: Array,
    running_mean: Optional = ...,
    running_var: Optional = ...,
    weight: Optional = ...,
    bias: Optional = ...,
    training: bool = ...,
    momentum: float | None = ...,
    eps: float = ...,
    *,
    return_stats: Literal[False] = False,
    **how: Unpack[OfBatch],
) -> Array: ...
@overload
def batch_norm(
    x: Array,
    running_mean: Optional = ...,
    running_var: Optional = ...,
    weight: Optional = ...,
    bias: Optional = ...,
    training: bool = ...,
    momentum: float | None = ...,
    eps: float = ...,
    *,
    return_stats: Literal[True],
    **how: Unpack[OfBatch],
) -> Both: ...
@overload
def batch_norm(
    x: Array,
    running_mean: Optional = ...,
    running_var: Optional = ...,
    weight: Optional = ...,
    bias: Optional = ...,
    training: bool = ...,
    momentum: float | None = ...,
    eps: float = ...,
    *,
    return_stats: bool,
    **how: Unpack[OfBatch],
) -> Result: ...
