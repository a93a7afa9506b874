"""The order of every sum: what the CPU and the CUDA kernels must agree on so that their statistics have the same bits.

docs/numerics.md describes the trees. All of it is a function of a plan alone.
"""

from __future__ import annotations

from .plan import Plan

TILE = 256  # elements of a run that 32 lanes add in 8 steps before pairs begin
LANE_COUNT = 32
SHORT = 128  # elements of a run below which a group's runs are summed column by column
LEAST_RUN = 16  # elements that share a weight, from which on the backward pass sums them as a run
LEAST_COLUMNS = 64  # narrower rows are summed side by side

# squares about 0 and about the mean, of which more than this is the ratio: one read of x is not enough for the variance
TOO_FAR = 2.0**10
SHORT_SUM = 8  # terms that are added in float32 before they are widened, where a sum begins so

# where float64 may have left its range. With rstd below LARGE_STAT, no square that mattered was below the normal numbers
LARGE_STAT = 2.0**450
# where rstd, an average u and the gradients of parameters are between these and their inverses, or 0, no product of u with a
# distance, with rstd's cube or with a low part is near the ends of the range
LARGE_RSTD, LARGE_U = 2.0**256, 2.0**400
# what is merged has units of 2**0, or of 2**±UNITS where a standard deviation or a distance is beyond 2**±LIMIT: its square and
# its bits are then far from the ends of the range
UNITS, LIMIT = 700, 400
STEP = 256  # exponents are multiples of this one: the largest of x is then within 2**128 of 1, its square far from any limit
FLOOR = 2.0**-1000  # a scaled eps is no less: it matters only where all elements are equal


def block_rows(rows: int) -> int:
    """Rows that are added in order before pairs begin: fewer when there are few, so that they can be shared out."""
    if rows >= 4096:
        return 32
    return 16 if rows >= 2048 else 8


def fold_for(rows: int, width: int) -> int:
    """Rows that count as one: as many as make LEAST_COLUMNS columns, if they divide the rows."""
    fold = 1
    while fold * width < LEAST_COLUMNS and rows % (2 * fold) == 0:
        fold *= 2
    return fold


def by_columns(plan: Plan) -> bool:
    """Whether a group's short runs are summed column by column."""
    return plan.M > 1 and plan.K * plan.T < SHORT


def gradients_by_columns(plan: Plan) -> bool:
    """Whether gradients are summed column by column."""
    return plan.M > 1 and (plan.K * plan.T < SHORT or plan.T < LEAST_RUN)


def gradient_family(plan: Plan) -> str:
    """Place of the elements that share a weight: "columns", "rows" or "runs"."""
    if gradients_by_columns(plan):
        return "columns"
    return "rows" if plan.T < LEAST_RUN else "runs"
