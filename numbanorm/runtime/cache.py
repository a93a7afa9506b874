"""Compiled kernels on disk, of the CPU and of CUDA alike: whole files or none, nobody else's, and never an error.

What is read from here is executed. So a folder or file counts only if it belongs to this user, or to root, and no other user
can write it, as ssh demands of its keys. What cannot be read or written costs a compilation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import warnings
from pathlib import Path

import numba
from numba.misc.appdirs import AppDirs

DIGEST = 32  # bytes at the head of each file: SHA-256 of the rest
TOLD: list[str] = []  # what this process was warned of


def cache_folder() -> Path | None:
    """Folder of compiled kernels; None if NUMBANORM_CACHE=0 switches the cache off, or this user has no folder for it."""
    if os.environ.get("NUMBANORM_CACHE") == "0":
        return None
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR).absolute()
    folder = Path(AppDirs("numbanorm", appauthor=False).user_cache_dir)
    if folder.is_absolute():
        return folder
    complain(f"{folder}, for this user has no home")  # and not a folder ~ where the process happens to be
    return None


def digest_of(versions: str, *sources: Path) -> str:
    """Digest of versions and source files: each of `sources`, or if it is a folder each in it and below."""
    digest = hashlib.sha256(versions.encode())
    for source in sources:
        for path in [source] if source.suffix == ".py" else sorted(source.rglob("*.py")):
            digest.update(f"{path.relative_to(source.parent)}".encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def load(path: Path) -> bytes | None:
    """Read what `store` wrote to a file, if it is whole and nobody else can have changed it."""
    try:
        if not private(path.parent):
            return None
        with path.open("rb") as file:
            if not safe(os.fstat(file.fileno())):
                return None
            content = file.read()
    except OSError:
        return None
    return content[DIGEST:] if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST] else None


def store(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, for other processes may be reading and writing it; or warn, once."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not private(path.parent):
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # gone, if all went well
                os.unlink(temporary)
    except OSError as error:
        if load(path) is None:  # Windows refuses what another process has just done
            complain(f"{path.parent}, where nothing can be written ({error.strerror})")


def private(folder: Path) -> bool:
    """Whether a folder is there, and no other user can have put anything in it; if one can, warn."""
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and safe(status):
        return True
    if stat.S_ISLNK(status.st_mode):
        complain(f"{folder}, which is a link")
    elif not stat.S_ISDIR(status.st_mode):
        complain(f"{folder}, which is not a folder")
    else:
        complain(f"{folder}, of user {status.st_uid} and mode {stat.S_IMODE(status.st_mode):o}")
    return False


def safe(status: os.stat_result) -> bool:
    """Whether only this user or root can write to something; on Windows the folders of a user are private as they are."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def complain(received: str) -> None:
    """One warning a process. Where warnings are errors there is none: a call must not fail for the sake of the next."""
    if TOLD:
        return
    TOLD.append(received)
    with contextlib.suppress(Warning):
        warnings.warn(
            f"kernels are compiled in every process unless a folder keeps them that no other user can write: got {received}; "
            f"set NUMBA_CACHE_DIR to a folder of your own before Python starts, or NUMBANORM_CACHE=0 to keep none",
            RuntimeWarning,
            stacklevel=2,
        )
