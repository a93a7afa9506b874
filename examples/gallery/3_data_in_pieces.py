"""Statistics of data that comes in pieces

A recording arrives in pieces of any length. `Moments` takes them in one by one. After each, mean and standard deviation are
those of all pieces so far. At the end they agree with one call on everything.
"""

import numpy as np
from matplotlib import pyplot as plt

import numbanorm as nb

rng = np.random.default_rng(0)
recording = 20 + np.cumsum(rng.normal(0, 0.1, 20_000)) + rng.normal(0, 2, 20_000)
cuts = np.sort(rng.choice(np.arange(1, len(recording)), 60, replace=False))

total = nb.Moments()
seen, mean, std = [], [], []
for piece in np.split(recording, cuts):
    total.update(piece)
    seen.append(total.count)
    mean.append(float(total.mean))
    std.append(float(total.std()))

whole = nb.moments(recording)
print("in pieces:", float(total.mean), float(total.std()))
print("at once:  ", float(whole.mean), float(whole.std()))

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(recording, ".", markersize=1, color="0.7", label="recording")
ax.plot(seen, mean, color="C0", label="mean so far")
ax.fill_between(seen, np.subtract(mean, std), np.add(mean, std), alpha=0.25, label="± standard deviation so far")
ax.set_xlabel("values that have come")
ax.legend(markerscale=8)
plt.show()
