"""Durable files: whole or absent, whatever happens in between."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from pe.errors import RunError


def write_atomically(path: Path, content: bytes, *, once: bool = False) -> None:
    """Write a file by way of a temporary one: data, then name, each forced to disk.

    With ``once`` an existing file is never replaced: raises RunError. Raises RunError when the disk refuses.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with refusals(path):
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if once:
                publish_once(draft, path)
            else:
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(path.parent)


def publish_once(draft: Path, path: Path) -> None:
    """Give a finished file its name, which no other file may have: raises FileExistsError.

    By a hard link. Where the file system has none (exFAT, some FUSE and SMB mounts), by a look and a rename under a
    lock: whoever comes second then finds the name taken, too.
    """
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.rename(draft, path)


NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
"""How file systems say that they have no hard links."""


def sync_directory(path: Path) -> None:
    """Force the names in a directory to disk, where the file system can."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(directory)


def require_folder(path: Path) -> None:
    """Raise RunError unless a folder that is to be replaced is one, or absent: no link, which would be replaced itself.

    Where the release goes this is found before anything is spent.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        kind = "a symbolic link" if path.is_symlink() else "no folder"
        raise RunError(f"{path} is {kind}: expected a folder, or nothing there. Move it away. Nothing was spent.")


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn an OSError about ``path`` into a RunError that says what to do."""
    try:
        yield
    except FileExistsError:
        raise RunError(f"{path} exists already and is never overwritten.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}. Free the disk or make it writable.") from None
