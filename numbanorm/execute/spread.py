"""Norms whose weight or bias differs along axes of samples or rows, in host memory; see `spec.spread`.

Norms of each sample, or row, are called for blocks that share a parameter: what such a call gives is what the norm of these
alone gives. Statistics that samples share are measured once; then each sample is normalized by what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from ..backends import host
from ..spec import checks
from ..spec.call import NOTHING, Call, Known
from ..spec.checks import Array
from ..spec.plan import Plan, Shape
from ..spec.rounding import narrow
from ..spec.spread import Cut, block_call, channel_call, cut, spans
from .standardize import added, roots

LOW, RSTD = 1, 3  # rows of the statistics


def parameter(space: Any, name: str, value: Any, p: Plan, lead: Shape) -> Any:
    """A weight or bias, checked: of the norm's own shape, or in host memory of one that broadcasts to (*lead, *own)."""
    if value is None or space is not host:
        return space.parameter(name, value, p.weight_shape)
    w = checks.array(name, value)
    more = w.ndim > len(p.weight_shape)
    if w.shape != p.weight_shape and not (more and checks.broadcasts(w.shape, (*lead, *p.weight_shape))):
        checks.fits_parameter(name, w, p.weight_shape, lead)
    return w


def differs(p: Plan, *parameters: Any) -> bool:
    """Whether one is of another shape than the norm's own."""
    return any(w is not None and w.shape != p.weight_shape for w in parameters)


def laid_out(w: Array | None, shape: Shape, own: Shape) -> Array | None:
    """A parameter as rows of the size of its own part, one for each place of the leading axes."""
    return None if w is None else np.broadcast_to(w, (*shape, *own)).reshape(-1, prod(own))


def cut_for(call: Call, lead: Shape, parameters: tuple[Array | None, ...]) -> Cut:
    """The blocks of rows of a call with these parameters."""
    p = call.plan
    along = [spans(lead, p.weight_shape, None if w is None else w.shape) for w in parameters]
    varies = tuple(any(n[k] != 1 for n in along) for k in range(len(lead)))
    return cut(lead, varies, p.G * p.count, p.M == 1)


def shared(call: Call, lead: Shape) -> bool:
    """Whether samples share statistics."""
    return call.given or call.plan.units != prod(lead) * call.plan.G


def normalize(
    call: Call, arrays: tuple[Array, Array], affine: tuple[Array | None, Array | None], eps: float, known: Known, where: Any,
    lead: Shape,
) -> Array:  # fmt: skip
    """As `Backend.normalize`, of arrays x and y; affine: weight and bias that broadcast to (*lead, *own)."""
    if shared(call, lead):
        return normalize_shared(call, arrays, affine, eps, known, where, lead)
    blocks, p = cut_for(call, lead, affine), call.plan
    weight, bias = (laid_out(w, blocks.shape, p.weight_shape) for w in affine)
    stats = np.zeros((5 if call.where else 4, p.units))
    for part, (x, y), mask, units, places in parts_of(call, blocks, arrays, where):
        w, b = (None if a is None else a[places] for a in (weight, bias))
        stats[:, units] = host.cpu_backend().normalize(part, x, y, w, b, eps, NOTHING, mask)
    return stats


def parts_of(call: Call, blocks: Cut, arrays: tuple[Any, ...], where: Any) -> Iterator[tuple[Any, ...]]:
    """Of each block its call, elements of the arrays, mask, units, and places of parameters."""
    each, mask = call.plan.G * call.plan.count, None if where is None else np.broadcast_to(where, arrays[0].shape).reshape(-1)
    for lo in range(0, blocks.total, blocks.rows):
        hi = min(lo + blocks.rows, blocks.total)
        first, beside = lo // blocks.samples, (hi - lo) // blocks.samples
        part, (kept, *own) = block_call(call, blocks.samples, beside), elements((mask, *arrays), lo * each, hi * each)
        of_mask = None if kept is None else host.cpu_backend().mask_of(part, kept, kept.shape)
        yield part, own, of_mask, slice(lo * call.plan.G, hi * call.plan.G), slice(first, first + beside)


