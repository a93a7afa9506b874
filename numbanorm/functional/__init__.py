"""The norms as functions.

Names, order and defaults are those of torch.nn.functional; everything after `eps` is keyword-only. `x` may be any NumPy
array of float16, bfloat16 (ml_dtypes), float32 or float64. It is read where it lies if it is C-contiguous, and layer and RMS
norm read contiguous rows that stand apart; any other layout (Fortran order, strides, unaligned memory, foreign byte order) is
copied first. The result is C-contiguous and has x's dtype, in native byte order.

Arrays on a CUDA device (of CuPy, torch or Numba) are computed where they lie, and their results are arrays of the same
library; all arrays of a call must be there. See docs/cuda.md.
"""

from __future__ import annotations

from ..spec.call import Stats
from .channels import batch_norm, group_norm, instance_norm
from .rows import layer_norm, rms_norm

__all__ = ["Stats", "batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]
