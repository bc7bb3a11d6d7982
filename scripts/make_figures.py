"""Draw the paper's figures from evaluations that lie on disk: no network, no frames, a few seconds.

    python scripts/make_figures.py RUN... [--out FOLDER] [--names NAME...] [--figures 4 5 6] [--videos 02 04]

     4  fig4_roc      ROC curves of all runs, a panel per data set (also the paper's Fig. 8)
     5  fig5_curves   normality over the frames of each video, abnormal periods shaded
     6  fig6_errors   frame, prediction and error, where the evaluation left maps.npz
     7  fig7_gap      gap scores, as evaluated and at lambda 1
     9  fig9_gamma    AUC over gamma, where scripts/sweep.py left sweep_gamma.csv
    10  fig10_lambda  AUC over lambda

RUN is a folder that evaluate.py wrote, or a run's folder with one in it. Without --names, runs that differ in nothing
but the seed are one curve or bar: their mean, in a band of one standard deviation to either side.
"""

from pathlib import Path

from lgn_net.cli import Parser, show_help

STEMS = {4: "fig4_roc", 5: "fig5_curves", 6: "fig6_errors", 7: "fig7_gap", 9: "fig9_gamma", 10: "fig10_lambda"}
PARSER = Parser(__doc__)
add = PARSER.add_argument
add("runs", metavar="RUN", nargs="+", help="folder of an evaluation, or of a run with one in it")
add("--out", type=Path, default=Path("figures"), metavar="FOLDER", help="default: figures")
add("--names", nargs="+", metavar="NAME", help="of the runs; default: what differs in their paths")
add("--figures", nargs="+", type=int, choices=STEMS, metavar="N", default=STEMS, help="which")
add("--videos", nargs="+", metavar="VIDEO", help="which videos figure 5 shows; default: all")
show_help(__name__, PARSER)     # before slow imports

import json
import os
import re
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lgn_net.errors import UserError
from lgn_net.report import figures
from lgn_net.report.outcome import lambda_rows
from lgn_net.report.tables import interval, percent
from lgn_net.scores.evaluation import Evaluation, open_evaluation
from lgn_net.scores.maps import load_maps
from lgn_net.scores.metrics import auc, roc
from lgn_net.scores.protocols import Protocol, normality_under
from lgn_net.scores.score_file import read_table
from lgn_net.terminal import run_command


class Run(NamedTuple):
    """An evaluation under the name that the figures give it."""

    name: str
    group: str                         # data set and labels: only within a group can runs be compared
    folder: Path
    evaluation: Evaluation
    labels: list[np.ndarray]           # (n_v,) of each video
    normality: list[np.ndarray]        # likewise, as it was measured


def main(argv: list[str]) -> None:
    """Draw what the command line asks for, and list what was written, and what was not and why."""
    args = PARSER.parse_args(argv)
    # Figure after figure: what each run gives to it, its pages, its files.
    rows = open_rows(args.runs, args.names)
    for number in args.figures:
        parts = {}
        for name, runs in rows.items():
            try:
                parts[name] = [part(number, run, args.videos) for run in runs]
            except (UserError, OSError) as error:
                why = f"no {error.filename}" if isinstance(error, FileNotFoundError) else error
                print(f"skipped  {STEMS[number]}  {name}: {why}")
        for page, figure in draw(number, rows, parts).items() if parts else ():
            png, pdf = figures.save_figure(figure, args.out / (STEMS[number] + page))
            print(f"written  {STEMS[number]}  {png}, {pdf.suffix}")


