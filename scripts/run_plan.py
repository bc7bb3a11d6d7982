"""Train, evaluate and tabulate every row of a plan with several seeds.

    python scripts/run_plan.py --plan plans/table2.yaml --dataset_path DATA --exp_dir RUNS [--seeds 0 1 2] [--jobs 2]
    python scripts/run_plan.py --plan plans/table2.yaml --config configs/ped2.yaml ...    # the published size
    python scripts/run_plan.py --plan plans/table2.yaml ... -- --train.epochs 2           # knobs of every row, after --
    python scripts/run_plan.py --plan plans/table2.yaml ... --dry-run                     # one command for each run
    scripts/reproduce_ped2.sh --seed 0 --dataset_path DATA [--minutes 9]                  # the published Ped2 run

Each run is RUNS/<row>/seed_<k> with its log beside it. The command may be stopped or killed and given again: begun runs
go on from their last checkpoint. RUNS/<plan>.md and .tex (tables), .csv (runs), .png and .pdf (AUCs) are rewritten when
a run is done, and the lines of the table that changed are printed. Several commands may use one RUNS, on several GPUs
for example (--device cuda:1): each takes runs that no other command works on.

scripts/reproduce_ped2.sh takes one row of plans/reproduce_ped2.yaml and one seed, prepares the frames where they are
missing, and writes results/<name>.json: the result of the last epoch, beside it that of the best, an oracle. Exit
status: 0 complete; 75 something is left, give the same command again; 128 + its number after a signal (of
reproduce_ped2.sh 75, too); 1 a run failed, see its log; 2 wrong input.
"""

import argparse
import itertools
import math
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from lgn_net.cli import knob_parser, parse_command
from lgn_net.config import Config, flatten
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import canonical_name, difference_from_published
from lgn_net.errors import UserError
from lgn_net.files import ROOT, check_writable, to_json, write_atomic
from lgn_net.report.figures import save_figure
from lgn_net.report.plan import SIGNALS, draw_curve, plan_csv, plan_figure, plan_tables
from lgn_net.report.tables import PUBLISHED, latex, markdown, percent, terminal_width
from lgn_net.terminal import StopOnSignal, run_command
from lgn_net.training.checkpoint import differences
from lgn_net.training.plan_run import AGAIN, SPEED, Run

POLL = 1.0                                          # seconds between looks at the running processes
FAST = ["--train.precision", "bfloat16", "--score.precision", "bfloat16", "--train.deterministic", "false"]


