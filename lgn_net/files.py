"""Files are written completely or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lgn_net.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file for writing; it takes the place of `path` only when nothing went wrong.

    Raises UserError naming `path` when the disk is full or may not be written.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            os.unlink(temporary)
        cause = error if isinstance(error, OSError) else error.__context__       # torch.save hides the disk's error
        if isinstance(cause, OSError):
            raise UserError(f"cannot write {path}: {cause.strerror}; what was there before is unchanged") from None
        raise


def check_writable(folder: Path) -> None:
    """Raise UserError when a folder for results cannot be made or written to, before hours go into them."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"cannot write into {folder}: {nearest} is not a folder that may be written; "
                        f"choose another one")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def to_json(content: object) -> str:
    """Indented JSON; NaN is not allowed in."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
