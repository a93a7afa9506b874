"""Where compiled kernels are kept on disk, of the CPU and of CUDA alike."""

from __future__ import annotations

import os
from pathlib import Path

import numba
from numba.misc.appdirs import AppDirs


def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None when NUMBANORM_CACHE=0 switches the cache off."""
    if os.environ.get("NUMBANORM_CACHE") == "0":
        return None
    return Path(numba.config.CACHE_DIR or AppDirs("numbanorm", appauthor=False).user_cache_dir)
