"""Train, evaluate and tabulate every row of a plan with several seeds.

    python scripts/run_plan.py --plan plans/table2.yaml --dataset_path DATA --exp_dir RUNS [--seeds 0 1 2] [--jobs 2]
    python scripts/run_plan.py --plan plans/table2.yaml --config configs/ped2.yaml ...    # the published size
    python scripts/run_plan.py --plan plans/table2.yaml ... -- --train.epochs 2           # knobs of every row, after --
    python scripts/run_plan.py --plan plans/table2.yaml ... --dry-run                     # one command for each run
    scripts/reproduce_ped2.sh --seed 0 --dataset_path DATA [--minutes 9]                  # the published Ped2 run
    scripts/reproduce_ped2.sh --table results/*.json                                      # rows for docs/results.md

Each run is RUNS/<row>/seed_<k> with its log beside it. The command may be stopped or killed and given again: finished
runs stay, and begun runs go on from their last checkpoint. RUNS/<plan>.md (the table), RUNS/<plan>.csv (the runs) and
RUNS/<plan>.png (their AUCs; .pdf, too) are rewritten whenever a run is done. Several commands may use one RUNS, on
several GPUs for example (--device cuda:1): each takes runs that no other command works on.

scripts/reproduce_ped2.sh takes one row of plans/reproduce_ped2.yaml and one seed, prepares the frames where they are
missing, and writes results/<name>.json. Its result is that of the last epoch; the best epoch was chosen on the test
set, and is an oracle. Exit status: 0 complete; 75 stopped by --minutes or a signal, give the same command again; 1 a
run failed, see its log; 2 wrong input, named by the message.
"""

import argparse
import json
import math
import os
import re
import runpy
import shlex
import sys
import time
import warnings
from pathlib import Path

import yaml

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError
from lgn_net.files import ROOT, check_writable, to_json, write_atomic
from lgn_net.report.plan_tables import Outcome, distance_aucs, plan_csv, plan_table, result_summary, result_table
from lgn_net.terminal import StopOnSignal, run_command
from lgn_net.training.plan_run import AGAIN, Run
from lgn_net.training.published import changed, find_data, name_of, result_of

try:
    from lgn_net.report.figures import save_figure
    from lgn_net.report.plan_pictures import curve_figure, plan_figure
except ImportError as missing:
    NO_PICTURES = f"no pictures of the plan: {missing}"
else:
    NO_PICTURES = ""

POLL = 1.0                                          # seconds between looks at the running processes
FAST = ["--train.precision", "bfloat16", "--score.precision", "bfloat16", "--train.deterministic", "false"]


