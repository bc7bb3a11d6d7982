"""Find what is wrong with a data set before hours are spent on it.

    python scripts/check_data.py DATA --dataset ped2                # headers and ends of the files: seconds
    python scripts/check_data.py DATA --dataset ped2 --full         # and every pixel
    python scripts/check_data.py --dataset avenue --compare-labels  # the two truths of Avenue
    python scripts/check_data.py DATA --dataset mine --compare-labels A.csv B.npy

Lists the videos, then notes, which do no harm, and problems, each with what to do about it. Ends with OK and status 0,
or with the number of problems and status 1.
"""

import argparse
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
from tqdm import tqdm

from lgn_net.data.labels import load_labels, read_ranges
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import BENCHMARKS, canonical_name
from lgn_net.errors import UserError
from lgn_net.files import ROOT, to_json
from lgn_net.preparation.doctor import Report, examine, published_lengths
from lgn_net.preparation.survey import Split
from lgn_net.terminal import run_command

WIDTH = 100                # columns of the printed sentences


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", nargs="?",
                        help="folder that holds the data set's folder, or that folder itself")
    parser.add_argument("--dataset", required=True, help="ped2, ped1, avenue, shanghaitech, toy, or your own")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="label file; default: as evaluate.py finds it")
    parser.add_argument("--label_source", choices=("auto", "official", "ano_pred"), default="auto",
                        help="whose labels, of those that ship; auto: a file beside the frames comes first")
    parser.add_argument("--full", action="store_true", help="decode every frame")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    parser.add_argument("--compare-labels", nargs="*", metavar="FILE",
                        help="only show where two label files, or official and ano_pred, differ; alone: Avenue's two")
    args = parser.parse_args(argv)
    if args.data is None and args.compare_labels != []:
        raise UserError("give the folder of the data: scripts/check_data.py DATA --dataset " + args.dataset)
    if args.data is not None and not Path(args.data).is_dir():
        raise UserError(f"DATA {args.data}: no such folder")
    if args.compare_labels is not None:
        table = label_differences(args.data, args.dataset, args.compare_labels)
        print(to_json(table) if args.json else show_differences(table), end="")
        return 0

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    warnings.filterwarnings("ignore", module="PIL")                # damage is told below, with the name of the file
    with tqdm(desc="check", unit=" frames", delay=2, dynamic_ncols=True,
              mininterval=0.2 if sys.stderr.isatty() else 30) as bar:
        report = examine(Path(args.data), args.dataset, args.labels, args.label_source, args.full, bar)
    content = describe(args.dataset, report)
    text = to_json(content) if args.json else show(content)
    print(text.encode(errors="backslashreplace").decode(), end="")                  # names may be no UTF-8
    return 0 if content["ok"] else 1


def describe(dataset: str, report: Report) -> dict:
    """The report as plain lists and dictionaries, for JSON and for `show`."""
    splits = [describe_split(dataset, split) for split in report.splits]
    labels = None
    if report.labels:
        for row, y in zip(splits[-1]["videos"], report.labels):
            row["abnormal"] = int(y.sum())
        labels = {"file": str(report.labels_file), "source": report.label_source,
                  "frames": sum(map(len, report.labels)), "abnormal": int(sum(y.sum() for y in report.labels))}
    return {"dataset": dataset, "ok": all(finding.level != "problem" for finding in report.findings),
            "splits": splits, "labels": labels, "findings": [finding._asdict() for finding in report.findings]}


def describe_split(dataset: str, split: Split) -> dict:
    """A row per video."""
    known = published_lengths(dataset, split.name, split.videos)
    return {"split": split.name, "folder": str(split.folder), "every_frame_decoded": split.full, "videos": [{
        "video": video.name,
        "frames": len(frames),
        "published": known.get(video.name),
        "first": Path(video.frames[0]).name,
        "last": Path(video.frames[-1]).name,
        "sizes": counts(frame.size for frame in frames),
        "colours": counts(frame.colour for frame in frames),
        "formats": counts(frame.encoding for frame in frames),
        "bytes": sum(frame.bytes for frame in frames),
    } for video, frames in zip(split.videos, split.frames)]}


