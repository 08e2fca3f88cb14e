"""Folders and files that only their owner may enter or read (0700, 0600), whatever the umask says."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from pe.files import publish_once, sync_directory

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Mode bits of the group and of everybody else."""


def private_folder(path: Path) -> None:
    """Make a folder 0700, together with the parents it lacks; an existing one is made 0700. Raises OSError.

    Only for folders that hold nothing of anybody else's. Modes are set after ``mkdir``, whose own the umask takes from.
    """
    _make(path)
    if path.stat().st_mode & OTHERS:
        path.chmod(0o700)


class OpenFolderError(OSError):
    """A folder that others can enter, and that is not for us to close."""


def named_folder(path: Path, name: str, *, strict: bool) -> None:
    """Make the folder, named by the user, of a private file called ``name``; raises OSError.

    An existing one that others can enter is made 0700: with ``strict`` always, without it if it holds nothing but that
    file and what belongs to it. Not the home directory, the working one, a shared one such as /tmp, or somebody else's:
    with ``strict`` these are refused, without it only where others may replace what lies in them. Then raises
    OpenFolderError.
    """
    _make(path)
    state = path.stat()
    mode = state.st_mode
    if not mode & OTHERS:
        return
    shared = mode & stat.S_ISVTX or any(_is_at(path, other) for other in (Path.home(), Path.cwd()))
    closable = not shared and state.st_uid == os.getuid()
    if closable and (strict or all(item.name.lstrip(".").startswith(name) for item in path.iterdir())):
        path.chmod(0o700)
    elif strict or (mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX):
        raise OpenFolderError(
            f"the folder {path} is open to others (mode {stat.S_IMODE(mode):o}): 'chmod 700' it, or name a folder of "
            "its own"
        )


def write_private(path: Path, content: bytes, *, once: bool = False) -> None:
    """Write a file (0600) whole or not at all; with ``once`` one that is there stays. Raises OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if once:
            with suppress(FileExistsError):
                publish_once(draft, path)
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(path.parent)


def _make(path: Path) -> None:
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue  # another process was faster
        folder.chmod(0o700)


def _is_at(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)
