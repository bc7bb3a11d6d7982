"""What is known of each benchmark, a file per data set. To add one, add a file here and a file in configs/.

Every module of this folder that has `BENCHMARKS`, a dictionary of `Benchmark` by name, is found.
"""

import importlib
import pkgutil

from lgn_net.datasets.common import Archive, Benchmark, Layout, SourceVideo
from lgn_net.datasets.custom import CUSTOM

__all__ = ["BENCHMARKS", "Archive", "Benchmark", "Layout", "SourceVideo", "canonical_name", "difference_from_published",
           "known_lengths", "layout_of", "names_of", "truths_of"]


def find_benchmarks() -> dict[str, Benchmark]:
    """Collect the benchmarks that the modules of this folder describe, by name."""
    found: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        found |= getattr(importlib.import_module(module.name), "BENCHMARKS", {})
    return found


BENCHMARKS = find_benchmarks()


def canonical_name(dataset: str) -> str:
    """Turn an alias such as `shanghai` into `shanghaitech`; a name that no benchmark has stays as it is."""
    for name, benchmark in BENCHMARKS.items():
        if dataset.lower() in (name, *(alias.lower() for alias in benchmark.aliases)):
            return name
    return dataset


def names_of(dataset: str) -> tuple[str, ...]:
    """Return every name of the data set's folder and files, the canonical one first."""
    name = canonical_name(dataset)
    return (name, *BENCHMARKS[name].aliases) if name in BENCHMARKS else (name,)


def layout_of(dataset: str) -> Layout:
    """Return the layout of a benchmark's published files, or that of a user's own videos."""
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    return benchmark.layout if benchmark else CUSTOM


def truths_of(dataset: str | None) -> dict:
    """Return the label files that ship for a data set, by source, that of published numbers first; {} for none."""
    benchmark = BENCHMARKS.get(canonical_name(dataset or ""))
    return benchmark.truths if benchmark else {}


def known_lengths(dataset: str, split: str) -> dict[str, int]:
    """Return the published number of frames per video of a split ("training" or "testing"); may lack videos, or all."""
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    lengths = benchmark.split(split)[1] if benchmark else {}
    return {name: length for name, length in lengths.items() if length is not None}


def difference_from_published(dataset: str, split: str, lengths: list[int]) -> str | None:
    """Say in a sentence how a split differs from the complete benchmark.

    Args:
        dataset: name or alias.
        split: "training" or "testing".
        lengths: frames of each video that is there.

    Returns:
        None when nothing is missing, and when the data set is no benchmark.
    """
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    if benchmark is None:
        return None
    known = benchmark.split(split)[0]
    if (len(lengths), sum(lengths)) == known:
        return None
    return (f"{dataset} {split}: {len(lengths)} videos with {sum(lengths)} frames here, {known[0]} videos with "
            f"{known[1]} frames in the published set; results do not compare with published ones")
