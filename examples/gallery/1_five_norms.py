"""Five norms of two photographs

Two pictures that differ in light and colour, in one batch. Batch norm takes one mean for both, so the dark one stays dark.
Instance norm takes one for each channel of each picture: both come out alike, and a cast of colour is gone. Group norm and
layer norm keep the balance of the colours. RMS norm subtracts no mean.
"""

from matplotlib import pyplot as plt

from numbanorm import demo

x = demo.photographs()  # (2, 3, height, width)
results = [(norm.name, norm.call(x)) for norm in demo.NORMS]

figure, axes = plt.subplots(2, 6, figsize=(12, 4.4), layout="constrained")
for column, (name, y) in enumerate([("before", x * 5 - 2.5), *results]):
    axes[0, column].set_title(name)
    for ax, picture in zip(axes[:, column], y, strict=True):
        ax.imshow((picture.transpose(1, 2, 0) / 5 + 0.5).clip(0, 1))
        ax.axis("off")
plt.show()