def main(argv: list[str]) -> int:
    """Run the plan of a command line; return the exit status."""
    # What is to be done.
    args = parse_arguments(argv)
    plan, runs = read_plan(args)
    for run in runs:
        run.look()
    if args.dry_run:
        for run in runs:
            stages = [stage for stage in ("train", "evaluate") if stage in {run.stage, "evaluate"} & args.stages]
            commands = [run.command(stage, *limits_of(args)) for stage in stages]
            line = " && ".join(shlex.join(["python", *command[1:]]) for command in commands)
            print(line if run.stage else f"true    # {run.row}, seed {run.seed}: complete")
        return 0
    check_writable(args.exp_dir)
    find_data(Path(args.dataset_path), runs, args)

    # Do it, and say how it ended.
    with StopOnSignal(second_ends=False) as stop:                  # at a second signal the runs are saving already
        work(runs, args, plan, stop)
    for run in runs:
        if run.stage:
            run.look()                                             # another command may have worked on it
    args.printed.clear()
    write_outputs(runs, args, plan)
    if failed := [str(run.beside("log")) for run in runs if run.failed]:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    if left := [run for run in runs if run.stage == "train" or run.stage in args.stages]:
        print(f"{len(left)} of {len(runs)} runs are not complete; give the same command again to go on")
    return 128 + stop.received if stop.received and not args.reproduce else AGAIN if left else 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; what follows `--` are knobs of train.py, `args.knobs`."""
    # The options of scripts/reproduce_ped2.sh stand before --reproduce, those of its user behind it.
    started, cut = time.monotonic(), argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("--plan", type=Path, required=True, help="YAML file with the rows, as those in plans/")
    add("--rows", nargs="+", metavar="ROW", help="only these rows of the plan")
    add("--dataset_path", required=True, metavar="DATA", help="folder with the data set's folder, or that folder")
    add("--exp_dir", type=Path, required=True, metavar="RUNS", help="of all runs; of reproduce_ped2.sh the run's own")
    add("--seeds", "--seed", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--config", help="configuration under the rows, in place of the plan's `config` and its `set`")
    add("--jobs", type=int, default=1, choices=range(1, 100), metavar="N", help="runs at a time (default: 1)")
    add("--device", default="auto", help="cuda, cuda:1, mps or cpu")
    add("--minutes", type=float, default=math.inf, help="stop and save in time to end after so many minutes")
    add("--every", type=int, default=0, metavar="K", help="keep and evaluate every K-th epoch, too (default: 0, none)")
    add("--fit", type=float, metavar="MINUTES", help="train as many epochs as fit into so many minutes")
    add("--fast", action="store_true", help="bfloat16, the fastest kernels, and no curve over the epochs")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--train-only", action="store_true", help="needs the training split alone")
    only.add_argument("--evaluate-only", action="store_true", help="needs the testing split alone")
    add("--dry-run", action="store_true", help="print the commands only, a line for each run")
    add("--reproduce", action="store_true", help="what scripts/reproduce_ped2.sh does, see above")
    add("--results", type=Path, default=Path("results"), help="folder of the results of reproduce_ped2.sh")
    args = parser.parse_args(argv[:cut])
    args.knobs = argv[cut + 1:] + FAST * args.fast
    args.every *= not args.fast
    args.stages = {"train"} if args.train_only else {"evaluate"} if args.evaluate_only else {"train", "evaluate"}
    # The last 20 seconds, or a fifth of the time, are for saving.
    args.deadline = started + 60 * args.minutes - min(20.0, 12 * args.minutes)
    users = argv[argv.index("--reproduce") + 1:] if args.reproduce else argv
    args.command = shlex.join(["scripts/reproduce_ped2.sh", *users])
    args.printed = set()                                           # lines of the table that stand in the output
    return args


def read_plan(args: argparse.Namespace) -> tuple[dict, list[Run]]:
    """Read the plan and its runs, all rows with the first seed first; UserError for a plan that cannot be run."""
    # The file. Values stay as they are written, as the command line wants them.
    try:
        plan = {"question": [], "set": {}} | yaml.load(args.plan.read_text(), yaml.BaseLoader)
        rows = {name: {"set": {}, "published": {}} | (row or {}) for name, row in plan["rows"].items()}
        wrong = {*plan} ^ {"title", "question", "config", "set", "rows"}
        if wrong := wrong | {key for row in rows.values() for key in row} - {"set", "published"}:
            raise KeyError(f"unknown or missing: {', '.join(wrong)}")
        if args.config:
            plan |= {"config": args.config, "set": {}}
        knobs = {name: {"model.name": "lgn_net"} | plan["set"] | row["set"] for name, row in rows.items()}
        base = ["--config", args.config or str(ROOT / plan["config"])]
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"plan {args.plan}: {' '.join(str(error).split())}; expected title, config, rows with "
                        f"`name: {{set: {{knob: value}}}}` as in plans/table2.yaml") from None
    if absent := set(args.rows or ()) - set(rows):
        raise UserError(f"plan {args.plan} has no row {absent.pop()!r}; it has {', '.join(map(repr, rows))}")

    # Its runs. What is published of a system holds for rows that choose nothing but the system.
    chosen = [name for name in rows if name in args.rows] if args.rows else list(rows)[:1 if args.reproduce else None]
    runs = []
    for seed, name in itertools.product(dict.fromkeys(args.seeds), chosen):
        words = [word for knob, value in knobs[name].items() for word in (f"--{knob}", value)]
        argv = [*base, *words, *args.knobs, "--seed", str(seed)]
        config, folder = parse(argv), args.exp_dir / re.sub(r"\W+", "_", name.lower()).strip("_") / f"seed_{seed}"
        run = Run(name, seed, folder, argv, config, ["--dataset_path", args.dataset_path, "--device", args.device],
                  args.every)
        published = rows[name]["published"]
        if args.reproduce or {*rows[name]["set"]} <= {"model.name"}:
            published = PUBLISHED.get(config.model.name, {}) | published
        if args.reproduce:
            run = published_run(run, parse([*base, "--model.name", config.model.name]), args)
        auc = published.get(canonical_name(config.data.dataset))
        run.published = auc and float(auc)
        runs.append(run)
    if len({run.folder for run in runs}) < len(runs):
        raise UserError(f"plan {args.plan}: two of {', '.join(map(repr, chosen))} have one folder; rename one")
    return plan, runs


def published_run(run: Run, plain: Config, args: argparse.Namespace) -> Run:
    """Name a run of reproduce_ped2.sh, and its folder, after all that differs from the `plain` configuration."""
    knobs = flatten(asdict(run.config))
    changed = [knob for knob, _ in differences(run.config, plain) if not knob.startswith(("seed", *SPEED))]
    parts = [knob.removeprefix("model.").replace(".", "_") + ("" if knobs[knob] is True else f"_{knobs[knob]}")
             for knob in changed if not (args.fast and f"--{knob}" in FAST)]
    parts += ["fast"] * args.fast + ([f"fit_{args.fit:g}"] if args.fit else [])
    config, model = Path(run.argv[1]).stem, run.config.model.name.replace("lgn_net", "lgn")
    name = "_".join([config, model, *parts, f"seed{run.seed}"]).replace("/", "_")
    alone = len(args.seeds) == len(args.rows or [1]) == 1 and args.exp_dir != Path("runs")
    return replace(run, row=name, folder=args.exp_dir if alone else args.exp_dir / name)


def parse(argv: list[str]) -> Config:
    """Return the configuration that options of train.py mean; UserError as train.py would raise it."""
    return parse_command(knob_parser(), argv)[0]


def find_data(data: Path, runs: list[Run], args: argparse.Namespace) -> None:
    """Raise UserError where a needed split is missing. To reproduce, fetch Ped2, and refuse a part of a benchmark."""
    name, stages = runs[0].config.data.dataset, args.stages
    if args.reproduce and name == "ped2" and not (data / name).exists():
        here = (data / "UCSD_Anomaly_Dataset.tar.gz").exists() or any(data.glob("**/UCSDped2/Train"))
        source = ["--source", data] if here else ["--download"]
        subprocess.run([sys.executable, ROOT / "scripts/prepare_data.py", name, *source, "--out", data], check=False)
    train = "train" in stages and any(run.stage == "train" for run in runs)
    for split in ["training"] * train + ["testing"] * ("evaluate" in stages and any(run.stage for run in runs)):
        lengths = [len(video.frames) for video in index_videos(find_split(data, name, split))]
        if args.reproduce and (wrong := difference_from_published(name, split, lengths)):
            raise UserError(f"{wrong}; a part of the data set reproduces nothing: scripts/prepare_data.py")


def limits_of(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the limits of a training as options: those of every call, and those of a run's first call alone."""
    keep = "last" if args.fast else str(args.every)
    limits = ["--train.keep_epochs", keep] if keep != "0" else []
    if args.minutes < math.inf:
        limits += ["--train.minutes", f"{max((args.deadline - time.monotonic()) / 60, 0.001):.3f}"]
    return limits, ["--train.fit_minutes", f"{args.fit:g}"] if args.fit else []


