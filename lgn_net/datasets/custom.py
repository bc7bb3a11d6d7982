"""A user's own videos: video files in `training` and `testing` (or `train` and `test`), at any depth."""

from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import SPLIT_FOLDERS, Benchmark, SourceVideo, entries, find_folders

SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts",
            ".3gp", ".ogv")


def find_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos in the folders of these names; the name of the file is that of the video."""
    inside = [path for root in roots for path in entries(root)]
    for split, names in SPLIT_FOLDERS.items():
        for path in (path for folder in find_folders(inside, *names) for path in entries(folder)):
            if path.suffix.lower() in SUFFIXES:
                yield SourceVideo(split, path.stem, path)


OWN_VIDEOS = Benchmark("", train=(0, 0), test=(0, 0), find=find_videos,
                       layout="video files in the folders training and testing",
                       files=tuple(f"*{suffix}" for suffix in SUFFIXES))
