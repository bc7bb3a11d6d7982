"""What is known of each benchmark. To add one, add an entry here and a file in configs/."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

RANGES = Path(__file__).parent / "ranges"


class Archive(NamedTuple):
    """A published file."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rpartition("/")[2]


UCSD = Archive("http://www.svcl.ucsd.edu/projects/anomaly/UCSD_Anomaly_Dataset.tar.gz",
               "2329af326951f5097fdd114c50e853957d3e569493a49d22fc082a9fd791915b")
AVENUE = (Archive("http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/Avenue_Dataset.zip",
                  "fc9cb8432a11ca79c18aa180c72524011411b69d3b0ff27c8816e41c0de61531"),
          Archive("http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/ground_truth_demo.zip",
                  "60fec1728ec8f73a58aad3aeb5729d70a805a47e0b8eb4bf91ab67ef06386d77"))


def numbered(lengths: Sequence[int]) -> dict[str, int]:
    """Lengths of videos 01, 02, ..."""
    return {f"{i:02d}": length for i, length in enumerate(lengths, 1)}


def lengths_in(ranges: Path) -> dict[str, int]:
    """Lengths of the videos of a labels file that ships."""
    content = json.loads(ranges.read_text())
    return dict(zip(content["videos"], content["frames"], strict=True))


@dataclass(frozen=True)
class Benchmark:
    """Facts about a published data set, to get it, to recognise a complete copy of it and to find its labels.

    `train`, `test` are (videos, frames); `train_lengths`, `test_lengths` the frames of single videos by name, as far as
    they are known; `aliases` are other names of its folder and label files; `truths` are the labels that ship with the
    project by the name of their source, first the one that published numbers used; `archives` are the published files,
    none where only `page` hands them out.
    """

    title: str
    page: str
    train: tuple[int, int]
    test: tuple[int, int]
    train_lengths: dict[str, int] = field(default_factory=dict)
    test_lengths: dict[str, int] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    truths: dict[str, Path] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()


BENCHMARKS = {
    "ped2": Benchmark(
        "UCSD Ped2", "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm", train=(16, 2550), test=(12, 2010),
        train_lengths=numbered((120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150)),
        test_lengths=lengths_in(RANGES / "ped2.json"), aliases=("UCSDped2",),
        truths={"official": RANGES / "ped2.json"}, archives=(UCSD,)),
    "ped1": Benchmark(
        "UCSD Ped1", "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm", train=(34, 6800), test=(36, 7200),
        train_lengths=numbered(34 * (200,)), test_lengths=numbered(36 * (200,)), aliases=("UCSDped1",),
        archives=(UCSD,)),
    "avenue": Benchmark(
        "CUHK Avenue", "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html",
        train=(16, 15328), test=(21, 15324), train_lengths={"10": 1223, "11": 781, "12": 145, "16": 244},
        test_lengths=lengths_in(RANGES / "avenue_official.json"),
        truths={"ano_pred": RANGES / "avenue_ano_pred.json", "official": RANGES / "avenue_official.json"},
        archives=AVENUE),
    "shanghaitech": Benchmark(
        "ShanghaiTech Campus", "https://svip-lab.github.io/dataset/campus_dataset.html",
        train=(330, 274515), test=(107, 40791), aliases=("shanghai",)),
}


def canonical_name(dataset: str) -> str:
    """`shanghai` -> `shanghaitech`; names that no benchmark has stay as they are."""
    for name, benchmark in BENCHMARKS.items():
        if dataset.lower() in (name, *(alias.lower() for alias in benchmark.aliases)):
            return name
    return dataset


def names_of(dataset: str) -> tuple[str, ...]:
    """Every name under which the data set's folder and files are known, the canonical one first."""
    name = canonical_name(dataset)
    return (name, *BENCHMARKS[name].aliases) if name in BENCHMARKS else (name,)


def known_lengths(dataset: str, split: str) -> dict[str, int]:
    """Published number of frames per video of a split ("training" or "testing"), by name; may lack videos, or all."""
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    if benchmark is None:
        return {}
    return benchmark.train_lengths if split == "training" else benchmark.test_lengths


def difference_from_published(dataset: str, split: str, lengths: list[int]) -> str | None:
    """A sentence when a split ("training" or "testing") is not the complete benchmark; None when it is, or is unknown.

    `lengths` are the frame counts of its videos.
    """
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    if benchmark is None:
        return None
    known = benchmark.train if split == "training" else benchmark.test
    if (len(lengths), sum(lengths)) == known:
        return None
    return (f"{dataset} {split}: {len(lengths)} videos with {sum(lengths)} frames here, {known[0]} videos with "
            f"{known[1]} frames in the published set; results do not compare with published ones")