def work(runs: list[Run], args: argparse.Namespace, plan: dict, stop: StopOnSignal) -> None:
    """Keep `--jobs` processes busy until all is done or left to other commands, the time is over, or a signal came."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // args.jobs))
    environment, running = os.environ | {"OMP_NUM_THREADS": threads}, []
    waiting = [run for run in runs if run.stage in args.stages]
    try:
        while (waiting or running) and not stop.received and time.monotonic() < args.deadline:
            # Take runs that no other command works on.
            while waiting and len(running) < args.jobs:
                run = waiting.pop(0)
                if run.claim():
                    running.append(run)
                else:
                    print(f"{run.row}, seed {run.seed}: another command works on it", flush=True)

            # Where a run's command has ended, start its next one, or release the run.
            for run in [run for run in running if not run.process or run.process.poll() is not None]:
                if (not run.process or run.end(stopping=False)) and run.stage in args.stages:
                    run.start(*limits_of(args), environment)
                    print(f"{run.row}, seed {run.seed}: {run.stage}, see {run.beside('log')}", flush=True)
                    continue
                running.remove(run)
                run.lock.close()
                if run.failed:
                    reason = run.beside("log").read_text().splitlines()[-1].strip()
                    print(f"{run.row}, seed {run.seed}: failed, see {run.beside('log')}: {reason}", flush=True)
                elif not run.stage:
                    print(f"{run.row}, seed {run.seed}: AUC {percent(run.results.get('auc'))} %", flush=True)
                    write_outputs(runs, args, plan)
            time.sleep(POLL)
    finally:
        running = [run for run in running if run.process]
        for run in running:
            run.process.terminate()                                    # train.py saves and ends
        for run in running:
            run.process.wait()
            run.end(stopping=True)
            run.lock.close()


def write_outputs(runs: list[Run], args: argparse.Namespace, plan: dict) -> None:
    """Write the plan's tables, list and picture, or the results of published runs; print what changed of them."""
    if args.reproduce:
        show("\n".join(write_result(run, args, plan) for run in runs), args)
        return
    rows, path = [run.summary() for run in runs], args.exp_dir / args.plan.stem
    question = [plan["question"]] if isinstance(plan["question"], str) else plan["question"]
    overrides = ", ".join(f"{knob} {value}" for knob, value in plan["set"].items()) or plan["config"]
    tables = plan_tables(rows, " ".join(["all rows:", overrides, *args.knobs]))

    def text(width: int) -> str:
        parts = [part for caption, *table in tables for part in (f"{caption}.", markdown(*table, width=width))]
        return "\n\n".join([f"# {plan['title']}", *question, *parts])

    # Files are written whole; of the text, what is new is printed.
    write_atomic(Path(f"{path}.md"), text(sys.maxsize) + "\n")
    write_atomic(Path(f"{path}.tex"), "\n".join(latex(*table, f"{plan['title']}. {caption}", f"{path.name}_{k}")
                                                for k, (caption, *table) in enumerate(tables, 1)))
    write_atomic(Path(f"{path}.csv"), plan_csv(rows))
    if any(run.results for run in runs):
        save_figure(plan_figure(plan["title"], rows), path)
    show(f"{text(terminal_width())}\n\ntables, runs and picture: {path}.md, .tex, .csv, .png", args)