def elements(arrays: tuple[Any, ...], lo: int, hi: int) -> list[Any]:
    """A range of elements of each array; of one that is read and written the same object, for that is what tells it."""
    own = {id(a): a.reshape(-1)[lo:hi] for a in arrays if a is not None}
    return [own.get(id(a)) for a in arrays]


def normalize_shared(
    call: Call, arrays: tuple[Array, Array], affine: tuple[Array | None, Array | None], eps: float, known: Known, where: Any,
    lead: Shape,
) -> Array:  # fmt: skip
    """`normalize` with statistics that samples share: they are measured, or given, and each sample has its own parameters."""
    (x, y), backend = arrays, host.cpu_backend()
    mask = [backend.mask_of(call, where, x.shape)] if call.where else []
    if all(w is None or spans(lead, call.plan.weight_shape, w.shape) == (1,) * len(lead) for w in affine):
        w, b = (laid_out(w, (1,) * len(lead), call.plan.weight_shape) for w in affine)
        result: Array = backend.normalize(call, x, y, w, b, eps, known, *mask)
        return result
    if call.given:
        mean, var = (np.asarray(a, np.float64) for a in known[:2])
        stats = np.stack([mean, np.zeros_like(mean), var, roots(var, eps, x, call.exact)])
    else:
        measuring, unused = without_result(call), np.empty_like(x) if x.itemsize == 8 else x
        stats = backend.normalize(measuring, x, unused, None, None, eps, known, *mask)
    part, blocks = channel_call(call, prod(lead), "apply")
    own = [laid_out(w, lead, call.plan.weight_shape) for w in affine]
    write_by(part, blocks, (x, y), stats[[0, LOW, RSTD]], own)
    if mask and not mask[0].counts.all():  # the bias alone, whatever x is there
        empty, value = mask[0].counts == 0, np.zeros((prod(lead), call.plan.G)) if own[1] is None else own[1].astype(np.float64)
        whole_y = y.reshape(prod(lead), -1, call.plan.G, call.plan.T)
        whole_y[:, :, empty] = narrow(value[:, None, empty, None], y.dtype)
    return stats


def write_by(call: Call, blocks: int, arrays: tuple[Array, Array], stats: Array, affine: list[Array | None]) -> None:
    """Normalize blocks by statistics (mean, low, rstd), of each channel or of each unit of them."""
    p, (weight, bias) = call.plan, (None if w is None else w.reshape(blocks, -1) for w in affine)
    for k, (mean, low, rstd) in enumerate(of_blocks(stats, blocks, p.units)):
        w, b = (None if a is None else a[k] for a in (weight, bias))
        x, y = elements(arrays, k * p.size, (k + 1) * p.size)
        host.cpu_backend().normalize(call, x, y, w, b, 0.0, (mean, rstd, None, low))


