"""The words in which each file of this folder describes a data set, and helpers to find its files in folders."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from lgn_net.errors import UserError

RANGES = Path(__file__).parent / "ranges"
SPLIT_FOLDERS = {"training": ("training", "train"), "testing": ("testing", "test")}
IMAGE_SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".webp", ".pgm", ".ppm", ".tif", ".tiff"])
BESIDE = re.compile(r"\..*|masks|labels|test_(frame|pixel)_mask|.*_gt", re.IGNORECASE)      # folders that are no videos


class SourceVideo(NamedTuple):
    """A video as it was published."""

    split: str                                       # "training" or "testing"
    name: str
    frames: Path | tuple[Path, ...]                  # a video file, or image files in order
    labels: np.ndarray | None = None                 # uint8 (T,)
    masks: Path | tuple[Path, ...] | None = None     # .mat (cells of (H, W)), .npy (T, H, W), or image files


@dataclass(frozen=True)
class Benchmark:
    """Facts about a published data set: to get it, to recognise a complete copy of it and to find its labels."""

    page: str                                                  # where it is published
    files: tuple[str, ...]                                     # regular expressions: ends of the paths of its files
    find: Callable[[list[Path]], Iterable[SourceVideo]]        # folders -> the videos in them
    totals: dict[str, tuple[int, int]] = field(default_factory=dict)     # split -> videos, frames
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)     # split -> name -> frames, as far as known
    aliases: tuple[str, ...] = ()                              # other names of its folder and label files
    truths: dict[str, Path] = field(default_factory=dict)      # source -> labels that ship, the paper's source first
    archives: dict[str, str] = field(default_factory=dict)     # address -> sha256; none where only `page` has them


def natural_key(name: str) -> tuple[list, str]:
    """Return a sort key under which frame_2 comes before frame_10; the name itself decides between 01 and 1."""
    parts = re.split(r"0*([0-9]+)", name)
    return [(len(part), part) if i % 2 else part.lower() for i, part in enumerate(parts)], name


def fits(path: str, *patterns: str) -> re.Match | None:
    """Match the end of a path with one of the patterns; None for hidden files and those of macOS, too."""
    path = str(PurePosixPath("/", path))
    matches = [re.search(f"/{pattern}$", path, re.IGNORECASE) for pattern in patterns]
    return None if re.search(r"/(\.|__MACOSX)", path) else next(filter(None, matches), None)


def matching(roots: Iterable[Path], *patterns: str) -> list[tuple[Path, re.Match]]:
    """List the files below `roots` whose path ends in one of the patterns, in natural order, with what it matched."""
    found = []
    for root in (root.resolve() for root in roots):
        for folder, _, names in os.walk(root, followlinks=True):
            for path in map(Path(folder).joinpath, names):
                if match := fits(f"{root.name.lstrip('.')}/{path.relative_to(root).as_posix()}", *patterns):
                    found.append((path, match))
    return sorted(found, key=lambda pair: natural_key(str(pair[0])))


def load_array(path: Path) -> np.ndarray:
    """Open a NumPy file, memory-mapped. Raise UserError when it is damaged."""
    try:
        return np.lib.format.open_memmap(path, mode="r")                         # no .npz, no Python objects
    except Exception as error:                                                   # NumPy raises many kinds
        raise UserError(f"{path} is no NumPy array, or truncated ({error}); unpack the archive again") from None


def load_mat(path: Path, name: str) -> np.ndarray:
    """Read the cells of a variable of a MATLAB file: (k,), object. UserError when the file is damaged.

    SciPy runs in a process of its own, because a damaged file may end that process without an exception, or hold it.
    """
    read = ("import pickle, sys, scipy.io; _, path, name = sys.argv\n"
            "pickle.dump(scipy.io.loadmat(path, variable_names=name)[name].ravel(), sys.stdout.buffer)")
    try:
        done = subprocess.run([sys.executable, "-c", read, path, name], capture_output=True, check=True, timeout=300)
    except subprocess.SubprocessError:
        raise UserError(f"{path} is damaged, or no MATLAB file with {name} (of MATLAB 7.3 save it with '-v7'); get it "
                        f"again") from None
    return pickle.loads(done.stdout)


def mark(video: str, labels: np.ndarray, first: int, last: int, value: int = 1) -> None:
    """Set frames first..last, from 0, both included, in the labels (T,) of a video. UserError when it has none such."""
    if not 0 <= first <= last < len(labels):
        raise UserError(f"frames {first} to {last} (from 0) of video {video}, which has {len(labels)} frames")
    labels[first:last + 1] = value


def from_ranges(lengths: Mapping[str, int], ranges: Sequence[Any]) -> dict[str, np.ndarray]:
    """Turn the (first, last) abnormal frames of each video, from 0, both included, into arrays, uint8 (T,) by name."""
    labels = {video: np.zeros(length, np.uint8) for video, length in lengths.items()}
    for (video, array), pairs in zip(labels.items(), ranges, strict=True):
        for first, last in pairs:
            mark(video, array, first, last)
    return labels


def some(items: list[str], limit: int = 6) -> str:
    """Name the first few, and count the others."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit:,} more" if len(items) > limit else "")
