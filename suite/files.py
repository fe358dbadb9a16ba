"""Files written whole or not at all, and their sha256."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from suite.errors import ClaimError


def sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` if the block ends well. Raises ClaimError where that is
    not possible.

    Named `.NAME.PID.part`: the runner removes what a killed process leaves.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise ClaimError(
            f"{path}: {error.strerror}; set CIRCUITS_OUT to a writable folder with space."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises ClaimError where that is not possible."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