def of_blocks(stats: Array, blocks: int, units: int) -> Array:
    """Statistics (k, channels), or (k, units of all blocks) -> (blocks, k, units of a block)."""
    k = len(stats)
    wide = np.broadcast_to(stats[:, None], (k, blocks * units // stats.shape[1], stats.shape[1]))
    return wide.reshape(k, blocks, units).swapaxes(0, 1).copy()


def without_result(call: Call) -> Call:
    """The call that only measures."""
    return block_call(call, call.plan.B, 1).but(write=False, weight=False, bias=False, in_place=False)


def differentiate(
    call: Call, arrays: tuple[Array, Array, Array | None], weight: Array, stats: tuple[Array | None, Array], where: Any,
    lead: Shape,
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """As `Space.differentiate`, of arrays x, dy and dx; the gradients have the weight's shape, summed over what it is the same
    along."""
    own = call.plan.weight_shape
    if arrays[0].size == 0:
        nothing = (np.zeros(weight.shape, weight.dtype) if w else None for w in (call.weight, call.bias))
        return next(nothing), next(nothing)
    if shared(call, lead):
        found, laid = differentiate_shared(call, arrays, weight, stats, where, lead), lead
    else:
        blocks = cut_for(call, lead, (weight,))
        laid = blocks.shape
        found = differentiate_blocks(call, arrays, laid_out(weight, laid, own), stats, where, blocks)
    wanted = [found[k].reshape(*laid, *own) if w else None for k, w in enumerate((call.weight, call.bias))]
    dweight, dbias = (None if g is None else narrow(added(g, weight.shape), weight.dtype) for g in wanted)
    return dweight, dbias


def differentiate_blocks(
    call: Call, arrays: tuple[Array, Array, Array | None], weight: Any, stats: tuple[Array | None, Array], where: Any,
    blocks: Cut,
) -> Array:  # fmt: skip
    """Write dx of blocks, and return the sums of each place of a parameter, float64 (2, places, own)."""
    found = np.zeros((2, *weight.shape))
    for part, (x, dy, dx), mask, units, places in parts_of(call, blocks, arrays, where):
        mean, rstd = (None if s is None else s[units] for s in stats)
        sums = np.zeros((2, part.plan.G * part.plan.K)) if call.affine else None
        host.cpu_backend().differentiate(part, x, dy, dx, weight[places], (mean, rstd), sums, mask)
        if sums is not None:
            found[:, places] = sums.reshape(found[:, places].shape)
    return found


def differentiate_shared(
    call: Call, arrays: tuple[Array, Array, Array | None], weight: Array, stats: tuple[Array | None, Array], where: Any,
    lead: Shape,
) -> Array:  # fmt: skip
    """Write dx where samples share statistics, and return the sums of each sample, float64 (2, samples, channels)."""
    (x, dy, dx), p, samples = arrays, call.plan, prod(lead)
    kept, counts = None, np.full(p.G, p.B * p.M * p.T, np.float64)
    if where is not None:
        kept = np.broadcast_to(where, x.shape)
        x, dy = (np.where(kept, a, 0).astype(a.dtype) for a in (x, dy))
        counts = kept.reshape(p.B * p.M, p.G, p.T).sum((0, 2)).astype(np.float64)
    mean, rstd = (np.asarray(s, np.float64) for s in stats)
    w = np.broadcast_to(weight.astype(np.float64), (*lead, p.G)).reshape(samples, p.G)
    found = np.zeros((2, *w.shape))
    if call.affine or not call.given:
        found = sums_of(call, samples, (x, dy), np.stack([mean, rstd]))
    if dx is not None and call.given:
        part, blocks = channel_call(call, samples, "scale")
        write_by(part, blocks, (dy, dx), np.stack([np.zeros_like(mean), np.zeros_like(mean), rstd]), [w, None])
    elif dx is not None:
        total = [added(w * s, (1, p.G)).reshape(-1) for s in found[::-1]]
        part, blocks = channel_call(call, samples, "slant")
        rows = of_blocks(np.stack([mean, rstd, *total, counts]), blocks, part.plan.units)
        for k, (m, r, *sums) in enumerate(rows):
            own = elements((x, dy, dx), k * part.plan.size, (k + 1) * part.plan.size)
            host.cpu_backend().slant(part, *own, (m, None, r), w.reshape(blocks, -1)[k], *sums, True)
    if dx is not None and kept is not None:
        dx.reshape(kept.shape)[~kept] = 0.0
    return found


def sums_of(call: Call, samples: int, arrays: tuple[Array, Array], stats: Array) -> Array:
    """Sums of dy * normalized x, and of dy, of each sample and channel: float64 (2, samples, channels). stats: mean, rstd."""
    part, blocks = channel_call(call, samples, "sums")
    p, found = part.plan, np.zeros((blocks, 2, part.plan.units))
    for k, (mean, rstd) in enumerate(of_blocks(stats, blocks, p.units)):
        own, upstream = elements(arrays, k * p.size, (k + 1) * p.size)
        if p.count == 1:
            of_dy = upstream.astype(np.float64)
            found[k] = of_dy * ((own.astype(np.float64) - mean) * rstd), of_dy
        else:
            host.cpu_backend().differentiate(part, own, upstream, None, None, (mean, rstd), found[k])
    return found.swapaxes(0, 1).reshape(2, samples, -1)
