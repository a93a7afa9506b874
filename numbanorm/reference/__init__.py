"""The norms in plain NumPy: slow, the documentation of record, and what tests compare the kernels with by `==`.

`norms` has the forward pass: `statistics` first, then `elements`. `gradients` has those that are rounded once, and
`gradients32` those in float32. `around` has what stands around a norm. `trees` is the
order of every sum, `numbers` the arithmetic.
"""

from .around import activate, gate
from .elements import narrow
from .gradients import backward
from .gradients32 import backward32
from .norms import forward
from .statistics import Statistics

__all__ = ["Statistics", "activate", "backward", "backward32", "forward", "gate", "narrow"]