def show(text: str, args: argparse.Namespace) -> None:
    """Print the lines of a text that are new to this command, whatever their alignment, below the head of a table."""
    for part in text.split("\n\n"):
        lines = part.splitlines()
        head, lines = (lines[:2], lines[2:]) if part.startswith("|") else ([], lines)
        words = {re.sub(r" +|-{2,}", " ", line): line for line in lines}
        if new := [line for key, line in words.items() if key not in args.printed]:
            print("\n".join([*head, *new]), end="\n\n", flush=True)
        args.printed |= words.keys()


def write_result(run: Run, args: argparse.Namespace, plan: dict) -> str:
    """Write RESULTS/<name>.json and the picture of the AUC over the epochs; return what to print."""
    # The curve has every epoch that was evaluated, whether or not its weights are still there.
    epochs, summary = run.config.train.epochs, run.summary()
    evaluated = {epoch: results for epoch in range(1, epochs) if (results := run.results_of(run.epoch(epoch)))}
    evaluated |= {epochs: run.results} if run.results else {}
    keys, seconds = (*SIGNALS.values(),), summary["train_s"]
    curve = [{"epoch": epoch} | {key: one.get(key) for key in (*keys, "memory_updates")}
             for epoch, one in evaluated.items()]
    status = {"": "complete", "evaluate": "evaluating", "train": f"training, epoch {run.epochs + 1} of {epochs}"}
    result = {
        "name": run.row, "status": status[run.stage], "epochs_done": run.epochs, "seed": run.seed,
        "configuration": plan["config"],
        "published": run.published and round(run.published / 100, 6),
        **{key: run.results.get(key) for key in (*keys, "interval")},
        "oracle": None if run.stage else max(curve, key=lambda one: one["auc"] or 0)
        | {"warning": "epoch chosen on the test set: no result"},
        "curve": curve, "live_items": summary["live_items"][:run.epochs],
        "command": args.command, "versions": run.versions,
        "times": {"training_s": seconds, "images_per_s": round(run.images / seconds, 3) if seconds else None},
        "config": asdict(run.config), "evaluation": run.results or None,
    }
    write_atomic(args.results / f"{run.row}.json", to_json(result))
    if curve:
        draw_curve(curve, run.folder / "auc_over_epochs")
    beside = f", published {percent(result['published'], 1)} %" if result["published"] else ""
    return f"{run.row}: {result['status']}, AUC {percent(result['auc'])} %{beside}; see {args.results}/{run.row}.json"


if __name__ == "__main__":
    run_command(main)
