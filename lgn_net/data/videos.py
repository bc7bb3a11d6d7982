"""Folders of frames -> videos, in natural order. Decided here, once; file names carry no other meaning."""

import shlex
from pathlib import Path
from typing import NamedTuple

from lgn_net.datasets import BENCHMARKS, VIDEOS, canonical_name, facts_of, names_of
from lgn_net.datasets.common import BESIDE, IMAGE_SUFFIXES, SPLIT_FOLDERS, matching, natural_key
from lgn_net.errors import UserError


class Video(NamedTuple):
    """A video as its frame files in order."""

    name: str
    frames: tuple[str, ...]    # paths


def find_split(root: str | Path, dataset: str, split: str) -> Path:
    """Find the folder of videos of a split, "training" or "testing" (`train` and `test` are found, too).

    `root` holds the data set's folder, under its name or an alias, or is that folder itself; letters may be of either
    case, and the level `frames` may lack. UserError when nothing is there, with what to type for a known other layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"--dataset_path {root}: no such folder")
    candidates = [inside(base, folder, "frames") for base in (*(inside(root, name) for name in names_of(dataset)), root)
                  for folder in SPLIT_FOLDERS[split]]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate

    # Without the level `frames`; else files as they were published, or filmed; else another place.
    name = canonical_name(dataset)
    which, files = (name, facts_of(name).files) if name in BENCHMARKS else (f"custom --name {name}", (VIDEOS,))
    for place in (candidate.parent for candidate in candidates if candidate.parent.is_dir()):
        raw = [path for path, _ in matching([place.parent], *files) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not raw and any(image_names(path) for path in place.iterdir() if path.is_dir()):
            return place
    if any(split[:4] in match[0].lower() for _, match in matching([root], *files)):
        raise UserError(f"{root} holds {dataset} as it was published; run python scripts/prepare_data.py {which} "
                        f"--source {shlex.quote(str(root))} --out prepared, and give prepared in place of {root}")
    elsewhere = [path for path in (*root.glob("*/*"), *root.glob("*/*/*"), *root.absolute().parent.glob("*"))
                 if path.name.lower() in SPLIT_FOLDERS[split] and path not in [place.parent for place in candidates]]
    raise UserError(f"no {split} frames of {dataset} in {root}: expected {candidates[0]}/<video>/<frame>.jpg" +
                    "".join(f"; {path} is there: give --dataset_path {path.parent}" for path in elsewhere[:1]))


def inside(folder: Path, *names: str) -> Path:
    """Go down to the sub-folder of this name, whatever the case of its letters."""
    for name in names:
        others = sorted(folder.iterdir()) if folder.is_dir() and not (folder / name).is_dir() else []
        alike = (path for path in others if path.name.lower() == name.lower() and path.is_dir())
        folder = next(alike, folder / name)
    return folder


def image_names(folder: Path) -> list[str]:
    """List the image files of a folder in natural order, without hidden ones."""
    return sorted((path.name for path in folder.iterdir()
                   if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")), key=natural_key)


def index_videos(folder: str | Path) -> list[Video]:
    """List all videos of a split in natural order: sub-folders, and the images in each. UserError for an empty one."""
    videos = []
    folders = [path for path in Path(folder).iterdir() if path.is_dir() and not BESIDE.fullmatch(path.name)]
    for path in sorted(folders, key=lambda path: natural_key(path.name)):
        if path.name.encode(errors="replace").decode() != path.name:
            raise UserError(f"video {str(path).encode(errors='replace').decode()}: the name is no UTF-8; rename it")
        if not (names := image_names(path)):
            raise UserError(f"video {path} holds no image; remove the folder, or fill it with frames")
        videos.append(Video(path.name, tuple(str(path / name) for name in names)))
    if not videos:
        raise UserError(f"{folder} holds no videos; each video is a folder of frames, {folder}/01/000.jpg and so on")
    return videos
