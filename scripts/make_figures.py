"""Draw the paper's figures from evaluations that lie on disk: no network, no frames, a few seconds.

    python scripts/make_figures.py RUN... [--out FOLDER] [--names NAME...] [--figures 4 5 6] [--videos 02 04]

     4  fig4_roc       ROC curves of all runs, a panel per data set
     5  fig5_curves    normality over the frames of each video, abnormal periods shaded
     6  fig6_errors    frame, prediction and error, where the evaluation left maps.npz
     7  fig7_gap       gap scores
     8  fig8_variants  ROC curves of runs of one data set whose model or loss differ, named by what differs
     9  fig9_gamma     AUC over gamma, where scripts/sweep.py left sweep_gamma.csv
    10  fig10_lambda   AUC over lambda

RUN is a folder that evaluate.py wrote, or a run's folder with one in it. Each figure is written as .png and .pdf; what
cannot be drawn is skipped, and the list at the end says why.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lgn_net.config import flatten
from lgn_net.errors import UserError
from lgn_net.report import figures
from lgn_net.report.tables import percent
from lgn_net.scores.evaluation import Evaluation, open_evaluation
from lgn_net.scores.maps import load_maps
from lgn_net.scores.metrics import auc, roc
from lgn_net.scores.protocols import Protocol, normality_under, paper_weights
from lgn_net.scores.results import Results
from lgn_net.scores.score_file import read_table
from lgn_net.terminal import run_command

STEMS = {4: "fig4_roc", 5: "fig5_curves", 6: "fig6_errors", 7: "fig7_gap", 8: "fig8_variants", 9: "fig9_gamma",
         10: "fig10_lambda"}


class Run(NamedTuple):
    """An evaluation under the name that the figures give it."""

    name: str
    group: str                         # data set and labels: only within a group can runs be compared
    folder: Path
    evaluation: Evaluation
    results: Results
    labels: list[np.ndarray]           # (n_v,) of each video
    normality: list[np.ndarray]        # likewise, as it was measured
    auc: float | None                  # over all frames; None when a class is missing


def main(argv: list[str]) -> int:
    """Draw the figures that the command line asks for, write them, and list what was written and what was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of an evaluation, or of a run with one in it")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="FOLDER", help="default: figures")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs; default: their folders'")
    parser.add_argument("--figures", nargs="+", type=int, choices=STEMS, metavar="N", default=list(STEMS),
                        help="which; default: all, 4 to 10")
    parser.add_argument("--videos", nargs="+", metavar="VIDEO", help="which videos figure 5 shows; default: all")
    args = parser.parse_args(argv)
    runs, drawn = open_runs(args.runs, args.names), 0
    for number in args.figures:
        parts = []
        for run in runs:
            try:
                parts.append((run, part(number, run, args.videos)))
            except (UserError, OSError) as why:
                print(f"skipped  {STEMS[number]}  {run.name}: {why}")
        pages = draw(number, parts) if parts else {}
        if parts and not pages:
            print(f"skipped  {STEMS[number]}  no two runs of one data set differ in model or loss")
        for name, figure in pages.items():
            png, pdf = figures.save_figure(figure, args.out / (STEMS[number] + name))
            print(f"written  {STEMS[number]}  {png}, {pdf.suffix}")
            drawn += 1
    return 0 if drawn else 1


def open_runs(folders: Sequence[str], names: Sequence[str] | None) -> list[Run]:
    """Read the evaluations. UserError for a folder without one, and for names that do not fit."""
    opened = [open_evaluation(folder) for folder in folders]
    paths = [folder.resolve() for _, folder in opened]
    names = names or [(path.parent if path.name.startswith("evaluation") else path).name for path in paths]
    if not len(set(names)) == len(names) == len(folders):
        raise UserError(f"{len(folders)} runs are called {', '.join(names)}; give --names, a different one for each")
    runs = []
    for name, (evaluation, folder) in zip(names, opened):
        results, labels = evaluation.about, [video.labels for video in evaluation.videos]
        group = ", ".join(filter(None, (results["dataset"] or "scores", results["label_source"])))
        normality = normality_under(Protocol.configured(results["scoring"]), *evaluation[:3])
        runs.append(Run(name, group, folder, evaluation, results, labels, normality, auc(labels, normality)))
    return runs


