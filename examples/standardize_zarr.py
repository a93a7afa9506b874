"""A table of 20 GB, standardized by two workers of Dask with 2 GiB each: its statistics first, then its elements.

    pip install 'numbanorm[dask,zarr]' distributed
    python examples/standardize_zarr.py --folder DIR          # --small: 80 MB, in seconds

The table is a zarr array of which one chunk in 25 is written, and all others are 1. So it takes hardly any disk, but is read,
computed and written in full. The result is measured again: its means are 0 and its variances 1.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from distributed import Client, LocalCluster

from numbanorm.interop.dask import moments, standardize

ROWS, FEATURES = 16384, 256  # of a chunk, 16 MB in float32
FULL, SMALL, EVERY = 1250, 5, 25
LIMIT = "2GiB"


def table(path: Path, chunks: int) -> None:
    """A zarr array, mostly of its fill value."""
    shape = (chunks * ROWS, FEATURES)
    x = zarr.create_array(path, shape=shape, chunks=(ROWS, FEATURES), dtype="float32", fill_value=1.0)
    rng = np.random.default_rng(0)
    for k in range(0, chunks, EVERY):
        x[k * ROWS : (k + 1) * ROWS] = rng.normal(100, 5, (ROWS, FEATURES)) + np.arange(FEATURES)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(source: Path, out: Path, client: Any) -> None:
    """Standardize, and print what was seen."""
    x = da.from_zarr(source)
    start = time.perf_counter()
    m = moments(x, 0).compute()
    print(f"{x.nbytes / 1e9:.1f} GB, {m.count:,} rows: statistics in {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    standardize(x, m).to_zarr(out)
    print(f"standardized and written in {time.perf_counter() - start:.0f} s")
    found = moments(da.from_zarr(out), 0).compute()
    means, variances = np.abs(found.mean).max(), np.abs(found.var() - 1).max()
    print(f"largest mean {means:.1e}, largest distance of a variance to 1 {variances:.1e}")
    most = max(client.run(peak).values())
    print(f"most memory of a worker: {most / 2**30:.2f} GiB, of {LIMIT} each")
    assert means < 1e-6  # each y is rounded to float32, and most are the same number
    assert variances < 1e-6
    assert most < dask.utils.parse_bytes(LIMIT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Standardize a zarr array of 20 GB by a LocalCluster.")
    parser.add_argument("--folder", type=Path, help="where the arrays are (default: a temporary folder, which is removed)")
    parser.add_argument("--small", action="store_true", help="80 MB in place of 20 GB")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=LIMIT, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        table(Path(folder) / "x.zarr", SMALL if options.small else FULL)
        run(Path(folder) / "x.zarr", Path(folder) / "y.zarr", client)


if __name__ == "__main__":
    main()
