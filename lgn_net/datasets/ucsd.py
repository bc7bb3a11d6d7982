"""UCSD Ped1 and Ped2: one archive of both.

Layout: `UCSDpedN/{Train,Test}/{Train,Test}NNN/NNN.tif`, masks `Test/TestNNN_gt/NNN.bmp`, labels `Test/UCSDpedN.m`.
Mahadevan, Li, Bhalodia and Vasconcelos, Anomaly Detection in Crowded Scenes, CVPR 2010.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from lgn_net.datasets import common
from lgn_net.datasets.common import RANGES, Archive, Benchmark, Layout, SourceVideo, matching, numbered
from lgn_net.errors import UserError

PAGE = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm"
UCSD = Archive("http://www.svcl.ucsd.edu/projects/anomaly/UCSD_Anomaly_Dataset.tar.gz",
               "2329af326951f5097fdd114c50e853957d3e569493a49d22fc082a9fd791915b")
DAMAGED = {("ped1", "testing", 17): 141}      # Test017/142.tif is reported to be damaged in the published archive


def find_videos(roots: list[Path], dataset: str) -> Iterator[SourceVideo]:
    """Yield the videos of `dataset`, "ped1" or "ped2". UserError when a frame is missing or a range fits no video."""
    homes = common.find_folders(roots, f"UCSD{dataset}")
    ranges_file = next((file for home in homes for file in (home / "Test").glob("UCSDped?.m")), None)
    ranges = read_ranges(ranges_file) if ranges_file else []
    for split, title in (("training", "Train"), ("testing", "Test")):
        folders = {folder.name: (folder, number) for home in homes
                   for folder, number in matching(home / title, rf"{title}(\d+)(?:_gt)?")}
        for name, (folder, number) in folders.items():
            files = matching(folder, r"(\d+)\.tif")
            if lost := sorted(set(range(1, len(files) + 1)) - {i for _, i in files}):
                raise UserError(f"{folder}: frame {lost[0]:03d}.tif is missing; unpack the archive again")
            labels = masks = None
            if split == "testing" and number <= len(ranges):
                labels = np.zeros(len(files), np.uint8)
                for first, last in ranges[number - 1] if files else ():
                    common.mark(f"{number:02d}", labels, first, last)
            if f"{name}_gt" in folders:
                masks = tuple(path for path, _ in matching(folders[f"{name}_gt"][0], r"(?:frame)?(\d+)\.bmp")) or None
            if files:
                yield SourceVideo(split, f"{number:02d}", tuple(path for path, _ in files), labels, masks,
                                  damaged=DAMAGED.get((dataset, split, number)))


def read_ranges(path: Path) -> list[list[tuple[int, int]]]:
    """Read the abnormal ranges from UCSDpedN.m: per video its pairs (first, last), counted from 0, both included.

    Its lines are `TestVideoFile{end+1}.gt_frame = [61:180, 190];`, one per video. UserError for anything else in there.
    """
    videos: list[list[tuple[int, int]]] = []
    for line in re.findall(r"gt_frame\s*=\s*\[(.*?)\]", path.read_text(errors="replace")):
        parts = re.sub(r"\s*:\s*", ":", line).replace(",", " ").split()
        found = [re.fullmatch(r"(\d+)(?::(\d+))?", part) for part in parts]
        if None in found:
            raise UserError(f"labels {path}: gt_frame = [{line}]; expected ranges like 61:180")
        videos.append([(int(part[1]) - 1, int(part[2] or part[1]) - 1) for part in found if part])
    return videos


def layout(dataset: str) -> Layout:
    """Describe one half of the archive."""
    return Layout(f"UCSD{dataset}/Train/Train001/001.tif and so on",
                  tuple(f"*ucsd{dataset}/*.{suffix}" for suffix in ("tif", "bmp", "m")),
                  partial(find_videos, dataset=dataset))


BENCHMARKS = {
    "ped2": Benchmark(
        "UCSD Ped2", PAGE, train=(16, 2550), test=(12, 2010), layout=layout("ped2"),
        train_lengths=numbered((120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150)),
        test_lengths=common.lengths_in(RANGES / "ped2.json"), aliases=("UCSDped2",),
        truths={"official": RANGES / "ped2.json"}, archives=(UCSD,)),
    "ped1": Benchmark(
        "UCSD Ped1", PAGE, train=(34, 6800), test=(36, 7200), layout=layout("ped1"),
        train_lengths=numbered(34 * (200,)), test_lengths=numbered(36 * (200,)), aliases=("UCSDped1",),
        archives=(UCSD,)),
}