def part(number: int, run: Run, videos: Sequence[str] | None) -> Any:
    """Collect what a run gives to a figure, see `draw`. UserError or OSError saying why when it gives nothing."""
    if number == 5:
        shown = [(video, x) for video, x in zip(run.evaluation.videos, run.normality)
                 if not videos or video.name in videos]
        if not shown:
            raise UserError(f"none of the videos {', '.join(videos or ())}")
        return figures.curve_pages(*zip(*shown), point=run.results.get("at_eer"))
    if number == 6:
        if not (maps := load_maps(run.folder / "maps.npz")):
            raise UserError("maps.npz holds no frames")
        return figures.draw_maps(maps)
    if run.auc is None:
        raise UserError("frames of one class only")
    if number == 8 and "config" not in run.results:
        raise UserError("the network is not known")
    if number == 9:
        table = read_table(run.folder / "sweep_gamma.csv", ("gamma", "auc"))
        return ([{"gamma": gamma, "auc": value} for gamma, value in zip(table["gamma"], table["auc"])],
                run.results["config"]["score"]["gamma"])
    if number == 10:
        (scored, weights, training, _), protocol = run.evaluation, Protocol.configured(run.results["scoring"])
        if not {"psnr"} < {*weights}:
            raise UserError(f"lambda weighs psnr against distance, it has only {', '.join(weights)}")
        rows = []
        for value in np.linspace(0, 1, 51):
            normal = normality_under(protocol, scored, paper_weights(value, len(weights) - 1), training)
            rows.append({"lambda": value, "auc": auc(run.labels, normal, protocol.average)})
        return rows, weights["psnr"]
    return run.results["gap"]


def draw(number: int, parts: Sequence[tuple[Run, Any]]) -> dict[str, Figure]:
    """Draw the pages of a figure of what `part` gives; their keys are added to the figure's name."""
    if number in (5, 6):
        return {re.sub(r"[^\w.-]+", "_", f"_{run.name}_{k}"): page for run, pages in parts
                for k, page in enumerate(pages, 1)}
    if number in (9, 10):
        return {"": figures.sweep_figure("gamma" if number == 9 else "lambda", {run.name: one for run, one in parts})}
    if number == 7:
        return {"": figures.gap_figure({f"{run.name} ({run.group})": gap for run, gap in parts})}
    groups: dict[str, list[Run]] = {}
    for run, _ in parts:
        groups.setdefault(run.group, []).append(run)
    panels = {}
    for group, runs in groups.items():
        names = differences(runs) if number == 8 else [run.name for run in runs]
        if names:
            panels[group] = {legend(name, run): roc(run.labels, run.normality) for name, run in zip(names, runs)}
    return {"": figures.roc_figure(panels)} if panels else {}


def legend(name: str, run: Run) -> str:
    """Make a line of a legend: the AUC of a run with its interval."""
    interval, text = run.results["interval"], f"{name}: {percent(run.auc, 1)} %"
    if interval and math.isclose(run.auc, run.results["auc"]):                   # else it is of a macro average, say
        text += f" ({percent(interval[0], 1)} to {percent(interval[1], 1)})"
    return text


def differences(runs: Sequence[Run]) -> list[str]:
    """Name runs by the knobs of model and loss in which they differ; [] where they differ in none."""
    settings = [flatten({part: run.results["config"][part] for part in ("model", "loss")}) for run in runs]
    differ = [knob for knob in settings[0] if any(knobs.get(knob) != settings[0][knob] for knobs in settings)]
    names = []
    for run, knobs in zip(runs, settings):
        says = ", ".join(f"{knob.partition('.')[2]} {json.dumps(knobs.get(knob))}" for knob in differ)
        names.append(f"{says} ({run.name})".replace('"', ""))
    return names if differ else []


if __name__ == "__main__":
    run_command(main)
