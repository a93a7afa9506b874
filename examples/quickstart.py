"""The five norms, their statistics, and data that arrives in pieces: run it with `python quickstart.py`."""

import numpy as np

import numbanorm as nb

rng = np.random.default_rng(0)
x = rng.normal(100, 2, (8, 6, 32, 32)).astype(np.float32)  # N, C, H, W
tokens = rng.normal(0, 3, (4, 16, 64)).astype(np.float32)  # batch, time, features
weight, bias = np.ones(6, np.float32), np.zeros(6, np.float32)

# Five norms: NumPy in, NumPy out.
nb.layer_norm(tokens, 64)
nb.rms_norm(tokens, 64)
nb.instance_norm(x)
nb.group_norm(x, 3, weight, bias)
y = nb.batch_norm(x, training=True)
print("batch norm: mean", y.mean(dtype=np.float64).round(6), "std", y.std(dtype=np.float64).round(6))

# The statistics, always float64, with torch's shapes.
y, stats = nb.group_norm(x, 3, return_stats=True)
print("group norm: one mean per sample and group:", stats.mean.shape)

# Gradients of x, weight and bias, for a gradient dy of the result.
dy = rng.standard_normal(x.shape, np.float32)
dx, dweight, dbias = nb.group_norm_backward(dy, x, 3, stats, weight)
print("group norm: dbias is the sum of dy:", np.allclose(dbias, dy.sum(axis=(0, 2, 3)), atol=1e-3))

# The same with a layer that keeps its parameters.
layer = nb.GroupNorm(3, 6)
layer(x)
layer.backward(dy)
layer.weight -= 0.1 * layer.grad["weight"]
print(layer)

# Write into an array that is already there; it may be the input itself.
nb.layer_norm(tokens, 64, out=tokens)

# Training keeps running statistics, in place; inference takes them.
running_mean, running_var = np.zeros(6), np.ones(6)
for _ in range(100):
    nb.batch_norm(x, running_mean, running_var, weight, bias, training=True)
y = nb.batch_norm(x, running_mean, running_var, weight, bias)
print("running mean:", running_mean.round(2))

# Mean and variance of a stream: pieces merge to the statistics of the whole.
total = nb.Moments(axis=(0, 2, 3))
for piece in (x[:3], x[3:5], x[5:]):
    total.update(piece)
print("std per channel:", total.std().round(2))

# Which kernel would run, and why.
print(nb.explain(nb.batch_norm, x, training=True))
