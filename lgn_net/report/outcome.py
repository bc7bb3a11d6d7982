"""From scored frames to results.json, tables, pictures and the report: what evaluate.py and measure.py share."""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from warnings import warn

import numpy as np
from jsonargparse import Namespace

from lgn_net.cli import knob_parser, parse_command
from lgn_net.config import Config, flatten
from lgn_net.data.labels import shipped_truths
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic
from lgn_net.report.tables import ENVIRONMENT, PUBLISHED, WORDS, percent
from lgn_net.scores.evaluation import Evaluation
from lgn_net.scores.maps import FrameMap, save_maps
from lgn_net.scores.metrics import all_frames, auc, padded_chance
from lgn_net.scores.protocols import SCORING, Protocol, compare, grid, measure, normality_under, paper_weights
from lgn_net.scores.results import Results
from lgn_net.scores.score_file import Videos, write_scores
from lgn_net.terminal import optional

# Knobs that tell one network from another, beside its system.
IDENTITY = ("model.", "loss.", "train.epochs", "train.batch_size", "train.lr", "train.precision")


def finish(evaluation: Evaluation, normal: list[np.ndarray], config: Config, args: Namespace, other: Evaluation | None,
           out: Path | None, maps: Sequence[FrameMap]) -> None:
    """Measure, write all files into the folder `out` (None: nothing), and print.

    `normal` is the normality (n_v,) under the protocol of the configuration; `args` has the measuring arguments; `maps`
    go into the report. UserError for other labels than those of `other`, and, at the end, an AUC that is undefined.
    """
    # Everything is measured before anything is written.
    results = measure_all(evaluation, config, args, other)
    videos, point, files = evaluation.videos, results["at_eer"], dict[str, Path]()
    if out:
        made = [{"normality": x} | ({"decision": (x <= point["threshold"]) * 1.0} if point else {}) for x in normal]
        write_scores(out / "scores.csv", [one._replace(signals=one.signals | new) for one, new in zip(videos, made)])
        if evaluation.training:
            write_scores(out / "calibration.csv", evaluation.training, labelled=False)
        save_maps(out / "maps.npz", maps)
        results["scores_crc32"] = zlib.crc32((out / "scores.csv").read_bytes())
        write_atomic(out / "results.json", to_json(results))
        # Imported only now, as printing alone needs neither library; a missing one costs no more than its own file.
        if figures := optional("lgn_net.report.figures", "no curves_1.png"):
            for k, curves in enumerate(figures.curve_pages(videos, normal, results["dataset"] or "scores", point), 1):
                figures.save_figure(curves, out / f"curves_{k}", dpi=200, kinds=("png",))
        if page := optional("lgn_net.report.page", "no report.html"):
            page.write_report(out / "report.html", results, videos, normal, maps)
        names = {"scores": "scores.csv", "results": "results.json", "curves": "curves_1.png", "report": "report.html"}
        files = {name: out / file for name, file in names.items() if (out / file).exists()}
    print(ENVIRONMENT.get_template("terminal.txt").render(results=results, files=files))
    if results["auc"] is None:
        raise UserError(f"the AUC is undefined: {results['abnormal_frames']} of {results['frames']} scored frames are "
                        f"abnormal, and it needs both classes")


