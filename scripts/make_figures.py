"""Draw the paper's figures from evaluations that lie on disk: no network, no frames, a few seconds.

    python scripts/make_figures.py RUN... [--out FOLDER] [--names NAME...] [--figures 4 5 6] [--videos 02 04]

     4  fig4_roc       ROC curves of all runs, a panel per data set
     5  fig5_curves    normality over the frames of each video, abnormal periods shaded
     6  fig6_errors    frame, prediction and error, where the evaluation left maps.npz
     7  fig7_gap       gap scores
     8  fig8_variants  ROC curves of runs of one data set whose model or loss differ, named by what differs
     9  fig9_gamma     AUC and memory updates over gamma, where scripts/sweep.py left sweep_gamma.csv
    10  fig10_lambda   AUC over lambda

RUN is a folder that evaluate.py wrote, or a run's folder with one in it. Each figure is written as .png and .pdf; what
cannot be drawn is skipped, and the list at the end says why.
"""

import argparse
import itertools
import json
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lgn_net.config import flatten
from lgn_net.errors import UserError
from lgn_net.report import figures
from lgn_net.report.tables import percent
from lgn_net.scores.evaluation import Evaluation, open_evaluation
from lgn_net.scores.maps import load_maps
from lgn_net.scores.metrics import Roc, auc, roc
from lgn_net.scores.protocols import Protocol, normality_under, paper_weights
from lgn_net.scores.results import Results
from lgn_net.scores.score_file import read_table
from lgn_net.terminal import run_command

STEMS = {4: "fig4_roc", 5: "fig5_curves", 6: "fig6_errors", 7: "fig7_gap", 8: "fig8_variants", 9: "fig9_gamma",
         10: "fig10_lambda"}
# Knobs that need no word when runs differ in them.
HARMLESS = ("seed", "data.workers", "data.cache", "train.log_every", "score.batch_size", "score.calibration")


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
    runs = open_runs(args.runs, args.names)

    # Everything is drawn before anything is written; of figures 5 and 6 every run has pages of its own.
    drawn: dict[str, Figure] = {}
    lines = []
    for number, stem in ((number, STEMS[number]) for number in dict.fromkeys(args.figures)):
        reasons, done = [why_not(number, run, args) for run in runs], len(drawn)
        usable = [run for run, why in zip(runs, reasons) if not why]
        for shown in [[run] for run in usable] if number in (5, 6) else [usable][:len(usable)]:
            own = "_" + re.sub(r"[^\w.-]+", "_", shown[0].name) if number in (5, 6) and len(runs) > 1 else ""
            made = draw(number, shown, args)
            drawn |= {f"{stem}{own}_{k}" if len(made) > 1 else stem + own: page for k, page in enumerate(made, 1)}
        if usable and len(drawn) == done:
            reasons.append("no two runs of one data set differ in model or loss")
        lines += [("without" if len(drawn) > done else "skipped", stem, why) for why in reasons if why]
    for stem, figure in drawn.items():
        png, pdf = figures.save_figure(figure, args.out / stem)
        lines.append(("written", stem, f"{png}, {pdf.suffix}"))
    width = max(len(stem) for _, stem, _ in lines)
    print("\n".join(f"{state}  {stem:<{width}}  {rest}" for state, stem, rest in lines))
    return 0 if drawn else 1


def open_runs(folders: Sequence[str], names: Sequence[str] | None) -> list[Run]:
    """Read the evaluations. UserError for a folder without one, one given twice, names that do not fit."""
    if names and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise UserError(f"--names {' '.join(names)}: give {len(folders)} different ones, one for each run")
    opened = [open_evaluation(folder) for folder in folders]
    paths = [folder.resolve() for _, _, folder in opened]
    if len(set(paths)) < len(paths):
        raise UserError(f"two of {' '.join(folders)} are the same evaluation; give each once")
    if not names:                                    # the folders' own, or where two have the same, as they were typed
        names = [path.parent.name if path.name.startswith("evaluation") else path.name for path in paths]
        names = names if len(set(names)) == len(names) else folders
    datasets = [dataset for dataset, _ in {(results.dataset, results.label_source) for _, results, _ in opened}]
    runs = []
    for name, (evaluation, results, folder) in zip(names, opened):
        group, labels = results.dataset or "scores", [video.labels for video in evaluation.videos]
        if datasets.count(results.dataset) > 1:
            group += f", labels: {results.label_source or 'own'}"
        normality = normality_under(Protocol.configured(results.scoring), *evaluation[:3])
        runs.append(Run(name, group, folder, evaluation, results, labels, normality, auc(labels, normality)))
    return runs


