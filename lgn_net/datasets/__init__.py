"""What is known of each benchmark, a file per data set. To add one, add a file here and a file in configs/.

Every module of this folder that has `BENCHMARKS`, a dictionary of `Benchmark` by name, is found.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from lgn_net.datasets.common import Benchmark, SourceVideo, matching

# A user's own videos: video files, or folders of images, in `training` and `testing`, or `train` and `test`.
VIDEO_SUFFIXES = "avi|mp4|m4v|mov|mkv|webm|mpg|mpeg|wmv|flv|ts|mts|3gp|ogv"
VIDEOS = rf"(train|test)(?:ing)?/([^/]+)\.(?:{VIDEO_SUFFIXES})"
IMAGES = r"(train|test)(?:ing)?/(?:frames/)?([^/]+)/[^/]+\.(?:png|jpe?g|bmp|tiff?|pgm|ppm)"


def own_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos of a user's own data set."""
    for path, match in matching(roots, VIDEOS):
        yield SourceVideo(f"{match[1].lower()}ing", match[2], path)
    for (split, name), images in groupby(matching(roots, IMAGES), lambda pair: (pair[1][1].lower(), pair[1][2])):
        yield SourceVideo(f"{split}ing", name, tuple(path for path, _ in images))


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


def known_lengths(dataset: str, split: str) -> dict[str, int]:
    """Return the published number of frames per video of a split ("training" or "testing"); may lack videos, or all."""
    facts = facts_of(dataset)
    return facts.train_lengths if split == "training" else facts.test_lengths


def difference_from_published(dataset: str, split: str, lengths: list[int]) -> str | None:
    """Say how the videos of a split, of these `lengths`, differ from the complete benchmark; None: they do not."""
    facts = facts_of(dataset)
    known = facts.train if split == "training" else facts.test
    if known in ((0, 0), (len(lengths), sum(lengths))):
        return None
    return (f"{dataset} {split}: {len(lengths)} videos with {sum(lengths)} frames here, {known[0]} videos with "
            f"{known[1]} frames in the published set; results do not compare with published ones")
