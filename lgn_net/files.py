"""Files and folders that appear completely or not at all, and locks between processes."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from lgn_net.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise UserError naming `path` where the disk is full."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error     # torch.save hides the disk's
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise UserError(f"cannot write {path}: {cause.strerror}; what was there before is unchanged") from None
        raise


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file for `writing`; it takes the place of `path` only when nothing went wrong."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with writing(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden empty folder to fill, which takes the place of `folder` only when nothing went wrong."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path`, in a folder that exists; the system ends the lock of a process that is killed.

    Waits `timeout` seconds for another process, below 0 as long as it takes; filelock.Timeout when that still holds it.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(path, timeout))
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            warnings.warn(f"the disk of {path} knows no locks; do not start the same command twice at a time")
        yield


def results_folder(checkpoint: Path) -> Path:
    """Return evaluation_<name> beside a checkpoint; for weights that come with the project, in the working folder."""
    checkpoint = checkpoint / "last.pt" if checkpoint.is_dir() else checkpoint
    shipped = checkpoint.resolve().parent == ROOT / "weights"
    return (Path() if shipped else checkpoint.parent) / f"evaluation_{checkpoint.stem}"


def check_writable(folder: Path) -> None:
    """Raise UserError when a folder for results cannot be made or written to, before hours go into them."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"cannot write into {folder}: {nearest} is not a folder that may be written")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))                # names of files may be no UTF-8


def to_json(content: object) -> str:
    """Write indented JSON; NaN is not allowed in."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> dict:
    """Read a file of one dictionary; {} where it is missing or damaged, since it will be made again."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        return dict(json.loads(path.read_text()))
    return {}
