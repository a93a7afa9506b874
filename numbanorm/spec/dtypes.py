"""The table of dtypes: what tells one type of elements from another. NumPy, ml_dtypes and torch know each by its name here."""

from __future__ import annotations

from typing import NamedTuple


class Dtype(NamedTuple):
    """A floating-point type."""

    itemsize: int  # bytes
    digits: int  # of the significand, the hidden one counted
    lowest: int  # exponent of the smallest normal number
    stored: str  # the dtype under which kernels see the same bytes; Numba has no type of its own for halves
    native: bool = True  # whether NumPy has it; ml_dtypes has the others, and need not be installed


# what is used most comes first: compiled code looks for an array's type in this order
DTYPES = {
    "float32": Dtype(4, 24, -126, "float32"),
    "float64": Dtype(8, 53, -1022, "float64"),
    "float16": Dtype(2, 11, -14, "uint16"),
    "bfloat16": Dtype(2, 8, -126, "int16", native=False),
}
FLOATS = tuple(sorted(DTYPES, key=lambda name: DTYPES[name].itemsize))  # as errors name them
NATIVE = tuple(name for name in FLOATS if DTYPES[name].native)