def open_rows(folders: Sequence[str], given: Sequence[str] | None) -> dict[str, list[Run]]:
    """Read the evaluations, by the name of a row those that differ in the seed alone; UserError for unfit names."""
    opened = [open_evaluation(folder) for folder in folders]
    paths = [folder.resolve() for _, folder in opened]
    paths = [path.parent if path.name == "evaluation_last" else path for path in paths]
    common = os.path.commonpath([path.parent for path in paths])
    names = given or [path.relative_to(common).as_posix() for path in paths]
    if not len(set(names)) == len(names) == len(folders):
        raise UserError(f"{len(folders)} runs are called {', '.join(names)}; give --names, a different one for each")
    rows: dict[str, list[Run]] = {}
    for name, (evaluation, folder) in zip(names, opened):
        about, labels = evaluation.about, [video.labels for video in evaluation.videos]
        group = ", ".join(filter(None, (about["dataset"] or "scores", about["label_source"])))
        key = json.dumps([group, about["config"] | {"seed": None}]) if "config" in about and not given else name
        normality = normality_under(Protocol.configured(about["scoring"]), *evaluation[:3])
        rows.setdefault(key, []).append(Run(name, group, folder, evaluation, labels, normality))
    named = {}
    for runs in rows.values():
        shared = os.path.commonpath([run.name for run in runs]) or runs[0].name
        named[f"{shared}, {len(runs)} runs" if len(runs) > 1 else shared] = runs
    return named


def part(number: int, run: Run, videos: Sequence[str] | None) -> Any:
    """Collect what a run gives to a figure, see `draw`. UserError or OSError saying why when it gives nothing."""
    about = run.evaluation.about
    if number == 5:
        shown = [(one, x) for one, x in zip(run.evaluation.videos, run.normality) if not videos or one.name in videos]
        if not shown:
            raise UserError(f"none of the videos {', '.join(videos or ())}")
        return figures.curve_pages(*zip(*shown), point=about.get("at_eer"))
    if number == 6:
        return figures.draw_maps(load_maps(run.folder / "maps.npz"))
    if not (curve := roc(run.labels, run.normality)):
        raise UserError("frames of one class only")
    if number == 7:
        return [gap for gap in (about["gap"], about.get("gap_psnr")) if gap is not None]
    if number == 9:
        table = read_table(run.folder / "sweep_gamma.csv", ("gamma", "auc"))
        return table["gamma"], table["auc"], about["config"]["score"]["gamma"]
    if number == 10:
        swept = lambda_rows(run.evaluation, 50)
        return *(np.array([row[key] for row in swept]) for key in ("lambda", "auc")), run.evaluation.weights["psnr"]
    return curve


def draw(number: int, rows: dict[str, list[Run]], parts: dict[str, list]) -> dict[str, Figure]:
    """Draw the pages of a figure of what `part` gives for each run; their keys are added to the figure's name."""
    if number in (5, 6):
        return {re.sub(r"[^\w.-]+", "_", f"_{run.name}_{k}"): page for name, of_row in parts.items()
                for run, pages in zip(rows[name], of_row) for k, page in enumerate(pages, 1)}
    if number == 7:
        bars = {f"{name} ({rows[name][0].group})": [*map(statistics.mean, zip(*gaps))] for name, gaps in parts.items()}
        return {"": figures.gap_figure(bars)}
    if number in (9, 10):
        return {"": figures.sweep_figure("gamma" if number == 9 else "lambda", parts)}
    # The legend says the AUC of a run with its interval, or the mean of several with Student's.
    panels: dict[str, dict[str, list]] = {}
    for name, curves in parts.items():
        aucs = [100 * (auc(run.labels, run.normality) or 0) for run in rows[name]]
        text, about = f"{name}: {statistics.mean(aucs):.1f} %", rows[name][0].evaluation.about
        if len(aucs) > 1:
            text += f" ({interval(aucs)[0]})"
        elif about["interval"] and abs(aucs[0] - 100 * (about["auc"] or 0)) < 1e-9:   # else of a macro average, say
            text += f" ({percent(about['interval'][0], 1)} to {percent(about['interval'][1], 1)})"
        panels.setdefault(rows[name][0].group, {})[text] = curves
    return {"": figures.roc_figure(panels)}


if __name__ == "__main__":
    run_command(main)