def why_not(number: int, run: Run, args: argparse.Namespace) -> str | None:
    """Say why a run is not in a figure; None where it is."""
    file, command = {6: ("maps.npz", "evaluate.py --checkpoint"),
                     9: ("sweep_gamma.csv", "scripts/sweep.py gamma")}.get(number, ("scores.csv", ""))
    if not (run.folder / file).is_file():
        return f"{run.name}: no {file} in the evaluation; {command} writes it"
    if number == 5 and args.videos and not {video.name for video in run.evaluation.videos} & {*args.videos}:
        return f"{run.name} has none of the videos {', '.join(args.videos)}"
    if number == 10 and not {"psnr"} < {*run.evaluation.weights}:
        return f"{run.name}: lambda weighs psnr against distance, it has only {', '.join(run.evaluation.weights)}"
    return f"{run.name}: frames of one class only" if run.auc is None and number in (4, 7, 9, 10) else None


def draw(number: int, runs: Sequence[Run], args: argparse.Namespace) -> list[Figure]:
    """Draw the pages of a figure."""
    groups = {group: [run for run in runs if run.group == group] for group in dict.fromkeys(run.group for run in runs)}
    named = {f"{run.name} ({run.group})" if len(groups) > 1 else run.name: run for run in runs}
    if number == 5:
        shown = [(video, x) for video, x in zip(runs[0].evaluation.videos, runs[0].normality)
                 if not args.videos or video.name in args.videos]
        return figures.curve_pages(*zip(*shown))
    if number == 6:
        return figures.draw_maps(load_maps(runs[0].folder / "maps.npz"))
    if number == 7:
        return [figures.gap_figure({group: {run.name: run.results.gap or 0.0 for run in members}
                                    for group, members in groups.items()})]
    if number == 9:
        columns, gammas = ("gamma", "auc", "memory_updates", "frames"), {}
        for name, run in named.items():
            table = read_table(run.folder / "sweep_gamma.csv", columns)
            gammas[name] = [dict(zip(columns, row)) for row in zip(*map(table.numbers, columns))]
        return [figures.gamma_figure(gammas, {name: (run.results.config or {}).get("score", {}).get("gamma")
                                              for name, run in named.items()})]
    if number == 10:
        return [figures.lambda_figure({name: [{"lambda": k / 50, "auc": auc_at(run, k / 50)} for k in range(51)]
                                       for name, run in named.items()},
                                      {name: run.evaluation.weights["psnr"] for name, run in named.items()})]
    panels = {group: variants(members, args.names) if number == 8 else {run.name: [run] for run in members}
              for group, members in groups.items()}
    lines = {group: dict(entry(*one) for one in alike.items()) for group, alike in panels.items() if alike}
    return [figures.roc_figure(lines)] if lines else []


def entry(name: str, runs: Sequence[Run]) -> tuple[str, list[Roc]]:
    """Make a line of a legend, the AUC of a run with its interval or the mean AUC of several, and its curves."""
    areas = [run.auc for run in runs if run.auc is not None]
    text, interval = f"{name}: {percent(float(np.mean(areas)), 1)} %", runs[0].results.interval
    if len(runs) > 1:
        text += f" (mean of {len(runs)} runs, {percent(min(areas), 1)} to {percent(max(areas), 1)})"
    elif interval and math.isclose(areas[0], runs[0].results.auc or 0):          # else it is of a macro average, say
        text += f" ({percent(interval[0], 1)} to {percent(interval[1], 1)})"
    return text, [curve for run in runs if (curve := roc(run.labels, run.normality))]


def variants(runs: Sequence[Run], keep_names: bool) -> dict[str, list[Run]]:
    """Group runs by the knobs of model and loss in which they differ; {} where they differ in none."""
    runs = [run for run in runs if run.results.config and run.auc is not None]
    settings = [flatten(run.results.config or {}) for run in runs]
    differ = [knob for knob in dict.fromkeys(itertools.chain(*settings))
              if any(one.get(knob) != settings[0].get(knob) for one in settings)]
    named = [knob for knob in differ if knob.startswith(("model.", "loss."))]
    if named and (others := [knob for knob in differ if knob not in (*named, *HARMLESS)]):
        warnings.warn(f"fig8_variants: runs of {runs[0].group} differ in {', '.join(others)}, too (not in its legend)")
    alike: dict[str, list[Run]] = {}
    for run, knobs in zip(runs, settings):
        says = ", ".join(f"{knob.partition('.')[2]} {json.dumps(knobs.get(knob))}" for knob in named)
        alike.setdefault(run.name if keep_names else says.replace('"', ""), []).append(run)
    return alike if named else {}


def auc_at(run: Run, psnr_weight: float) -> float | None:
    """Measure a run's scores with another lambda."""
    (videos, weights, training, _), protocol = run.evaluation, Protocol.configured(run.results.scoring)
    weights = paper_weights(psnr_weight, len(weights) - 1)
    return auc(run.labels, normality_under(protocol, videos, weights, training), protocol.average)


if __name__ == "__main__":
    run_command(main)