def measure_all(evaluation: Evaluation, config: Config, args: Namespace, other: Evaluation | None) -> Results:
    """Compute all results; the arguments are those of `finish`."""
    videos, weights, training, about = evaluation
    protocol = Protocol.configured(asdict(config.score))
    # Whose labels these are; of Avenue, which has two truths, both are measured.
    names, frames, _, labels = zip(*videos)
    truths = shipped_truths(names, frames, labels, about.get("dataset"))
    sources = [name for name, truth in truths.items() if all(map(np.array_equal, truth, labels))]
    source = ", ".join(sources) or None
    others: dict[str | None, Videos] = {name: [video._replace(labels=y) for video, y in zip(videos, truth)]
                                        for name, truth in truths.items() if name not in sources}
    judged = {source: videos} | others if args.protocol == "all" else {}

    # All numbers.
    results: Results = {"identity": "", "dataset": None, "labels": "none", "complete_benchmark": None} | about
    results |= measure(videos, weights, protocol, training, args.false_positive_rate)
    results |= {
        "gap_psnr": all_frames([*labels], normality_under(protocol, videos, {"psnr": 1.0}, training))["gap"]
        if "psnr" in weights else None,
        "protocol": WORDS.protocol(protocol, config.score, config.model.window - 1, len(weights) > 1, about),
        "label_source": source, "signals": dict(weights),
        "scoring": {knob: getattr(config.score, knob) for knob in SCORING},
        "grid": [{"labels": name, **cell._asdict(), "auc": value}
                 for name, by_it in judged.items() for cell, value in grid(by_it, weights, training).items()],
        "padded_chance": {name or "": padded_chance([one.labels for one in by_it]) for name, by_it in judged.items()}}
    if updated := [video.signals["memory_updated"] for video in videos if "memory_updated" in video.signals]:
        results["memory_updates"] = int(sum(x.sum() for x in updated))
    results |= identify(results, config)
    if other:
        said = ", ".join(f"{signal} {abs(weight):g}" for signal, weight in other.weights.items())
        name = f"{other.about['scores']}" + f" ({said})" * (weights != other.weights)
        results["compared"] = {"other": name} | compare(
            videos, other.videos, (weights, other.weights), protocol, (training, other.training))
    for scored, value in ((evaluation, results["auc"]), (other, results.get("compared", {}).get("auc_other"))):
        if scored and "direction" in scored.about and value is not None and value < 0.2:
            warn(f"{scored.about['scores']}: AUC {percent(value)} % if {scored.about['direction']}; is --direction "
                 f"wrong? The other one gives {percent(1 - value)} %")
    return results


def lambda_rows(evaluation: Evaluation, steps: int) -> list[dict[str, float | None]]:
    """Measure a score file with every lambda from 0 to 1; UserError where the PSNR stands alone."""
    videos, weights, training, results = evaluation
    if not {"psnr"} < {*weights}:
        raise UserError(f"lambda weighs psnr against distance, it has only {', '.join(weights)}")
    protocol, labels, rows = Protocol.configured(results["scoring"]), [video.labels for video in videos], []
    for k in range(steps + 1):
        normal = normality_under(protocol, videos, paper_weights(k / steps, len(weights) - 1), training)
        rows.append({"lambda": k / steps, "auc": auc(labels, normal, protocol.average),
                     "gap": all_frames(labels, normal)["gap"]})
    return rows


def identify(results: Results, config: Config) -> Results:
    """Say in a line what was measured, of which network, on what data and how; find the published AUC, a fraction."""
    labels = results["label_source"] or re.sub(r"\S*/", "", results["labels"])           # no path of this machine
    if "config" not in results:
        return {"identity": WORDS.identity(results, [], labels), "published": None}
    # The configuration published for this system, with Ped2's hyper-parameters on data that the paper does not have.
    knobs = flatten(asdict(config))
    system, dataset = knobs["model.name"], canonical_name(knobs["data.dataset"])
    like = dataset if dataset in PUBLISHED["lgn_net"] else "ped2"
    published = flatten(asdict(parse_command(knob_parser(), ["--data.dataset", like, "--model.name", system], {})[0]))
    changed = [f"{knob.partition('.')[2]} {json.dumps(value)}".replace('"', "") for knob, value in knobs.items()
               if knob.startswith(IDENTITY) and value != published[knob]]
    theirs = PUBLISHED.get(system, {}).get(dataset)
    return {"identity": WORDS.identity(results, changed, labels), "published": theirs and round(theirs / 100, 6)}
