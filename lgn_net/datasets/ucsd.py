"""UCSD Ped1 and Ped2: one archive of both.

Mahadevan, Li, Bhalodia and Vasconcelos, Anomaly Detection in Crowded Scenes, CVPR 2010.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from lgn_net.datasets.common import RANGES, Benchmark, SourceVideo, from_ranges, matching

FRAMES, MASKS, LABELS = r"(Train|Test)/\1(\d+)/\d+\.tif", r"Test/Test(\d+)_gt/(?:frame)?\d+\.bmp", r"Test/UCSDped\d\.m"
HOME = "(?:UCSD)?{}"              # of one half of the archive
UCSD = {"http://www.svcl.ucsd.edu/projects/anomaly/UCSD_Anomaly_Dataset.tar.gz":
        "2329af326951f5097fdd114c50e853957d3e569493a49d22fc082a9fd791915b"}


def find_videos(roots: list[Path], dataset: str) -> Iterator[SourceVideo]:
    """Yield the videos of `dataset`, "ped1" or "ped2". UserError when a range fits no video."""
    home = HOME.format(dataset)
    ranges = [video for path, _ in matching(roots, f"{home}/{LABELS}") for video in read_m(path)]
    masks: dict[int, list[Path]] = {}
    for path, match in matching(roots, f"{home}/{MASKS}"):
        masks.setdefault(int(match[1]), []).append(path)
    videos: dict[tuple[str, int], list[Path]] = {}
    for path, match in matching(roots, f"{home}/{FRAMES}"):
        videos.setdefault((match[1].title(), int(match[2])), []).append(path)
    for (title, number), frames in videos.items():
        labels, pixels = None, tuple(masks.get(number, ())) if title == "Test" else ()
        name = f"{number:02d}"
        if title == "Test" and number <= len(ranges):
            labels = from_ranges({name: len(frames)}, [ranges[number - 1]])[name]
        yield SourceVideo(f"{title.lower()}ing", name, tuple(frames), labels, pixels or None)


def read_m(path: Path) -> list[list[tuple[int, int]]]:
    """Read lines `TestVideoFile{end+1}.gt_frame = [61:180, 190];`: per video pairs (first, last), counted from 0."""
    return [[(int(first) - 1, int(last or first) - 1) for first, last in re.findall(r"(\d+)(?:\s*:\s*(\d+))?", line)]
            for line in re.findall(r"gt_frame\s*=\s*\[(.*?)\]", path.read_text(errors="replace"))]


def benchmark(dataset: str, training: Sequence[int], testing: Sequence[int], **truths: Path) -> Benchmark:
    """Describe one half of the archive, whose videos, 01, 02, ..., have so many frames."""
    lengths = {split: {f"{i:02d}": length for i, length in enumerate(of_split, 1)}
               for split, of_split in (("training", training), ("testing", testing))}
    return Benchmark(
        "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm",
        files=tuple(f"{HOME.format(dataset)}/{pattern}" for pattern in (FRAMES, MASKS, LABELS)),
        find=partial(find_videos, dataset=dataset), aliases=(f"UCSD{dataset}",), archives=UCSD, truths=truths,
        totals={split: (len(known), sum(known.values())) for split, known in lengths.items()}, lengths=lengths)


BENCHMARKS = {
    "ped1": benchmark("ped1", 34 * [200], 36 * [200]),
    "ped2": benchmark("ped2", (120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150),
                      (180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180), official=RANGES / "ped2.json"),
}
