"""AUC over lambda, from a score file, or over gamma, by running the network.

    python scripts/sweep.py lambda RUN/evaluation_last [--steps 20]
    python scripts/sweep.py gamma --checkpoint RUN/last.pt --dataset_path DATA [--gammas 0 0.005 0.01]

lambda weighs the PSNR against the distance after the fact. gamma decides which test frames the memory learns from, so
the network has to run; what does not depend on the memory runs once for all gammas. Without --gammas they are quantiles
of the regular score on training frames, beside 0 and the configuration's. Both leave a CSV file and a picture in the
evaluation's folder. The best value of a sweep was chosen with the test labels: no result of its own.
"""

import sys

from lgn_net.cli import Parser, command_parser, label_argument, network_arguments, parse_command, show_help

LAMBDA = Parser(__doc__)
LAMBDA.usage = "sweep.py lambda RUN [--steps N]\n       sweep.py gamma --help"
LAMBDA.add_argument("folder", help="of an evaluation, or of a run with one in it")
LAMBDA.add_argument("--steps", type=int, default=20, help="between 0 and 1 (default: 20)")
GAMMA = command_parser(__doc__, "sweep.py gamma --checkpoint CKPT --dataset_path DATA")
network_arguments(GAMMA)
label_argument(GAMMA)
GAMMA.add_argument("--gammas", type=float, nargs="+", help="Default: 0, the configuration's, and the quantiles.")
GAMMA.add_argument("--out", help="Default: evaluation_<name of the checkpoint>, beside it.")
show_help(__name__, *((GAMMA, "data", "score") if "gamma" in sys.argv else [LAMBDA]))     # before slow imports

from dataclasses import asdict
from pathlib import Path

import numpy as np

from lgn_net.device import pick_device
from lgn_net.errors import UserError
from lgn_net.files import check_writable, results_folder, write_atomic
from lgn_net.inference.around import load_data, load_network, sample_normal, to_scores
from lgn_net.inference.sweep import sweep_gamma
from lgn_net.report.figures import save_figure, sweep_figure
from lgn_net.report.outcome import lambda_rows
from lgn_net.report.tables import csv_text, markdown, percent
from lgn_net.scores.evaluation import open_evaluation
from lgn_net.scores.protocols import Protocol, measure, paper_weights
from lgn_net.terminal import progress, run_command


def main(argv: list[str]) -> None:
    """Measure one score file with every lambda, or run the network for every gamma."""
    match argv[:1]:
        case ["lambda"]:
            args = LAMBDA.parse_args(argv[1:])
            evaluation, folder = open_evaluation(args.folder)
            finish("lambda", lambda_rows(evaluation, args.steps), evaluation.weights.get("psnr", 0.0), folder)
        case ["gamma"]:
            over_gamma(argv[1:])
        case _:
            raise UserError("the first word is lambda or gamma")


def over_gamma(argv: list[str]) -> None:
    """Run the network over the test videos once, for all gammas."""
    # The command line.
    config, args = parse_command(GAMMA, argv)
    if config.score.memory_update == "frozen":
        raise UserError("score.memory_update is frozen, and then gamma changes nothing; choose carry or reset")
    out = Path(args.out or results_folder(Path(args.checkpoint or args.model_dir)))
    check_writable(out)

    # The gammas, without a look at the test set.
    device = pick_device(args.device)
    config, model, *_ = load_network(config, args, device)
    videos, truth, normal, _ = load_data(config, args)
    if not (gammas := args.gammas):
        if not normal:
            raise UserError("there are no training frames beside the test frames, whose regular scores would say which "
                            "gammas matter; give --gammas")
        R = [s.regular_score for s in sample_normal(model, normal, config, config.score.calibration or 256, device)[0]]
        gammas = [0, config.score.gamma, *np.quantile(R, (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)).tolist()]
        print(f"gammas are quantiles of the regular score of {len(R)} training frames, 0 and the configuration's")
    gammas = sorted(set(gammas))

    # Frames to signals, for all gammas at once.
    windows = sum(max(len(video.frames) - config.model.window + 1, 0) for video in videos)
    with progress(f"{len(gammas)} gammas", windows, "frames") as bar:
        signals = sweep_gamma(model, videos, config, gammas, device, bar)

    # Signals to a row per gamma.
    weights, rows = paper_weights(config.score.psnr_weight, len(model.memories)), []
    for gamma in gammas:
        found = measure(to_scores(signals[gamma], videos, truth), weights, Protocol.configured(asdict(config.score)))
        numbers = {key: found[key] for key in ("auc", "gap", *(f"auc_{name}" for name in weights)) if key in found}
        updates = sum(s.memory_updated for s in signals[gamma])
        rows.append({"gamma": gamma, **numbers, "memory_updates": updates, "frames": found["frames"]})
    finish("gamma", rows, config.score.gamma, out)


def finish(knob: str, rows: list[dict[str, float | None]], used: float, out: Path) -> None:
    """Print a row per value of lambda or gamma, AUCs in percent; write them into `out` as CSV and as a picture."""
    table = out / f"sweep_{knob}.csv"
    write_atomic(table, csv_text([*rows[0]], rows))
    curve = [np.array([row[key] for row in rows], float) for key in (knob, "auc")]
    pictures = save_figure(sweep_figure(knob, {out.parent.name: [(*curve, used)]}), table.with_suffix(""))
    header = [name.replace("auc", "AUC %").replace("_", " ") for name in rows[0]]
    cells = [[percent(value) if name.startswith("auc") else "-" if value is None else f"{value:.4g}"
              for name, value in row.items()] for row in rows]
    print(f"the configuration's {knob} is {used:g}\n\n{markdown(header, cells, left=0)}\n")
    print("The best line was found with the test labels: an oracle, no result.")
    print(f"table    {table}\npicture  {', '.join(map(str, pictures))}")


if __name__ == "__main__":
    run_command(main)
