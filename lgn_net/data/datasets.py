"""What is known of each benchmark. To add one, add an entry here and a file in configs/."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Benchmark:
    """Facts about a published data set, to recognise a complete copy of it and to find its labels.

    `train`, `test` are (videos, frames); `aliases` are other names of its folder and label files; `ranges` is a labels
    file that ships with the project.
    """

    train: tuple[int, int]
    test: tuple[int, int]
    aliases: tuple[str, ...] = ()
    ranges: Path | None = None


BENCHMARKS = {
    "ped2": Benchmark(train=(16, 2550), test=(12, 2010), aliases=("UCSDped2",),
                      ranges=Path(__file__).parent / "ranges" / "ped2.json"),
    "avenue": Benchmark(train=(16, 15328), test=(21, 15324)),
    "shanghaitech": Benchmark(train=(330, 274515), test=(107, 40791), aliases=("shanghai",)),
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
