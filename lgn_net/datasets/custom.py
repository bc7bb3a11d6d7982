"""A user's own videos: video files in `training` and `testing` (or `train` and `test`), at any depth."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import SPLIT_FOLDERS, Benchmark, Layout, SourceVideo, entries, find_folders

SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts",
            ".3gp", ".ogv")


def find_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos in the uppermost folders of these names; the name of the file is that of the video."""
    folders = []
    for root in roots:
        found = find_folders([path for path in entries(root) if path.is_dir()], *sum(SPLIT_FOLDERS.values(), ()))
        folders += [folder for folder in found if len(folder.parts) == len(found[0].parts)]
    for split, names in SPLIT_FOLDERS.items():
        for path in (path for folder in folders if folder.name.lower() in names for path in entries(folder)):
            if path.suffix.lower() in SUFFIXES:
                yield SourceVideo(split, path.stem, path)
            else:
                warnings.warn(f"{path} is no video file; passed over")


OWN_VIDEOS = Benchmark("your own videos", "", train=(0, 0), test=(0, 0), layout=Layout(
    "video files in the folders training and testing", tuple(f"*{suffix}" for suffix in SUFFIXES), find_videos))
