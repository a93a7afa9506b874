"""The table of norms: what tells one from another. Torch's operators, compiling ahead and the command line read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from . import plan
from .plan import Plan, Shape


class Norm(NamedTuple):
    """A norm, by the arguments that its forward and backward functions share."""

    planned: Callable[[Shape, Sequence[int], int], Plan]  # of x's shape, what `sized` says, and the axis of the channels
    sized: str = ""  # the argument that says which axes, or how many groups
    channels: bool = True  # whether it has `channel_axis`
    own: str = ""  # the flag that x's own statistics normalize it; without, they always do
    center: bool = True  # whether a mean is subtracted, and a bias added
    several: str = ""  # "channel" or "group": of what one value alone has no variance, and is refused

    def plan_of(self, shape: Shape, size: Sequence[int], channel_axis: int, batched: bool = True) -> Plan:
        """The plan for x of this shape; one sample alone is seen as a batch of one, whose axis its statistics do not have."""
        if batched:
            return self.planned(shape, size, channel_axis)
        p = self.planned((1, *shape), size, channel_axis)
        return replace(p, stats_shape=p.stats_shape[1:])

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what it multiplies with and adds."""
        return ("weight", "bias") if self.center else ("weight",)

    def which(self, size: Any, channel_axis: int) -> tuple[Shape, int]:
        """What says which axes share a mean, as calls are looked up by it."""
        if type(size) is not tuple or len(size) != 1 or type(size[0]) is not int:  # what most are
            size = plan.as_shape(self.sized, size) if self.sized else ()
        return size, channel_axis if self.channels else 0

    def options(self, size: Sequence[int], own: bool, channel_axis: int) -> dict[str, Any]:
        """The shared arguments, by name."""
        options: dict[str, Any] = {}
        if self.sized:
            options[self.sized] = tuple(size) if self.sized == "normalized_shape" else size[0]
        if self.channels:
            options["channel_axis"] = channel_axis
        return options | ({self.own: own} if self.own else {})


NORMS = {
    "layer_norm": Norm(lambda shape, size, _: plan.trailing(shape, tuple(size)), "normalized_shape", channels=False),
    "rms_norm": Norm(
        lambda shape, size, _: plan.trailing(shape, tuple(size)), "normalized_shape", channels=False, center=False
    ),
    "batch_norm": Norm(lambda shape, _, axis: plan.batch(shape, axis), own="training", several="channel"),
    "instance_norm": Norm(lambda shape, _, axis: plan.instance(shape, axis), own="use_input_stats", several="channel"),
    "group_norm": Norm(lambda shape, size, axis: plan.group(shape, size[0], axis), "num_groups", several="group"),
}
