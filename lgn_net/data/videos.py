"""Folders of frames -> videos, in natural order. Decided here, once; file names carry no other meaning."""

from pathlib import Path
from typing import NamedTuple

from lgn_net.datasets import names_of
from lgn_net.datasets.common import SPLIT_FOLDERS, natural_key
from lgn_net.errors import UserError

IMAGE_SUFFIXES = frozenset([".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".webp", ".avif", ".pbm", ".pgm",
                            ".ppm", ".pnm", ".tif", ".tiff", ".ras"])


class Video(NamedTuple):
    """A video as its frame files in order."""

    name: str
    frames: tuple[str, ...]    # paths


def find_split(root: str | Path, dataset: str, split: str) -> Path:
    """Find the folder of videos of a split, "training" or "testing" (`train` and `test` are found, too).

    `root` holds the data set's folder, under its name or an alias, or is that folder itself. UserError when nothing is
    there.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"--dataset_path {root}: no such folder")
    candidates = [base / folder / "frames" for base in (*(root / name for name in names_of(dataset)), root)
                  for folder in SPLIT_FOLDERS[split]]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise UserError(f"no {split} frames of {dataset} in {root}: expected {candidates[0]}/<video>/<frame>.jpg "
                    f"(or {candidates[-2].relative_to(root)} when the path is the data set's own folder)")


def image_names(folder: Path) -> list[str]:
    """List the image files of a folder in natural order, without hidden ones."""
    return sorted((path.name for path in folder.iterdir()
                   if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")), key=natural_key)


def index_videos(folder: str | Path) -> list[Video]:
    """List all videos of a split in natural order: every sub-folder is one, every image file in it a frame.

    UserError for a folder without videos and for a video without frames.
    """
    videos = []
    folders = [path for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(folders, key=lambda path: natural_key(path.name)):
        if not (names := image_names(path)):
            raise UserError(f"video {path} holds no image; remove the folder, or fill it with frames")
        videos.append(Video(path.name, tuple(str(path / name) for name in names)))
    if not videos:
        raise UserError(f"{folder} holds no videos; each video is a folder of frames, {folder}/01/000.jpg and so on")
    return videos
