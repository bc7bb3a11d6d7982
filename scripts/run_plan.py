"""Train, evaluate and tabulate every row of a plan with several seeds.

    python scripts/run_plan.py --plan plans/table2.yaml --dataset_path DATA --exp_dir RUNS [--seeds 0 1 2] [--jobs 2]
    python scripts/run_plan.py --plan plans/table2.yaml --config configs/ped2.yaml ...    # the published size
    python scripts/run_plan.py --plan plans/table2.yaml ... -- --train.epochs 2           # knobs of every row, after --
    python scripts/run_plan.py --plan plans/table2.yaml ... --dry-run                     # one command for each run

Each run is RUNS/<row>/seed_<k> with its log beside it. The command may be stopped or killed and given again: begun runs
go on from their last checkpoint. RUNS/<plan>.md and .tex (tables), .csv (runs), .png and .pdf (AUCs) are rewritten when
a run is done; --every also draws auc_over_epochs into its folder. Several commands may use one RUNS, each on a GPU of
its own (--device cuda:1), and take runs that no other one works on. Exit status: 0 complete; 75 something is left, give
the same command again; 128 + its number after a signal; 1 a run failed, see its log; 2 wrong input.
"""

import argparse
import math
from pathlib import Path

from lgn_net.cli import Parser, show_help

