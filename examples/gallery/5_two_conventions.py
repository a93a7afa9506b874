"""Two conventions of running statistics

In torch `momentum` weighs the new batch; in Keras, Flax, ONNX and the d2l book it weighs the old value. So 0.1 of the one is
0.9 of the other. The variance differs too: torch keeps the unbiased one, which matters for small batches.
"""

import numpy as np
from matplotlib import pyplot as plt

import numbanorm as nb

rng = np.random.default_rng(0)
torch_like = nb.BatchNorm1d(1, momentum=0.1)
keras_like = nb.BatchNorm1d(1, momentum=0.9, convention="keras")
history = {"torch": [], "keras": []}
for _ in range(80):
    batch = rng.normal(5, 2, (4, 1)).astype(np.float32)
    for name, layer in (("torch", torch_like), ("keras", keras_like)):
        layer(batch)
        history[name].append((layer.running_mean[0], layer.running_var[0]))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for column, (what, true) in enumerate((("running mean", 5), ("running variance", 4))):
    for name, values in history.items():
        axes[column].plot([value[column] for value in values], label=name, ls="--" if name == "keras" else "-")
    axes[column].axhline(true, color="0.6", lw=1, label="of the data")
    axes[column].set(title=what, xlabel="batches of 4")
axes[1].legend()
plt.show()
