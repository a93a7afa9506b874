"""The norms' gradients as functions, from the statistics that the forward pass returned.

With xh = (x - mean) * rstd, u = dy * weight, and sums over the n elements that share a mean:

    dx      = rstd * (u - sum(u) / n - xh * sum(u * xh) / n)      (RMS norm: without sum(u))
    dx      = rstd * u                                            where the statistics were given
    dweight = sum of dy * xh, dbias = sum of dy                   over all elements that share the weight

Sums are in a fixed order, so gradients keep the promises of the forward pass: the same bits at any thread count. With
exact=True sums and elements are float64, and gradients rounded once. Otherwise elements of narrower types, and eight terms of a
sum at a time, are float32, with mh = float32(mean), and slope, shift and offset of a group in float64, then rounded:

    dx      = fma(x - mh, slope, fma(u, rstd, shift))
    dweight = sum of dy * fma(x - mh, rstd, offset)
"""

from __future__ import annotations

from .channels import batch_norm_backward, group_norm_backward, instance_norm_backward
from .rows import layer_norm_backward, rms_norm_backward

__all__ = ["batch_norm_backward", "group_norm_backward", "instance_norm_backward", "layer_norm_backward", "rms_norm_backward"]
