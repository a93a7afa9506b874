"""NumPy arrays as compiled code sees them: Python objects whose fields are read where NumPy's ABI has them.

Numba's own way, to unpack each array of a call into a structure, takes 0.1 us an array, and what Python finds out about one
(its shape, its type, whether it is contiguous) 0.05 to 0.1 us a question. Here each is one load. The fields are those of
`PyArrayObject_fields`, which NumPy's C macros read in every extension module, so that they cannot move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import NativeValue, models, register_model, unbox

from ..arith.vectors import I64, STORAGE
from ..compile import device, intrinsic, types

BODY = object.__basicsize__  # behind the reference count and the type
TYPE, DATA, NDIM, SHAPE, DESCR, FLAGS = BODY - 8, BODY, BODY + 8, BODY + 16, BODY + 40, BODY + 48
READABLE, WRITABLE = 0x101, 0x501  # C-contiguous and aligned; and writeable
DTYPES = list(STORAGE)
KINDS = len(DTYPES)


class Object(types.Type):
    """A Python object, null for None; its owner keeps it alive."""

    def __init__(self) -> None:
        super().__init__(name="Object")


OBJECT = Object()
register_model(Object)(models.OpaqueModel)


@unbox(Object)
def unbox_object(t: Any, obj: Any, c: Any) -> NativeValue:
    null = cgutils.get_null_value(obj.type)
    return NativeValue(c.builder.select(c.builder.icmp_unsigned("==", obj, c.pyapi.borrow_none()), null, obj))


@intrinsic
def there(tc: Any, a: Any) -> Any:
    """Whether an object is not None."""
    return types.boolean(a), lambda ctx, b, sig, args: cgutils.is_not_null(b, args[0])


@intrinsic
def field(tc: Any, a: Any, offset: Any) -> Any:
    """The int64 at an offset in an object."""

    def codegen(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.load(b.bitcast(b.gep(b.bitcast(args[0], cgutils.voidptr_t), [args[1]]), I64.as_pointer()))

    return types.int64(a, types.intp), codegen


@intrinsic
def size(tc: Any, a: Any, k: Any) -> Any:
    """Elements along axis k of an array."""

    def codegen(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        place = b.gep(b.bitcast(args[0], cgutils.voidptr_t), [ir.Constant(I64, SHAPE)])
        return b.load(b.gep(b.load(b.bitcast(place, I64.as_pointer().as_pointer())), [args[1]]))

    return types.int64(a, types.intp), codegen


@intrinsic
def elements(tc: Any, a: Any, element: Any) -> Any:
    """Pointer to the elements of an array, null for None."""
    result = types.CPointer(element.dtype)

    def codegen(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        place = cgutils.alloca_once_value(b, cgutils.get_null_value(ctx.get_value_type(result)))
        with b.if_then(cgutils.is_not_null(b, args[0])):
            field = b.gep(b.bitcast(args[0], cgutils.voidptr_t), [ir.Constant(I64, DATA)])
            b.store(b.load(b.bitcast(field, place.type)), place)
        return b.load(place)

    return result(a, element), codegen


@device()
def dimensions(a):
    return field(a, NDIM) & 0xFFFFFFFF


def identities() -> list[int]:
    """Ids of np.ndarray and of the four dtype objects; 0 for bfloat16 before it is imported."""
    ids = []
    for name in DTYPES:
        try:
            ids.append(id(np.dtype(name)))
        except TypeError:
            ids.append(0)
    return [id(np.ndarray), *ids]


@device(inline=False)
def code_of(a, ids):
    """Number in `DTYPES` of an array's dtype, or -1; ids: what `identities` gave."""
    for k in range(KINDS):
        if field(a, DESCR) == ids[1 + k]:
            return k
    return -1


@device(inline=False)
def fits(a, flags, shape, ids):
    """Whether `a` is None, or an array with these flags, one of `DTYPES` and a shape. shape: (ndim, *sizes)."""
    if not there(a):
        return True
    # the number of axes before their sizes: an array without axes has none to read
    if field(a, TYPE) != ids[0] or field(a, FLAGS) & flags != flags or dimensions(a) != shape[0]:
        return False
    differ = 0
    for k in range(shape[0]):
        differ += size(a, k) != shape[1 + k]
    return differ == 0 and code_of(a, ids) >= 0


@device(inline=False)
def like(a, x, flags, ids):
    """Whether `a` is an array with these flags, and the dtype and shape of the array x."""
    if field(a, TYPE) != ids[0] or field(a, FLAGS) & flags != flags:
        return False
    if field(a, DESCR) != field(x, DESCR) or dimensions(a) != dimensions(x):
        return False
    differ = 0
    for k in range(dimensions(x)):
        differ += size(a, k) != size(x, k)
    return differ == 0


@device(inline=False)
def apart(a, size_a, b, size_b):
    """Whether two arrays of so many bytes share none, or one of them is None."""
    if not (there(a) and there(b)):
        return True
    return field(a, DATA) + size_a <= field(b, DATA) or field(b, DATA) + size_b <= field(a, DATA)


@device(inline=False)
def same_or_apart(a, b, nbytes):
    """Whether two arrays of so many bytes are the same memory, or share none."""
    return field(a, DATA) == field(b, DATA) or apart(a, nbytes, b, nbytes)
