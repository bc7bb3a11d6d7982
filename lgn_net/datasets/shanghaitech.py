"""ShanghaiTech Campus: one archive, which the project page hands out by hand.

Luo, Liu and Gao, A Revisit of Sparse Coding Based Anomaly Detection in Stacked RNN Framework, ICCV 2017.
"""

from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import Benchmark, SourceVideo, load_array, matching

VIDEOS, FRAMES = r"training/videos/([^/]+)\.avi", r"(training|testing)/frames/([^/]+)/[^/]+\.jpg"
MASKS = r"testing/test_(frame|pixel)_mask/([^/]+)\.npy"


def find_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos."""
    for path, match in matching(roots, VIDEOS):
        yield SourceVideo("training", match[1], path)
    masks = {match.groups(): path for path, match in matching(roots, MASKS)}
    frames: dict[tuple[str, str], list[Path]] = {}
    for path, match in matching(roots, FRAMES):                     # those of training videos occur in copies only
        frames.setdefault((match[1].lower(), match[2]), []).append(path)
    for (split, name), paths in frames.items():
        flags, pixels = (masks.get((kind, name)) if split == "testing" else None for kind in ("frame", "pixel"))
        labels = (load_array(flags).ravel() != 0).astype("uint8") if flags else None
        yield SourceVideo(split, name, tuple(paths), labels, pixels)


BENCHMARKS = {
    "shanghaitech": Benchmark(
        "https://svip-lab.github.io/dataset/campus_dataset.html", files=(VIDEOS, FRAMES, MASKS), find=find_videos,
        totals={"training": (330, 274515), "testing": (107, 40791)}, aliases=("shanghai",)),
}