def show(content: dict) -> str:
    """The report as text: a table per split, then what was found."""
    parts = [f"{split['split']}: {split['folder']}\n{show_table([show_video(row) for row in split['videos']])}"
             for split in content["splits"]]
    if any("*" in part for part in parts):
        parts.append("* not all frames of the video\n")
    if labels := content["labels"]:
        file = Path(labels["file"]).resolve()
        file = file.relative_to(ROOT) if file.is_relative_to(ROOT) else labels["file"]
        parts.append(f"labels: {file} ({labels['source'] or 'your own'}), {labels['frames']:,} frames, "
                     f"{labels['abnormal']:,} abnormal ({100 * labels['abnormal'] / labels['frames']:.1f} %)\n")
    findings = sorted(content["findings"], key=lambda finding: finding["level"])         # notes first
    problems = sum(finding["level"] == "problem" for finding in findings)
    end = f"{problems} problem{'s' * (problems > 1)}\n" if problems else "OK\n"
    return "\n".join([*parts, "".join(map(show_finding, findings)) + end])


def show_video(row: dict) -> dict:
    """A row of the printed table."""
    first, last = (Path(row[key]).stem for key in ("first", "last"))
    abnormal = {"abnormal": row["abnormal"]} if "abnormal" in row else {}
    return {"video": row["video"], "frames": row["frames"], "published": row["published"] or "-",
            "names": f"{first} to {last}", "size": usual(row["sizes"]), "colour": usual(row["colours"]),
            "format": usual(row["formats"]), "MB": row["bytes"] / 1e6, **abnormal}


def show_finding(finding: dict) -> str:
    """The sentence, and below it what to do; that line is not broken, so that a command can be copied."""
    text = textwrap.fill(f"{finding['level']}: {finding['text']}", WIDTH, subsequent_indent="    ",
                         break_long_words=False, break_on_hyphens=False)
    return f"{text}\n    -> {finding['fix']}\n" if finding["fix"] else f"{text}\n"


def label_differences(data: str | None, dataset: str, sources: list[str]) -> dict:
    """Two labels against each other: for the videos of DATA, or, those that ship, for all published videos."""
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    truths = dict(sorted(benchmark.truths.items(), reverse=True)) if benchmark else {}
    if len(sources) == 2:
        videos = index_videos(find_split(data, dataset, "testing"))
        a, b = ({video.name: y for video, y in zip(videos, load_labels(truths.get(source, source), videos))}
                for source in sources)
    elif not sources and len(truths) == 2:
        sources, (a, b) = list(truths), map(read_ranges, truths.values())
    else:
        shipped = f", {len(truths)} of {dataset} ship with this project" if not sources else ""
        raise UserError(f"--compare-labels takes two label files, {len(sources)} given{shipped}; "
                        f"type DATA --dataset {dataset} --compare-labels FILE FILE")
    rows = [{"video": name, "frames": len(x), "abnormal in A": int(x.sum()), "abnormal in B": int(y.sum()),
             "only in A": int((x > y).sum()), "only in B": int((x < y).sum()), "different": int((x != y).sum())}
            for name, x, y in ((name, a[name], b[name]) for name in a)]
    return {"dataset": dataset, "A": sources[0], "B": sources[1], "frames": sum(row["frames"] for row in rows),
            "different": sum(row["different"] for row in rows), "videos": rows}


def show_differences(content: dict) -> str:
    """`label_differences` as text."""
    return (f"A: {content['A']}\nB: {content['B']}\n\n{show_table(content['videos'])}\n"
            f"{content['different']:,} of {content['frames']:,} frames differ\n")


def counts(values: Iterable[str | None]) -> dict[str, int]:
    """How often each value occurs, the most common first; None is not counted."""
    return dict(Counter(value for value in values if value).most_common())


def usual(counted: dict[str, int]) -> str:
    """The most common value, with a star when there are others."""
    return next(iter(counted), "-") + (" *" if len(counted) > 1 else "")


def show_table(rows: list[dict]) -> str:
    """Rows of equal keys under their names; numbers flush right, with sums in a last line where every row has one."""
    columns = list(rows[0])
    numbers = {key: [row[key] for row in rows if isinstance(row[key], int | float)] for key in columns}
    sums = {key: sum(values) for key, values in numbers.items() if len(values) == len(rows)}
    lines = [columns, *([show_cell(row.get(key, "")) for key in columns] for row in [*rows, {"video": "all", **sums}])]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "".join("  ".join(cell.rjust(width) if numbers[key] else cell.ljust(width) for key, cell, width in
                             zip(columns, line, widths)).rstrip() + "\n" for line in lines)


def show_cell(value: str | float) -> str:
    """Numbers with commas, those that are not whole with one decimal."""
    return value if isinstance(value, str) else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    run_command(main)
