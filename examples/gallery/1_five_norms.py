"""Five norms of two photographs

One portrait by day and at dusk, in one batch. Batch norm takes one mean for both, so the dark one stays dark. Instance norm
takes one for each channel of each picture: both come out alike, and the cast of blue is gone. Group norm, here with one group,
keeps the balance of the colours. Layer norm takes a mean for each row of pixels. RMS norm subtracts no mean.
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