def main(argv: list[str]) -> int:
    """Run the plan of a command line; return the exit status."""
    args = parse_arguments(argv)
    if args.table:
        try:
            print(result_table([json.loads(path.read_text()) for path in args.table]))
        except (ValueError, KeyError, TypeError):
            raise UserError("--table wants results of scripts/reproduce_ped2.sh, results/*.json") from None
        return 0
    plan, runs = read_plan(args)
    for run in runs:
        run.take_over(args.every, bool(args.fit))
    if args.dry_run:
        for run in runs:
            train = [run.training(*limits_of(args))] if "waiting" in args.wanted and run.stage == "waiting" else []
            commands = train + [run.evaluating()] * ("trained" in args.wanted)
            print(" && ".join(shlex.join(["python", *command[1:]]) for command in commands))
        return 0

    # What would fail later is tried now: folders, data and, by running the scripts' top level, every import.
    check_writable(args.exp_dir)
    if args.reproduce:
        check_writable(args.results)
        splits = ["training"] * ("waiting" in args.wanted and any(run.stage == "waiting" for run in runs))
        splits += ["testing"] * ("trained" in args.wanted)
        find_data(Path(args.dataset_path), runs[0].config.data.dataset, splits)
    for script, stage in (("train", "waiting"), ("evaluate", "trained")):
        if stage in args.wanted:
            try:
                runpy.run_path(str(ROOT / f"{script}.py"))
            except ImportError as error:
                raise UserError(f"{script}.py cannot start: {error}; pip install -r requirements.txt") from None
    if NO_PICTURES:
        warnings.warn(NO_PICTURES)

    with StopOnSignal(second_ends=False) as stop:                  # at a second signal the runs are saving already
        work(runs, args, plan, stop)
    print(f"\n{write_outputs(runs, args, plan)}")
    failed = [str(run.beside("log")) for run in runs if run.stage == "failed"]
    left = sum(run.stage != "done" and (run.stage in args.wanted or run.stage != "trained") for run in runs)
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}", file=sys.stderr)
    elif left:
        print(f"{left} of {len(runs)} runs are not complete; give the same command again to go on: {args.command}")
    return 1 if failed else AGAIN if left else 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; what follows `--` are knobs of train.py, `args.knobs`."""
    started, cut, reproduce = time.monotonic(), argv.index("--") if "--" in argv else len(argv), "--reproduce" in argv
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add, needed = parser.add_argument, not reproduce and "--table" not in argv
    add("--plan", type=Path, required=needed, help="YAML file with the rows, as those in plans/")
    add("--rows", nargs="+", metavar="ROW", help="only these rows of the plan")
    add("--dataset_path", required=needed, metavar="DATA", help="folder with the data set's folder, or that folder")
    add("--exp_dir", type=Path, required=needed, metavar="RUNS", help="folder of all runs; of reproduce_ped2.sh the "
                                                                      "run's own (default: runs/<name>)")
    add("--seeds", "--seed", type=int, nargs="+", default=[0, 1, 2])
    add("--config", help="configuration under the rows, in place of the plan's `config` and its `set`")
    add("--jobs", type=int, default=1, help="runs at a time; they share the processor's threads")
    add("--device", default="auto", help="cuda, cuda:1, mps or cpu")
    add("--minutes", type=float, help="stop and save in time to end after so many minutes")
    add("--every", type=int, default=0, metavar="K", help="keep and evaluate every K-th epoch, too (default: 0, none)")
    add("--fit", type=float, metavar="MINUTES", help="train as many epochs as fit into so many minutes")
    add("--fast", action="store_true", help="bfloat16, the fastest kernels, and no curve over the epochs")
    add("--train-only", action="store_true", help="needs the training split alone")
    add("--evaluate-only", action="store_true", help="needs the testing split alone")
    add("--dry-run", action="store_true", help="print the commands only, a line for each run")
    add("--reproduce", action="store_true", help="what scripts/reproduce_ped2.sh does, see above")
    add("--results", type=Path, default=Path("results"), help="folder of the results of reproduce_ped2.sh")
    add("--table", type=Path, nargs="+", metavar="FILE", help="print rows of such results, and do no more")
    if reproduce:
        parser.set_defaults(plan=ROOT / "plans/reproduce_ped2.yaml", dataset_path="data", exp_dir=Path("runs"),
                            seeds=[0], every=5)
    args = parser.parse_args(argv[:cut])
    for name in ("jobs", "minutes", "fit", "every"):
        value = getattr(args, name)
        if value is not None and (value < 0 if name == "every" else value <= 0):
            raise UserError(f"--{name} is {value}; it must be {'0 or more' if name == 'every' else 'above 0'}")
    if args.train_only and args.evaluate_only:
        raise UserError("give --train-only or --evaluate-only, not both")
    args.knobs = argv[cut + 1:] + FAST * args.fast
    if any(word.partition("=")[0] == "--seed" for word in args.knobs):
        raise UserError("give the seeds with --seeds, before --")
    args.every *= not args.fast
    args.wanted = {"elsewhere"} | set(["waiting"] * (not args.evaluate_only) + ["trained"] * (not args.train_only))
    # The last 20 seconds, or a fifth of the time, are for saving.
    seconds = 60 * args.minutes if args.minutes else math.inf
    args.deadline = started + seconds - min(20.0, 0.2 * seconds)
    at = argv.index("--minutes") if "--minutes" in argv[:cut] else len(argv)
    words = [word for word in argv[:at] + argv[at + 2:] if word != "--reproduce"]
    args.command = shlex.join(["scripts/reproduce_ped2.sh" if reproduce else "scripts/run_plan.py", *words])
    return args


# ----------------------------------------------------------------------------------------------------------- the plan

def read_plan(args: argparse.Namespace) -> tuple[dict, list[Run]]:
    """Read the plan and its runs, all rows with the first seed first; UserError for a plan that cannot be run.

    Returns the plan's title, question and config, and the runs.
    """
    try:
        # Values stay as they are written, as the command line wants them.
        plan = {"question": [], "set": {}} | yaml.load(args.plan.read_text(), yaml.BaseLoader)
        plan |= {"config": args.config, "set": {}} if args.config else {}
        rows = {name: {"set": {}, "published": {}} | (row or {}) for name, row in plan["rows"].items()}
        unknown = [*(set(plan) - {"title", "question", "config", "set", "rows"}),
                   *(key for row in rows.values() for key in set(row) - {"set", "published"})]
        if unknown or not rows:
            raise KeyError(f"unknown {', '.join(unknown)}" if unknown else "no rows")
        path = args.config if args.config and Path(args.config).exists() else str(ROOT / plan["config"])
        knobs = {name: plan["set"] | row["set"] for name, row in rows.items()}
        aucs = {name: {dataset: float(auc) for dataset, auc in row["published"].items()} for name, row in rows.items()}
        title, question = plan["title"], plan["question"]
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"plan {args.plan}: {' '.join(str(error).split())}; expected title, config, rows with "
                        f"`name: {{set: {{knob: value}}}}` as in plans/table2.yaml") from None
    slugs = {name: re.sub(r"\W+", "_", name.lower()).strip("_") for name in rows}
    chosen = [name for name in rows if name in args.rows] if args.rows else list(rows)[:1 if args.reproduce else None]
    if absent := set(args.rows or ()) - set(rows):
        raise UserError(f"plan {args.plan} has no row {absent.pop()!r}; it has {', '.join(map(repr, rows))}")
    if not all(slugs.values()) or len(set(slugs.values())) < len(slugs):
        raise UserError(f"plan {args.plan}: each row needs a folder of its own, not {slugs}; rename one")
    if any("seed" in some for some in knobs.values()):
        raise UserError(f"plan {args.plan}: give the seeds with --seeds")
    systems = {knobs[name].get("model.name", "lgn_net"): name for name in reversed(rows)}     # the first row of each
    where, runs = ["--dataset_path", args.dataset_path, "--device", args.device], []
    for seed in dict.fromkeys(args.seeds):
        for name in chosen:
            first = {"model.name": knobs[name].get("model.name", "lgn_net")}       # brings its own hyper-parameters
            words = [word for knob, value in (first | knobs[name]).items() for word in (f"--{knob}", value)]
            argv = ["--config", path, *words, *args.knobs, "--seed", str(seed)]
            run = Run(name, seed, args.exp_dir / slugs[name] / f"seed_{seed}", argv, parse(argv), None, where)
            if args.reproduce:
                # The knobs may have made another system of it. Its name says all that differs from the configuration.
                run.system = name = systems.get(run.config.model.name, run.config.model.name)
                run.changed = changed(run.config, parse(["--config", path, "--model.name", run.config.model.name]))
                shown = {knob: value for knob, value in run.changed.items() if not (args.fast and f"--{knob}" in FAST)}
                words = ["fast"] * args.fast + ([f"fit_{args.fit:g}"] if args.fit else [])
                run.row = name_of(path, run.config, shown, *words)
                alone = len(args.seeds) == len(chosen) == 1 and args.exp_dir != Path("runs")
                run.folder = args.exp_dir if alone else args.exp_dir / run.row
            run.published = aucs.get(name, {}).get(canonical_name(run.config.data.dataset))
            runs.append(run)
    question = [question] if isinstance(question, str) else question
    return {"title": title, "question": question, "config": plan["config"]}, runs


def parse(argv: list[str]) -> Config:
    """Return the configuration that options of train.py mean; UserError as train.py would raise it."""
    return parse_command(command_parser("", ""), [*argv, "--dataset_path", "."])[0]


# ----------------------------------------------------------------------------------------------------------- the work

def limits_of(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the limits of a training as options: those of every call, and those of a run's first call alone."""
    keep = "last" if args.fast else str(args.every) if args.every else ""
    limits = ["--train.keep_epochs", keep] if keep else []
    if args.minutes:
        limits += ["--train.minutes", f"{max((args.deadline - time.monotonic()) / 60, 0.001):.3f}"]
    return limits, ["--train.fit_minutes", f"{args.fit:g}"] if args.fit else []


