"""Training a small network, in NumPy alone

Two spirals, told apart by a network of five layers. With `BatchNorm1d` after each layer it learns; with the same weights
and without norms it hardly begins. The gradients of the norms come from `layer.backward`.
"""

import itertools

import numpy as np
from matplotlib import pyplot as plt

import numbanorm as nb

rng = np.random.default_rng(0)
turn = rng.uniform(0.5, 3, 600).astype(np.float32)
label = rng.integers(0, 2, 600)
angle = 2 * np.pi * turn / 1.5 + np.pi * label
points = turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
points = (points + rng.normal(0, 0.05, points.shape)).astype(np.float32)


def train(normalize, rate=0.1, steps=500, widths=(2, 32, 32, 32, 32, 1)):
    """Losses of gradient descent on all points at once."""
    rng = np.random.default_rng(1)
    weights = [rng.normal(0, 0.3, pair).astype(np.float32) for pair in itertools.pairwise(widths)]
    norms = [nb.BatchNorm1d(width) if normalize else None for width in widths[1:-1]]
    losses = []
    for _ in range(steps):
        hidden = [points]
        for weight, norm in zip(weights, [*norms, None], strict=True):
            z = hidden[-1] @ weight
            z = z if norm is None else norm(z)
            hidden.append(z if weight is weights[-1] else np.maximum(z, 0))
        p = 1 / (1 + np.exp(-hidden[-1][:, 0]))
        losses.append(-np.log(np.where(label, p, 1 - p)).mean())
        gradient = ((p - label) / len(label)).astype(np.float32)[:, None]
        for k in reversed(range(len(weights))):
            if k < len(norms):
                gradient = gradient * (hidden[k + 1] > 0)
                if norms[k] is not None:
                    gradient = norms[k].backward(np.ascontiguousarray(gradient))
                    norms[k].weight -= rate * norms[k].grad["weight"]
                    norms[k].bias -= rate * norms[k].grad["bias"]
            weights[k], gradient = weights[k] - rate * hidden[k].T @ gradient, gradient @ weights[k].T
    return losses


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.scatter(*points.T, c=label, s=6, cmap="coolwarm")
left.set_title("the data")
left.set_aspect("equal")
for normalize, name in ((False, "without norms"), (True, "with BatchNorm1d")):
    losses = train(normalize)
    right.plot(losses, label=name)
    print(f"{name}: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at the end")
right.set_xlabel("step")
right.set_ylabel("loss")
right.legend()
plt.show()
