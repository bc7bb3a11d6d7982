"""A user's own videos: video files in folders called `training` and `testing`, or `train` and `test`."""

from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import Benchmark, SourceVideo, matching

VIDEOS = r"(train|test)(?:ing)?/([^/]+)\.(?:avi|mp4|m4v|mov|mkv|webm|mpg|mpeg|wmv|flv|ts|mts|3gp|ogv)"


def find_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos; the name of the file is that of the video."""
    for path, match in matching(roots, VIDEOS):
        yield SourceVideo(f"{match[1].lower()}ing", match[2], path)


OWN_VIDEOS = Benchmark("", train=(0, 0), test=(0, 0), files=(VIDEOS,), find=find_videos)
