"""What is known of each benchmark, a file per data set. To add one, add a file here and a file in configs/.

Every module of this folder that has `BENCHMARKS`, a dictionary of `Benchmark` by name, is found.
"""

import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import BESIDE, IMAGE_SUFFIXES, Benchmark, SourceVideo, matching, some
from lgn_net.errors import UserError

# A user's own videos: video files, or folders of images, in `training` and `testing`, or `train` and `test`.
VIDEO_SUFFIXES = "avi|mp4|m4v|mov|mkv|webm|mpg|mpeg|wmv|asf|flv|ts|mts|m2ts|vob|3gp|ogv|h264|gif|divx|dav"
SPLIT = "(train|test)(?:ing)?/(?:(?:videos|frames|images|normal|clips)/)?"
VIDEOS = rf"{SPLIT}([^/]+)\.(?:{VIDEO_SUFFIXES})"
IMAGES = rf"{SPLIT}([^/]+)/[^/]+(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})"
OTHERS = "(train|test)(?:ing)?/.+()"


def own_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos of a user's own data set; warn of other files in its splits. UserError when there are none."""
    videos: dict[tuple[str, str, Path], list[Path]] = {}        # files by split, name, and video file or folder
    others = []
    for path, match in matching(roots, VIDEOS, IMAGES, OTHERS):
        if match[2] and not BESIDE.fullmatch(match[2]):
            place = path.parent if path.suffix.lower() in IMAGE_SUFFIXES else path
            videos.setdefault((f"{match[1].lower()}ing", match[2], place), []).append(path)
        elif not any(map(BESIDE.fullmatch, match[0].split("/"))):
            others.append(path.name)
    if others:
        warnings.warn(f"passed over, as neither videos nor images of videos: {some(others)}")
    if not videos:
        root = roots[0]
        raise UserError(f"no videos: put files as {root}/training/NAME.mp4 and {root}/testing/NAME.mp4, or folders of "
                        f"images {root}/training/NAME/000.jpg; found {sum(map(Path.is_file, root.rglob('*')))} files "
                        f"under {root}")
    for (split, name, place), paths in videos.items():
        yield SourceVideo(split, name, place if place in paths else tuple(paths))


OWN_VIDEOS = Benchmark("", files=(VIDEOS, IMAGES), find=own_videos)

BENCHMARKS: dict[str, Benchmark] = {}
for module in pkgutil.iter_modules(__path__, f"{__name__}."):
    BENCHMARKS |= getattr(importlib.import_module(module.name), "BENCHMARKS", {})


def names_of(dataset: str) -> tuple[str, ...]:
    """Return every name of the data set's folder and files, such as `shanghaitech` and `shanghai`, its own first."""
    for name, benchmark in BENCHMARKS.items():
        if dataset.lower() in (name, *(alias.lower() for alias in benchmark.aliases)):
            return name, *benchmark.aliases
    return (dataset,)


def canonical_name(dataset: str) -> str:
    """Turn an alias such as `shanghai` into `shanghaitech`; a name that no benchmark has stays as it is."""
    return names_of(dataset)[0]


def facts_of(dataset: str | None) -> Benchmark:
    """Return what is known of a data set by its name or alias; of a user's own, only the layout."""
    return BENCHMARKS.get(canonical_name(dataset or ""), OWN_VIDEOS)


def difference_from_published(dataset: str, split: str, lengths: list[int]) -> str | None:
    """Say how the videos of a split, of these `lengths`, differ from the complete benchmark; None: they do not."""
    known = facts_of(dataset).totals.get(split)
    if known in (None, (len(lengths), sum(lengths))):
        return None
    return (f"{dataset} {split}: {len(lengths)} videos with {sum(lengths)} frames here, {known[0]} videos with "
            f"{known[1]} frames in the published set; results do not compare with published ones")
