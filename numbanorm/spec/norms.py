"""The table of norms: what tells one from another. Torch's operators, compiling ahead and the command line read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what it multiplies with and adds."""
        return ("weight", "bias") if self.center else ("weight",)

    def options(self, size: Sequence[int], own: bool, channel_axis: int) -> dict[str, Any]:
        """The shared arguments, by name."""
        options: dict[str, Any] = {}
        if self.sized:
            options[self.sized] = tuple(size) if self.sized == "normalized_shape" else size[0]
        if self.channels:
            options["channel_axis"] = channel_axis
        return options | ({self.own: own} if self.own else {})


# plans are made anew here, for torch's symbolic sizes cannot be looked up: hence __wrapped__
def _rows(shape: Shape, size: Sequence[int], _: int) -> Plan:
    return plan.trailing.__wrapped__(shape, tuple(size))


NORMS = {
    "layer_norm": Norm(_rows, "normalized_shape", channels=False),
    "rms_norm": Norm(_rows, "normalized_shape", channels=False, center=False),
    "batch_norm": Norm(lambda shape, _, axis: plan.batch.__wrapped__(shape, axis), own="training"),
    "instance_norm": Norm(lambda shape, _, axis: plan.instance.__wrapped__(shape, axis), own="use_input_stats"),
    "group_norm": Norm(lambda shape, size, axis: plan.group.__wrapped__(shape, size[0], axis), "num_groups"),
}
