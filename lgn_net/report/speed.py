"""What `scripts/benchmark.py` measured, as tables."""

import math
from collections.abc import Mapping, Sequence

from lgn_net.benchmark import STATUS
from lgn_net.report.tables import markdown


def print_heading(result: Mapping, about: str) -> None:
    """What was measured, and where."""
    versions, size = result["versions"], result["image_size"]
    gpu = "" if versions["device"].startswith(("cpu", "mps")) else f", {versions['device']}"
    print(f"{result['dataset']} at {size} x {size} x {result['channels']}, {about}; repeats: {result['repeats']}\n"
          f"{result['cpu']}, {result['threads']} threads{gpu or ', no GPU'}; torch {versions['torch']}, "
          f"lgn_net {versions['lgn_net']} at {versions['git']}")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A title and the table below it; numbers with three digits or more."""
    cells = [[cell if isinstance(cell, str) else significant(cell) for cell in row] for row in rows]
    print(f"\n{title}\n\n{markdown(header, cells)}")


def significant(value: float, digits: int = 3) -> str:
    """As text, with so many digits, or more where they stand before the point."""
    if value == 0 or isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def print_evaluate(result: Mapping) -> None:
    """The tables of `benchmark_evaluate`."""
    frames = result["frames"]
    print_heading(result, f"{frames} frames of video {result['video']}, {result['updates']} of which update the "
                          f"memory, {result['batch_size']} windows at once")
    print_ways(result, "frame", "evaluation", "plain: the authors' way, float32")
    print_table("Largest differences from the plain scores", ["evaluation", "PSNR dB", "D", "updates that differ"],
                [[way, f"{d['max_psnr_db']:.1e}", f"{d['max_distance']:.1e}", f"{d['updates_differ']} of {frames}"]
                 for way, d in result["agreement"].items()])
    print_parts(result, "Parts of a frame, one after the other: ms and share")
    print_table("A live frame, from file to scores", ["evaluation", "p50 ms", "p95 ms", "frames"],
                [[way, d["p50_ms"], d["p95_ms"], d["frames"]] for way, d in result["latency"].items()])


def print_ways(result: Mapping, unit: str, task: str, note: str) -> None:
    """Speed of all the ways, and the floor below it."""
    rows = result["ways"].items()
    print_table(f"Speed ({note})", [task, f"{unit}s/s", f"s/{unit}", "ratio", "peak MB"],
                [[way, f[f"{unit}s_per_s"], f[f"s_per_{unit}"], f["ratio"], round(f["peak_mb"])] for way, f in rows])
    if result["versions"]["device"].startswith(("cpu", "mps")):
        print(f"\npeak MB: resident memory of the whole process, with what all ways keep"
              f"{'' if STATUS.exists() else '; since it began'}")
    print_table("Floor: the arithmetic alone, at the speed of one large convolution",
                [task, f"GFLOP/{unit}", "device GFLOP/s", f"floor s/{unit}", "reached %"],
                [[way, f[f"gflop_per_{unit}"], f["device_gflop_per_s"], f[f"floor_s_per_{unit}"], 100 * f["reached"]]
                 for way, f in rows])


def print_train(result: Mapping) -> None:
    """The tables of `benchmark_train`."""
    print_heading(result, f"{result['steps']} steps of {result['batch_size']} images")
    print_ways(result, "image", "training", "plain: float32, contiguous layout, Adam parameter by parameter")
    print_parts(result, "Parts of a step, one after the other: ms per image and share")


def print_parts(result: Mapping, title: str) -> None:
    """Milliseconds and shares of the parts, for each way."""
    def cell(ms: float, share: float) -> str:
        return f"{significant(ms)} {100 * share:6.1f} %"

    ways = result["parts"].values()
    rows = [[part, *(cell(*parts[part].values()) for parts in ways)] for part in next(iter(ways))]
    rows.append(["all", *(cell(sum(part["ms"] for part in parts.values()), 1.0) for parts in ways)])
    print_table(title, ["part", *result["parts"]], rows)


def print_data(result: Mapping) -> None:
    """The table of `benchmark_data`."""
    print_heading(result, f"{result['frames']} frames packed in {result['packing_s']:.1f} s to "
                          f"{result['packed_mb']:.0f} MB")
    print_table("Loader", ["windows", "windows/s", "ratio"],
                [[way, rate, result["ratio"][way]] for way, rate in result["windows_per_s"].items()])


def print_gamma(result: Mapping) -> None:
    """The table of `benchmark_gamma`."""
    print_heading(result, f"{result['frames']} frames of video {result['video']}, of which "
                          f"{', '.join(map(str, result['updates']))} update the memory under the ten gammas")
    print_table("Evaluation", ["evaluation", "s", "ratio"],
                [[way, seconds, result["ratio"][way]] for way, seconds in result["seconds"].items()])
