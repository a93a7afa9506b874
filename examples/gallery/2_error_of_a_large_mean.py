"""A mean that is large beside the deviation

Rows with a standard deviation of 1 about means from 1 to 10 million. The usual expressions in float32 lose digits as the mean
grows; numbanorm, whose sums are float64, does not. The error is counted in ulp, the spacing of float32 numbers at 1, against
the same expression in long double.
"""

import numpy as np
from matplotlib import pyplot as plt

import numbanorm as nb

rng = np.random.default_rng(0)
means = 10.0 ** np.arange(8)
x = (rng.standard_normal((8, 4096)) + means[:, None]).astype(np.float32)


def expression(x, eps=1e-5):
    """Layer norm as one would write it."""
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + eps)


def single_pass(x, eps=1e-5):
    """The variance as E[x * x] - E[x] * E[x]."""
    mean = x.mean(axis=1, keepdims=True)
    var = (x * x).mean(axis=1, keepdims=True) - mean * mean
    return (x - mean) / np.sqrt(np.maximum(var, 0) + np.float32(eps))


true = expression(x.astype(np.longdouble))
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for label, y in (
    ("NumPy, E[x²] - E[x]²", single_pass(x)),
    ("NumPy, two passes", expression(x)),
    ("numbanorm", nb.layer_norm(x, 4096)),
    ("numbanorm, exact=True", nb.layer_norm(x, 4096, exact=True)),
):
    error = np.abs(y - true).max(axis=1) / 2.0**-23
    ax.loglog(means, error, "o-", label=label)
    print(f"{label:22}", *(f"{e:7.1g}" for e in error))
ax.set_xlabel("mean / standard deviation")
ax.set_ylabel("largest error, ulp")
ax.legend()
plt.show()