def work(runs: list[Run], args: argparse.Namespace, plan: dict, stop: StopOnSignal) -> None:
    """Keep `--jobs` processes busy until nothing is left to do, the time is over, or a signal came."""
    said: dict[int, str] = {}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // args.jobs))
    try:
        while True:
            # Commands that have ended.
            for run in runs:
                if run.process and run.process.poll() is not None:
                    run.end(args.every, bool(args.fit), bool(stop.received))
                    if run.stage == "done":
                        write_outputs(runs, args, plan)
            if stop.received or time.monotonic() >= args.deadline:
                break
            # Commands that may start. Another runner may have finished the run, which `take_over` then finds.
            for run in runs:
                if sum(bool(one.process) for one in runs) < args.jobs and run.stage in args.wanted and not run.process:
                    held = bool(run.lock)
                    if not run.claim():
                        run.stage = "elsewhere"
                        continue
                    if not held:
                        run.take_over(args.every, bool(args.fit))
                    if run.stage in args.wanted:
                        run.start(*limits_of(args), os.environ | {"OMP_NUM_THREADS": threads})
                    else:
                        run.release()
            for k, run in enumerate(runs):
                if said.get(k) != run.status():
                    said[k] = run.status()
                    print(f"{run.row}, seed {run.seed}: {said[k]}", flush=True)
            if not any(run.process or run.stage in args.wanted for run in runs):
                break
            time.sleep(POLL)
    finally:
        running = [run.process for run in runs if run.process]
        for process in running:
            process.terminate()                                        # train.py saves and ends
        for process in running:
            process.wait()
        for run in runs:
            if run.process:
                run.end(args.every, bool(args.fit), stopping=True)


