"""Find what is wrong with a data set before hours are spent on it.

    python scripts/check_data.py DATA --dataset ped2                # headers and ends of the files: seconds
    python scripts/check_data.py DATA --dataset ped2 --full         # and every pixel
    python scripts/check_data.py --dataset avenue --compare-labels  # the two truths of Avenue
    python scripts/check_data.py DATA --dataset mine --compare-labels A.csv B.npy

Lists the videos, then notes, which do no harm, and problems, each with what to do about it. Ends with OK and status 0,
or with the number of problems and status 1.
"""

import argparse
import textwrap
import warnings
from pathlib import Path
from typing import Any

from lgn_net.data.labels import load_labels, read_ranges
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import BENCHMARKS, facts_of
from lgn_net.errors import UserError
from lgn_net.files import ROOT, to_json
from lgn_net.preparation.doctor import examine
from lgn_net.terminal import run_command


def main(argv: list[str]) -> int:
    """Check a data set, or compare two label files. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", nargs="?",
                        help="folder that holds the data set's folder, or that folder itself")
    parser.add_argument("--dataset", required=True, help=f"{', '.join(BENCHMARKS)}, toy, or your own")
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
    if args.compare_labels is not None:
        content = label_differences(args.data, args.dataset, args.compare_labels)
        text = (f"A: {content['A']}\nB: {content['B']}\n\n{show_table(content['videos'])}\n"
                f"{content['different']:,} of {content['frames']:,} frames differ\n")
        print(to_json(content) if args.json else text, end="")
        return 0

    warnings.filterwarnings("ignore", module="PIL")                # damage is told below, with the name of the file
    content = examine(Path(args.data), args.dataset, args.labels, args.label_source, args.full)
    text = to_json(content) if args.json else show(content)
    print(text.encode(errors="backslashreplace").decode(), end="")                  # names may be no UTF-8
    return 0 if content["ok"] else 1


def show(content: dict[str, Any]) -> str:
    """Print the report as text: a table per split, then the findings, notes first.

    The line that says what to do is not broken, so that a command can be copied.
    """
    parts = [f"{split['split']}: {split['folder']}\n{show_table([show_video(row) for row in split['videos']])}"
             for split in content["splits"]]
    if labels := content["labels"]:
        parts.append("labels: {} ({}), {:,} frames, {:,} abnormal ({:.1%})\n".format(
            labels["file"].removeprefix(f"{ROOT}/"), labels["source"] or "your own", labels["frames"],
            labels["abnormal"], labels["abnormal"] / labels["frames"]).replace("%)", " %)"))
    lines = []
    for finding in sorted(content["findings"], key=lambda finding: finding["level"]):
        lines.append(textwrap.fill(f"{finding['level']}: {finding['text']}", 100, subsequent_indent="    ",
                                   break_long_words=False, break_on_hyphens=False))
        lines += [f"    -> {finding['fix']}"] if finding["fix"] else []
    problems = sum(finding["level"] == "problem" for finding in content["findings"])
    lines.append(f"{problems} problem{'s' * (problems > 1)}" if problems else "OK")
    return "\n".join([*parts, "\n".join(lines)]) + "\n"


def show_video(row: dict[str, Any]) -> dict[str, Any]:
    """Make a row of the printed table; a star follows a value that not all frames of the video have."""
    usual = {key: next(iter(row[f"{key}s"]), "-") + " *" * (len(row[f"{key}s"]) > 1)
             for key in ("size", "colour", "format")}
    return {"video": row["video"], "frames": row["frames"], "published": row["published"] or "-",
            "names": f"{Path(row['first']).stem} to {Path(row['last']).stem}", **usual, "MB": row["bytes"] / 1e6,
            **{key: row[key] for key in ("abnormal",) if key in row}}


def label_differences(data: str | None, dataset: str, sources: list[str]) -> dict[str, Any]:
    """Compare two labels: for the videos of DATA, or, those that ship, for all published videos."""
    truths = dict(sorted(facts_of(dataset).truths.items(), reverse=True))
    if len(sources or truths) != 2:
        raise UserError(f"--compare-labels takes two label files, {len(sources)} given, and {len(truths)} of {dataset} "
                        f"ship with this project; type DATA --dataset {dataset} --compare-labels FILE FILE")
    if sources:
        lengths = {video.name: len(video.frames) for video in index_videos(find_split(data or ".", dataset, "testing"))}
        a, b = (load_labels(truths.get(source, source), lengths) for source in sources)
    else:
        a, b = map(read_ranges, truths.values())
    rows = [{"video": name, "frames": len(x), "abnormal in A": int(x.sum()), "abnormal in B": int(b[name].sum()),
             "only in A": int((x > b[name]).sum()), "only in B": int((x < b[name]).sum()),
             "different": int((x != b[name]).sum())} for name, x in a.items()]
    file_a, file_b = sources or truths
    return {"dataset": dataset, "A": file_a, "B": file_b, "frames": sum(row["frames"] for row in rows),
            "different": sum(row["different"] for row in rows), "videos": rows}


def show_table(rows: list[dict[str, Any]]) -> str:
    """Print rows of equal keys under their names; numbers flush right, with sums below where every row has one."""
    columns = list(rows[0])
    numbers = {key: [row[key] for row in rows if isinstance(row[key], int | float)] for key in columns}
    sums = {key: sum(values) for key, values in numbers.items() if len(values) == len(rows)}
    lines = [columns, *([show_cell(row.get(key, "")) for key in columns] for row in [*rows, {"video": "all", **sums}])]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "".join("  ".join(cell.rjust(width) if numbers[key] else cell.ljust(width) for key, cell, width in
                             zip(columns, line, widths)).rstrip() + "\n" for line in lines)


def show_cell(value: str | float) -> str:
    """Print numbers with commas, those that are not whole with one decimal."""
    return value if isinstance(value, str) else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    run_command(main)
