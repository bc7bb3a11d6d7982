"""ShanghaiTech Campus: one archive, which the project page hands out by hand.

Luo, Liu and Gao, A Revisit of Sparse Coding Based Anomaly Detection in Stacked RNN Framework, ICCV 2017.
"""

from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import Benchmark, SourceVideo, load_array, matching

VIDEOS, FRAMES = r"training/videos/([^/]+)\.avi", r"testing/frames/([^/]+)/[^/]+\.jpg"
MASKS = r"testing/test_(frame|pixel)_mask/([^/]+)\.npy"


def find_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos."""
    for path, match in matching(roots, VIDEOS):
        yield SourceVideo("training", match[1], path)
    masks = {match.groups(): path for path, match in matching(roots, MASKS)}
    frames: dict[str, list[Path]] = {}
    for path, match in matching(roots, FRAMES):
        frames.setdefault(match[1], []).append(path)
    for name, paths in frames.items():
        flags = masks.get(("frame", name))
        labels = (load_array(flags).ravel() != 0).astype("uint8") if flags else None
        yield SourceVideo("testing", name, tuple(paths), labels, masks.get(("pixel", name)))


BENCHMARKS = {
    "shanghaitech": Benchmark(
        "https://svip-lab.github.io/dataset/campus_dataset.html", train=(330, 274515), test=(107, 40791),
        files=(VIDEOS, FRAMES, MASKS), find=find_videos, aliases=("shanghai",)),
}
