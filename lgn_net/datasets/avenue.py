"""CUHK Avenue: an archive of videos and an archive of masks.

Lu, Shi and Jia, Abnormal Event Detection at 150 FPS in MATLAB, ICCV 2013.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import RANGES, Benchmark, SourceVideo, matching

VIDEOS, MASKS = r"(training|testing)_videos/(\d+)\.avi", r"testing_label_mask/(\d+)_label\.mat"


def find_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the videos, and the masks of the testing ones."""
    masks = {int(match[1]): path for path, match in matching(roots, MASKS)}
    for path, match in matching(roots, VIDEOS):
        split, number = match[1].lower(), int(match[2])
        yield SourceVideo(split, f"{number:02d}", path, masks=masks.get(number) if split == "testing" else None)


OFFICIAL = json.loads((RANGES / "avenue_official.json").read_text())
BENCHMARKS = {
    "avenue": Benchmark(
        "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html",
        files=(VIDEOS, MASKS), find=find_videos, totals={"training": (16, 15328), "testing": (21, 15324)},
        lengths={"training": {"10": 1223, "11": 781, "12": 145, "16": 244},
                 "testing": dict(zip(OFFICIAL["videos"], OFFICIAL["frames"]))},
        # ano_pred's re-annotation, which published numbers use, and the official masks differ on 441 frames.
        truths={"ano_pred": RANGES / "avenue_ano_pred.json", "official": RANGES / "avenue_official.json"},
        archives={
            "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/Avenue_Dataset.zip":
                "fc9cb8432a11ca79c18aa180c72524011411b69d3b0ff27c8816e41c0de61531",
            "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/ground_truth_demo.zip":
                "60fec1728ec8f73a58aad3aeb5729d70a805a47e0b8eb4bf91ab67ef06386d77"}),
}
