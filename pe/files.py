"""Durable files: whole or absent, whatever happens in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
                os.link(draft, path)
            else:
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn an OSError about ``path`` into a RunError that says what to do."""
    try:
        yield
    except FileExistsError:
        raise RunError(f"{path} exists already and is never overwritten.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}. Free the disk or make it writable.") from None