PARSER = Parser(__doc__)
add, only = PARSER.add_argument, PARSER.add_mutually_exclusive_group()
add("--plan", type=Path, required=True, help="YAML file with the rows, as those in plans/")
add("--rows", nargs="+", metavar="ROW", help="only these rows of the plan")
add("--dataset_path", required=True, metavar="DATA", help="folder with the data set's folder, or that folder")
add("--exp_dir", type=Path, required=True, metavar="RUNS", help="folder of all runs")
add("--seeds", "--seed", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
add("--config", help="configuration under the rows, in place of the plan's `config` and its `set`")
add("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
add("--device", default="auto", help="cuda, cuda:1, mps or cpu")
add("--minutes", type=float, default=math.inf, help="stop and save in time to end after so many minutes")
add("--every", type=int, default=0, metavar="K", help="keep and evaluate every K-th epoch, too (default: 0, none)")
add("--fit", type=float, metavar="MINUTES", help="train as many epochs as fit into so many minutes")
add("--fast", action="store_true", help="bfloat16, the fastest kernels, and no curve over the epochs")
only.add_argument("--train-only", action="store_true", help="needs the training split alone")
only.add_argument("--evaluate-only", action="store_true", help="needs the testing split alone")
add("--dry-run", action="store_true", help="print the commands only, a line for each run")
show_help(__name__, PARSER)     # before slow imports

import itertools
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace

import numpy as np
import yaml
from filelock import Timeout

from lgn_net.cli import config_from_dict, knob_parser, load_yaml, parse_command
from lgn_net.config import Config, to_yaml
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError
from lgn_net.files import ROOT, locked, read_json, to_json, write_atomic
from lgn_net.report.figures import plan_figure, save_figure, sweep_figure
from lgn_net.report.tables import LISTED, PUBLISHED, SIGNALS, csv_text, latex, markdown, percent, plan_tables
from lgn_net.terminal import StopOnSignal, run_command
from lgn_net.training.checkpoint import FREE, differences, load_checkpoint, newest_good
from lgn_net.training.run import read_log

POLL = 1.0                                          # seconds between looks at a running process
AGAIN = 75                                          # exit status of "stopped in time, give it again", of train.py, too
FAST = ["--train.precision", "bfloat16", "--score.precision", "bfloat16", "--train.deterministic", "false"]
# Knobs in which a run's folder may differ from the plan: those of speed, and those that only ask for a new evaluation
# or for more training.
SPEED = (*(set(FREE) - {"score", "train.max_steps"}), "train.fit_minutes")
LATER = ("score.", "data.label_source", "train.max_steps")


def main(argv: list[str]) -> int:
    """Run the plan of a command line; return the exit status."""
    # What is to be done.
    args, plan, runs = read_plan(argv)
    for run in runs:
        run.look()
    if args.dry_run:
        for run in runs:
            to_do = {"train": ("train", "evaluate"), "evaluate": ("evaluate",), "": ()}[run.stage]
            commands = [shlex.join(["python", *run.command(stage)[1:]]) for stage in to_do if stage in args.stages]
            print(" && ".join(commands) or f"true    # {run.name}: complete")
        return 0

    # Do it. A second signal ends nothing: the runs are saving already.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    with StopOnSignal(second_ends=False) as stop, ThreadPoolExecutor(args.jobs) as pool:
        def over() -> bool:
            return bool(stop.received) or time.monotonic() > args.deadline

        working = {pool.submit(run.work, over): run for run in runs if run.stage in args.stages}
        for future in as_completed(working):
            future.result()
            if args.every and working[future].results:
                working[future].draw_epochs()
            write_outputs(plan, runs, args)

    # Say how it ended. Another command may have worked on what is left.
    for run in runs:
        if run.stage:
            run.look()
    print(f"\n{write_outputs(plan, runs, args)}\n")
    if any(run.failed for run in runs):
        return 1
    if left := [run for run in runs if run.stage == "train" or run.stage in args.stages]:
        print(f"{len(left)} of {len(runs)} runs are not complete; give the same command again to go on")
    return 128 + stop.received if stop.received else AGAIN if left else 0


def read_plan(argv: list[str]) -> tuple[argparse.Namespace, dict, list["Run"]]:
    """Read the command line, its plan, and the runs, all rows with the first seed first; UserError for mistakes."""
    # The command line. What follows `--` are knobs of train.py.
    cut = argv.index("--") if "--" in argv else len(argv)
    args = PARSER.parse_args(argv[:cut])
    args.knobs = argv[cut + 1:] + FAST * args.fast
    args.every = 0 if args.fast else args.every
    args.stages = {"train"} if args.train_only else {"evaluate"} if args.evaluate_only else {"train", "evaluate"}
    # The last 20 seconds, or a fifth of the time, are for saving.
    args.deadline = time.monotonic() + 60 * args.minutes - min(20.0, 12 * args.minutes)

    # The file. Values stay as they are written, as the command line wants them.
    try:
        plan = {"question": [], "set": {}} | load_yaml(args.plan.read_text(), lambda x: yaml.load(x, yaml.BaseLoader))
        rows = {name: plan["rows"][name]["set"] for name in args.rows or plan["rows"]}
        if wrong := {*plan} ^ {"title", "question", "config", "set", "rows"}:
            raise KeyError(f"unknown or missing: {', '.join(wrong)}")
        if wrong := {knob for row in (plan["set"], *rows.values()) for knob in row if not isinstance(row[knob], str)}:
            raise TypeError(f"{', '.join(wrong)}: no single value")
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"plan {args.plan}: {' '.join(str(error).split())}; expected title, config, rows with "
                        f"`name: {{set: {{knob: value}}}}` as in plans/table2.yaml") from None
    if args.config:
        plan |= {"config": args.config, "set": {}}

    # Its runs. What is published of a system holds for rows that choose nothing but the system.
    runs = []
    for seed, name in itertools.product(args.seeds, rows):
        knobs = {"model.name": "lgn_net"} | plan["set"] | rows[name]
        words = [word for knob, value in knobs.items() for word in (f"--{knob}", value)]
        argv = ["--config", args.config or str(ROOT / plan["config"]), "--train.keep_epochs", str(args.every or "last"),
                *words, *args.knobs, "--seed", str(seed)]
        config = parse_command(knob_parser(), argv)[0]
        published = PUBLISHED.get(config.model.name, {}) if {*rows[name]} <= {"model.name"} else {}
        folder = args.exp_dir / re.sub(r"\W+", "_", name.lower()).strip("_") / f"seed_{seed}"
        runs.append(Run(name, seed, folder, argv, config, published.get(canonical_name(config.data.dataset)), args))
    return args, plan, runs


@dataclass
class Run:
    """A row of the plan with a seed; `look` finds what is to be done next, and the results of the last epoch."""

    row: str
    seed: int
    folder: Path
    argv: list[str]                                 # the configuration as train.py's options
    config: Config                                  # the same, parsed
    published: float | None                         # AUC in percent
    args: argparse.Namespace
    to_evaluate: list[Path] = field(default_factory=list)
    results: dict = field(default_factory=dict)
    stage: str = "train"                            # train, evaluate, or "" for nothing
    failed: bool = False

    def __post_init__(self):
        self.name, self.last = f"{self.row}, seed {self.seed}", self.folder / "last.pt"

    def look(self) -> None:
        """Find out what is left to do; UserError when the folder was made with other settings than the plan's."""
        trained = bool(self.results_of(self.last))                     # also where its weights were removed
        if self.last.exists():
            # The settings. With `fit_minutes`, train.py chose the number of epochs.
            good = newest_good(self.folder)
            made, saved = load_checkpoint(good)
            if made.train.fit_minutes:
                self.config = replace(self.config, train=replace(self.config.train, epochs=made.train.epochs))
            other = [line for knob, line in differences(self.config, made) if not knob.startswith((*SPEED, *LATER))]
            if other:
                raise UserError(f"{self.folder} was made with other settings than the plan's: {'; '.join(other)}; move "
                                f"it away, or choose another --exp_dir")

            # Whether the training has come to its end.
            windows = sum(max(length - made.model.window + 1, 0) for length in saved.get("videos", {}).values())
            steps = self.config.train.epochs * math.ceil(windows / made.train.batch_size)
            trained = good == str(self.last) and saved["step"] == min(steps, self.config.train.max_steps or math.inf)
        every, epochs = self.args.every, self.config.train.epochs
        kept = [self.folder / f"epoch_{k:03d}.pt" for k in (range(every, epochs, every) if every else ())]
        self.to_evaluate = [path for path in (self.last, *kept) if path.exists() and not self.results_of(path)]
        self.results = self.results_of(self.last) if trained else {}
        self.stage = "train" if not trained else "evaluate" if self.to_evaluate else ""

    def results_of(self, checkpoint: Path) -> dict:
        """Return the results of a checkpoint; {} where it was not evaluated, or with other settings than the plan's."""
        results = read_json(self.folder / f"evaluation_{checkpoint.stem}" / "results.json")
        same = results.get("config") and all(knob.startswith(SPEED) for knob, _ in
                                             differences(self.config, config_from_dict(results["config"])))
        return results if same else {}

    def work(self, over: Callable[[], bool]) -> None:
        """Run one command after the other until the run is done, one fails, or time is `over()`; print how it ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.folder.with_suffix(".lock"), timeout=0):
                with locked(self.folder / ".lock", timeout=0):         # train.py's own; its runner may have been killed
                    self.look()
                status = 0
                while not status and not self.failed and self.stage in self.args.stages and not over():
                    before = self.stage, self.to_evaluate
                    status, stopped = self.execute(over), over()
                    self.look()
                    unchanged = (self.stage, self.to_evaluate) == before       # another try would end in the same way
                    self.failed = not stopped and status != AGAIN and (status != 0 or unchanged)
        except Timeout:
            print(f"{self.name}: another command works on it", flush=True)
        if self.failed:
            reason = self.folder.with_suffix(".log").read_text().splitlines()[-1].strip()
            print(f"{self.name}: failed, see {self.folder.with_suffix('.log')}: {reason}", flush=True)
        elif self.results:
            print(f"{self.name}: AUC {percent(self.results.get('auc'))} %", flush=True)

    def execute(self, over: Callable[[], bool]) -> int:
        """Run the next command until it ends or time is `over()`, note its time, and return its exit status."""
        print(f"{self.name}: {self.stage}, see {self.folder.with_suffix('.log')}", flush=True)
        write_atomic(self.folder.with_suffix(".yaml"), to_yaml(self.config))
        command, started = self.command(self.stage), time.monotonic()
        with open(self.folder.with_suffix(".log"), "a") as log:
            print(f"\n$ {shlex.join(command)}", file=log, flush=True)
            # A process group of its own: Ctrl-C reaches the runner alone, which passes SIGTERM on.
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None and not over():
            time.sleep(POLL)
        process.terminate()                                            # train.py saves and ends
        process.wait()
        times = read_json(self.folder.with_suffix(".times.json"))
        times[self.stage] = round(times.get(self.stage, 0) + time.monotonic() - started, 3)
        write_atomic(self.folder.with_suffix(".times.json"), to_json(times))
        return process.returncode

    def command(self, stage: str) -> list[str]:
        """Return the command that trains, or that evaluates the next checkpoint."""
        # A checkpoint would bring some knobs of its own, but for a file that gives every knob.
        every_knob = self.folder.with_suffix(".yaml")
        settings = ["--config", str(every_knob)] if every_knob.exists() else []
        where = ["--dataset_path", self.args.dataset_path, "--device", self.args.device]
        if stage == "evaluate":
            checkpoint = (self.to_evaluate or [self.last])[0]
            little = ["--protocol", "paper", "--maps", "0", "--localize", "off"] if checkpoint != self.last else []
            return [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", str(checkpoint), *settings, *where,
                    *little]
        limits = ["--train.fit_minutes", f"{self.args.fit:g}"] if self.args.fit else []
        how = [*settings, "--resume", "auto"] if self.last.exists() else [*self.argv, *limits]
        if self.args.minutes < math.inf:
            how += ["--train.minutes", f"{max((self.args.deadline - time.monotonic()) / 60, 0.001):.3f}"]
        return [sys.executable, str(ROOT / "train.py"), *how, *where, "--exp_dir", str(self.folder)]

    def draw_epochs(self) -> None:
        """Draw the AUCs over the epochs that were evaluated into the run's folder."""
        last = self.config.train.epochs
        every = {k: self.results_of(self.folder / f"epoch_{k:03d}.pt") for k in range(1, last)} | {last: self.results}
        epochs = np.array([k for k in every if every[k]])
        curves = {name: [(epochs, np.array([every[k].get(key) for k in epochs], float), None)]
                  for name, key in SIGNALS.items()}
        save_figure(sweep_figure("epoch", curves), self.folder / "auc_over_epochs")


def write_outputs(plan: dict, runs: list[Run], args: argparse.Namespace) -> str:
    """Write the plan's tables, list and pictures; return the tables for a terminal."""
    # The runs as the tables and pictures of `lgn_net.report` take them.
    rows, path = [], args.exp_dir / args.plan.stem
    for run in runs:
        times, log = read_json(run.folder.with_suffix(".times.json")), read_log(run.folder / "log.jsonl")
        rows.append(run.results | {
            "row": run.row, "seed": run.seed, "published_auc": run.published, "train_s": times.get("train"),
            "evaluate_s": times.get("evaluate"), "live_items": log[-1]["live_items"] or None if log else None})

    # The tables, the list and the picture.
    question = [plan["question"]] if isinstance(plan["question"], str) else plan["question"]
    overrides = ", ".join(f"{knob} {value}" for knob, value in plan["set"].items()) or plan["config"]
    tables = plan_tables(rows, " ".join(["all rows:", overrides, *args.knobs]))
    parts = [part for caption, *table in tables for part in (f"{caption}.", markdown(*table))]
    text = "\n\n".join([f"# {plan['title']}", *question, *parts])
    write_atomic(Path(f"{path}.md"), f"{text}\n")
    write_atomic(Path(f"{path}.tex"), "\n".join(latex(*table, f"{plan['title']}. {caption}", f"{path.name}_{k}")
                                                for k, (caption, *table) in enumerate(tables, 1)))
    write_atomic(Path(f"{path}.csv"), csv_text(LISTED, [row for row in rows if "auc" in row]))
    if any(run.results for run in runs):
        save_figure(plan_figure(plan["title"], rows), path)
    return f"{text}\n\ntables, runs and picture: {path}.md, .tex, .csv, .png"


if __name__ == "__main__":
    run_command(main)