# -------------------------------------------------------------------------------------------------------- the outputs

def write_outputs(runs: list[Run], args: argparse.Namespace, plan: dict) -> str:
    """Write the plan's table, list and picture, or the results of published runs; return what to print."""
    if args.reproduce:
        return "\n\n".join(write_result(run, args, plan) for run in runs)
    outcomes = []
    for run in runs:
        rows = run.log_rows() if distance_aucs(run.results) else []
        outcomes.append(Outcome(run.row, run.seed, run.published, run.results, rows[-1]["live_items"] if rows else None,
                                run.seconds("train"), run.seconds("evaluate")))
    path, text = args.exp_dir / args.plan.stem, plan_table(plan["title"], plan["question"], outcomes)
    write_atomic(Path(f"{path}.md"), text)
    write_atomic(Path(f"{path}.csv"), plan_csv(outcomes))
    lines = [text, f"table   {path}.md", f"runs    {path}.csv"]
    if any(run.results for run in runs) and not NO_PICTURES:
        save_figure(plan_figure(plan["title"], outcomes), path)
        lines.append(f"picture {path}.png")
    return "\n".join(lines)


def write_result(run: Run, args: argparse.Namespace, plan: dict) -> str:
    """Write RESULTS/<name>.json and the picture of the AUC over the epochs; return what to print."""
    result = result_of(run, plan["config"], args.command)
    write_atomic(args.results / f"{run.row}.json", to_json(result))
    lines = [result_summary(result)]
    if run.results:
        lines.append(f"report   {run.folder / 'evaluation_last' / 'report.html'}")
    if result["curve"] and not NO_PICTURES:
        save_figure(curve_figure(result), run.folder / "auc_over_epochs")
        lines.append(f"picture  {run.folder / 'auc_over_epochs.png'}")
    return "\n".join([*lines, f"result   {args.results / run.row}.json"])


if __name__ == "__main__":
    run_command(main)
