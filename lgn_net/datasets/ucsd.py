"""UCSD Ped1 and Ped2: one archive of both.

Layout: `UCSDpedN/{Train,Test}/{Train,Test}NNN/NNN.tif`, masks `Test/TestNNN_gt/NNN.bmp`, labels `Test/UCSDpedN.m`.
Mahadevan, Li, Bhalodia and Vasconcelos, Anomaly Detection in Crowded Scenes, CVPR 2010.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lgn_net.datasets import common
from lgn_net.datasets.common import RANGES, Archive, Benchmark, SourceVideo, matching, numbered

PAGE = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm"
UCSD = Archive("http://www.svcl.ucsd.edu/projects/anomaly/UCSD_Anomaly_Dataset.tar.gz",
               "2329af326951f5097fdd114c50e853957d3e569493a49d22fc082a9fd791915b")
DAMAGED = {("ped1", "testing", 17): 141}      # Test017/142.tif is reported to be damaged in the published archive


def find_videos(roots: list[Path], dataset: str) -> Iterator[SourceVideo]:
    """Yield the videos of `dataset`, "ped1" or "ped2". UserError when a range fits no video."""
    homes = common.find_folders(roots, f"UCSD{dataset}")             # two where the masks come apart
    ranges = [video for home in homes for path, _ in matching(home / "Test", r"UCSDped(\d)\.m")
              for video in read_ranges(path)]
    for split, title in (("training", "Train"), ("testing", "Test")):
        for folder, number in (found for home in homes for found in matching(home / title, rf"{title}(\d+)")):
            frames, name = tuple(path for path, _ in matching(folder, r"(\d+)\.tif")), f"{number:02d}"
            masks = tuple(path for home in homes for path, _ in matching(home / title / f"{folder.name}_gt",
                                                                         r"(?:frame)?(\d+)\.bmp"))
            labels = None
            if split == "testing" and number <= len(ranges):
                labels = np.zeros(len(frames), np.uint8)
                for first, last in ranges[number - 1]:
                    common.mark(name, labels, first, last)
            yield SourceVideo(split, name, frames, labels, masks or None, DAMAGED.get((dataset, split, number)))


def read_ranges(path: Path) -> list[list[tuple[int, int]]]:
    """Read the abnormal ranges from UCSDpedN.m: per video its pairs (first, last), counted from 0, both included.

    Its lines are `TestVideoFile{end+1}.gt_frame = [61:180, 190];`, one per video.
    """
    return [[(int(first) - 1, int(last or first) - 1) for first, last in re.findall(r"(\d+)(?:\s*:\s*(\d+))?", line)]
            for line in re.findall(r"gt_frame\s*=\s*\[(.*?)\]", path.read_text(errors="replace"))]


def benchmark(dataset: str, **facts: Any) -> Benchmark:
    """Describe one half of the archive."""
    return Benchmark(PAGE, layout=f"UCSD{dataset}/Train/Train001/001.tif and so on",
                     files=tuple(f"*ucsd{dataset}/*.{suffix}" for suffix in ("tif", "bmp", "m")),
                     find=partial(find_videos, dataset=dataset), aliases=(f"UCSD{dataset}",), archives=(UCSD,), **facts)


BENCHMARKS = {
    "ped2": benchmark(
        "ped2", train=(16, 2550), test=(12, 2010), truths={"official": RANGES / "ped2.json"},
        train_lengths=numbered((120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150)),
        test_lengths=common.lengths_in(RANGES / "ped2.json")),
    "ped1": benchmark(
        "ped1", train=(34, 6800), test=(36, 7200), train_lengths=numbered(34 * (200,)),
        test_lengths=numbered(36 * (200,))),
}
