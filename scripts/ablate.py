"""Train, evaluate and tabulate every row of a plan with several seeds.

    python scripts/ablate.py --plan plans/table2.yaml --dataset_path DATA --exp_dir RUNS [--seeds 0 1 2] [--jobs 2]
    python scripts/ablate.py --plan plans/table2.yaml --config configs/ped2.yaml ...      # the published size
    python scripts/ablate.py --plan plans/table2.yaml ... -- --train.epochs 2             # knobs of every row, after --
    python scripts/ablate.py --plan plans/table2.yaml ... --dry-run

Each run is RUNS/<row>/seed_<k> with its log beside it. The command may be killed and given again: what is done stays,
what was begun goes on from its last checkpoint. RUNS/<plan>.md (the table), RUNS/<plan>.csv (its runs) and
RUNS/<plan>.png (their AUCs; .pdf, too) are rewritten whenever a run is done. Plans that share rows can share RUNS: such
a row is run once. So can several such commands, on several GPUs say (--device cuda:1): each takes what nobody works on.
"""

import argparse
import csv
import fcntl
import io
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import yaml
from matplotlib.figure import Figure

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, config_from_dict, load_yaml, to_yaml
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError
from lgn_net.files import ROOT, check_writable, write_atomic
from lgn_net.report.figures import Seeds, save_figure, seeds_figure
from lgn_net.report.tables import markdown, percent
from lgn_net.terminal import StopOnSignal, run_command
from lgn_net.training.checkpoint import FREE, differences

POLL = 2.0     # seconds between looks at the running processes


@dataclass
class Run:
    """A row of the plan with a seed."""

    row: str
    seed: int
    folder: Path
    argv: list[str]                                # the configuration, for train.py
    config: Config                                 # the same
    published: float | None = None                 # AUC in percent, on this data set
    process: subprocess.Popen | None = None
    stage: str = "waiting"                         # then train, trained, evaluate, done, failed
    lock: TextIO | None = None                     # held by this command, and by a process that outlives it
    elsewhere: bool = False                        # another command works on it
    started: float = 0.0
    results: dict = field(default_factory=dict)

    @property
    def results_file(self) -> Path:
        return self.folder / "evaluation_last" / "results.json"

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def times(self) -> Path:
        return self.folder.with_suffix(".times.json")

    @property
    def settings(self) -> Path:
        return self.folder.with_suffix(".yaml")

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    def command(self, stage: str, dataset_path: str, device: str) -> list[str]:
        """What to type for a stage. With a checkpoint every knob is spelled out: else it would bring its own."""
        where = ["--dataset_path", dataset_path, "--device", device]
        spelled = ["--config", str(self.settings)] if self.settings.exists() else []
        if stage == "evaluate":
            return [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", str(self.last), *spelled, *where]
        how = [*spelled, "--resume", str(self.last)] if self.last.exists() else self.argv
        return [sys.executable, str(ROOT / "train.py"), *how, *where, "--exp_dir", str(self.folder)]

    def status(self) -> str:
        """For the live table."""
        if self.stage == "done":
            return f"AUC {percent(self.results['auc'])}"
        if self.stage == "failed":
            return f"failed, see {self.log}"
        if self.stage == "train" and (row := last_line(self.folder / "log.jsonl")):
            return f"training, epoch {row['epoch']}"
        if self.elsewhere:
            return "another command works on it"
        return {"train": "training", "evaluate": "evaluating", "trained": "waiting"}.get(self.stage, self.stage)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, help="YAML file with the rows, as those in plans/")
    parser.add_argument("--dataset_path", required=True, help="folder that holds the data set's folder, or that folder")
    parser.add_argument("--exp_dir", type=Path, required=True, metavar="RUNS", help="folder of all the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", help="configuration under the rows, in place of the plan's `config` and its `set`")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the processor's threads")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    cut = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:cut])
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give 1 or more")
    title, runs = read_plan(args, argv[cut + 1:])
    if args.dry_run:
        for run in runs:
            for stage in ("train", "evaluate"):
                print(shlex.join(["python", *run.command(stage, args.dataset_path, args.device)[1:]]))
        return 0
    check_writable(args.exp_dir)
    for run in runs:
        look_for_results(run)
    with StopOnSignal(second_ends=False) as stop:              # by then the runs are saving
        work(runs, args, title, stop)
    text = table(title, runs)
    where = args.exp_dir / args.plan.stem
    print(f"\n{text}\ntable   {where}.md\nruns    {where}.csv\npicture {where}.png")
    if stop.received:
        print(f"{signal.Signals(stop.received).name}: give the same command again to go on")
        return 128 + stop.received
    failed = [run for run in runs if run.stage == "failed"]
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(str(run.log) for run in failed)}", file=sys.stderr)
    return int(bool(failed))


# ----------------------------------------------------------------------------------------------------------- the plan

def read_plan(args: argparse.Namespace, knobs: list[str]) -> tuple[str, list[Run]]:
    """Title and runs, all rows with the first seed first. UserError for a plan that cannot be run as it is.

    Args:
        knobs: of every row, as typed for train.py; they come last.
    """
    try:
        plan = load_yaml(args.plan.read_text())
        title, rows = plan["title"], section(plan, "rows")
        config, common = (args.config, {}) if args.config else (str(ROOT / plan["config"]), section(plan, "set"))
        if unknown := set(plan) - {"title", "config", "set", "rows"}:
            raise KeyError(f"unknown {', '.join(map(str, unknown))}")
        if not rows:
            raise KeyError("no rows")
        for name, row in rows.items():
            if unknown := set(row or {}) - {"set", "published"}:
                raise KeyError(f"unknown {', '.join(map(str, unknown))} in row {name}")
        rows = {str(name): (section(row or {}, "set"), {dataset: float(auc) for dataset, auc in
                            section(row or {}, "published").items()}) for name, row in rows.items()}
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"plan {args.plan}: {' '.join(str(error).split())}; expected title, config, rows with "
                        f"`name: {{set: {{knob: value}}}}` as in plans/table2.yaml") from None
    runs, slugs = [], {}
    for seed in dict.fromkeys(args.seeds):
        for name, (own, published) in rows.items():
            slug = re.sub(r"\W+", "_", name.lower()).strip("_")
            if slugs.setdefault(slug, name) != name or not slug:
                raise UserError(f"plan {args.plan}: rows {slugs[slug]!r} and {name!r} would share the folder {slug!r}; "
                                f"rename one" if slug else f"plan {args.plan}: a row needs a name, not {name!r}")
            first = {"model.name": own.get("model.name", "lgn_net")}            # brings its own hyper-parameters
            words = [word for knob, value in (first | common | own).items() for word in (f"--{knob}", plain(value))]
            if "--seed" in words or any(word.partition("=")[0] == "--seed" for word in knobs):
                raise UserError(f"plan {args.plan}: give seeds with --seeds")
            argv = ["--config", config, *words, *knobs, "--seed", str(seed)]
            run_config = parse(argv)
            runs.append(Run(name, seed, args.exp_dir / slug / f"seed_{seed}", argv, run_config,
                            published.get(canonical_name(run_config.data.dataset))))
    return title, runs


def section(holder: dict, name: str) -> dict:
    """A mapping in a plan; {} where there is none. TypeError when it is something else."""
    content = holder.get(name) or {}
    if not isinstance(content, dict):
        raise TypeError(f"{name} is {content!r}")
    return content


def plain(value: object) -> str:
    """A YAML value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(argv: list[str]) -> Config:
    """The configuration that a run's command line means. UserError as train.py would raise it."""
    return parse_command(command_parser("", ""), [*argv, "--dataset_path", "."])[0]


def look_for_results(run: Run) -> None:
    """Take over a finished run, or one that is only to be scored anew, with other knobs of `score` than before.

    UserError when it was made with other settings than the plan's.
    """
    if not run.results_file.is_file():
        return
    try:
        results = json.loads(run.results_file.read_text())
        made = config_from_dict(results["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.results_file}: no results of evaluate.py ({error}); move it away") from None
    free = tuple(set(FREE) - {"score", "train.max_steps"})
    other = [(knob, line) for knob, line in differences(run.config, made) if not knob.startswith(free)]
    if not other:
        run.results, run.stage = results, "done"
    elif run.last.exists() and all(knob.startswith(("score.", "data.label_source")) for knob, _ in other):
        run.stage = "trained"
    else:
        raise UserError(f"{run.folder} was made with other settings than the plan's: "
                        f"{'; '.join(line for _, line in other)}; move it away, or choose another --exp_dir")


# ----------------------------------------------------------------------------------------------------------- the work

def work(runs: list[Run], args: argparse.Namespace, title: str, stop: StopOnSignal) -> None:
    """Keep `--jobs` processes busy until every run is done or has failed, or a signal came."""
    screen, shown, noted = Screen(), None, []
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // args.jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    try:
        while True:
            for run in runs:
                if run.process and run.process.poll() is not None:
                    advance(run, run.process.returncode, bool(stop.received))
            if stop.received:
                break
            for run in runs:
                if sum(bool(one.process) for one in runs) >= args.jobs:
                    break
                if run.stage in ("waiting", "trained") and not run.process and claim(run):
                    start(run, args, environment)
            status = [[run.row, str(run.seed), run.status()] for run in runs]
            if status != shown:
                screen.show(f"{title}\n\n{markdown(['row', 'seed', 'state'], status, left=3)}")
                aucs = [state for _, _, state in status if state.startswith("AUC")]
                if aucs != noted:
                    write_tables(args.exp_dir / args.plan.stem, title, runs)
                shown, noted = status, aucs
            if not any(run.process or run.stage in ("waiting", "trained") for run in runs):
                break
            time.sleep(POLL)
    finally:
        for run in runs:
            if run.process:
                run.process.terminate()                                # train.py saves and ends
        for run in runs:
            if run.process:
                run.process.wait()
                add_time(run)
    write_tables(args.exp_dir / args.plan.stem, title, runs)


def claim(run: Run) -> bool:
    """Make the run this command's, unless another one works on it; whether there is still something to do."""
    if not run.lock:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(run.folder.with_suffix(".lock"), "a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            run.elsewhere = True
            return False
        run.lock, run.elsewhere = lock, False
        look_for_results(run)                                          # another command may have finished it
    if run.stage == "done":
        release(run)
    return run.stage != "done"


def release(run: Run) -> None:
    """Let others work on the run."""
    run.lock.close()
    run.lock = None


def start(run: Run, args: argparse.Namespace, environment: dict) -> None:
    """Begin the run's next stage, its output behind what is in its log."""
    write_atomic(run.settings, to_yaml(run.config))
    if not run.last.exists():                                          # killed between the first epoch's two files
        (run.folder / "epoch_001.pt").unlink(missing_ok=True)
    run.stage = "evaluate" if run.stage == "trained" else "train"
    command = run.command(run.stage, args.dataset_path, args.device)
    with open(run.log, "a") as log:
        print(f"\n$ {shlex.join(command)}", file=log, flush=True)
        # A process group of its own: Ctrl-C reaches this command alone, which passes SIGTERM on.
        run.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment,
                                       start_new_session=True, pass_fds=[run.lock.fileno()])
    run.started = time.monotonic()


def advance(run: Run, status: int, stopping: bool) -> None:
    """What comes after a process that ended."""
    add_time(run)
    run.process = None
    if status != 0:
        run.stage = "waiting" if stopping else "failed"
    elif run.stage == "train":
        run.stage = "trained"
    else:
        look_for_results(run)
        run.stage = "done" if run.stage == "done" else "failed"
    if run.stage != "trained":
        release(run)


def add_time(run: Run) -> None:
    """Note the seconds that a stage took, over all its pieces."""
    times = read_times(run)
    times[run.stage] = times.get(run.stage, 0) + time.monotonic() - run.started
    write_atomic(run.times, json.dumps(times))


def read_times(run: Run) -> dict:
    """Seconds by stage."""
    return json.loads(run.times.read_text()) if run.times.is_file() else {}


class Screen:
    """A text that is written over the one before it in a terminal, and below it elsewhere."""

    lines = 0

    def show(self, text: str) -> None:
        if sys.stdout.isatty():
            text = "".join(f"{line}\033[K\n" for line in text.splitlines())
            print(f"\033[{self.lines}F" * bool(self.lines) + text, end="", flush=True)
            self.lines = text.count("\n")
        else:
            print(text, flush=True)


# --------------------------------------------------------------------------------------------------------- the tables

def write_tables(path: Path, title: str, runs: list[Run]) -> None:
    """`path`.md, a line per row of the plan, `path`.csv, a line per run that is done, and a picture of them."""
    write_atomic(Path(f"{path}.md"), table(title, runs))
    text, done = io.StringIO(), [run for run in runs if run.stage == "done"]
    columns = ("auc", "auc_psnr", "gap", "psnr_normal", "psnr_abnormal", "memory_updates")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", *columns, "auc_distance", "live_items", "train_s", "evaluate_s", "published_auc"])
    for run in done:
        times = read_times(run)
        writer.writerow([run.row, run.seed, *(run.results.get(name) for name in columns),
                         " ".join(map(str, distance_aucs(run))), live_items(run), times.get("train"),
                         times.get("evaluate"), run.published])
    write_atomic(Path(f"{path}.csv"), text.getvalue())
    if done:
        save_figure(picture(title, runs), path)


def picture(title: str, runs: list[Run]) -> Figure:
    """The AUCs of the runs that are done."""
    def percents(name: str, key: str) -> list[float]:
        values = [run.results.get(key) for run in runs if run.row == name]
        return [100 * value for value in values if value is not None]

    return seeds_figure(title, {run.row: Seeds(percents(run.row, "auc"), percents(run.row, "auc_psnr"), run.published)
                                for run in runs})


def table(title: str, runs: list[Run]) -> str:
    """Mean and standard deviation over the seeds that are done, beside the published value."""
    rows = []
    for name in dict.fromkeys(run.row for run in runs):
        done = [run for run in runs if run.row == name and run.stage == "done"]
        count = sum(run.row == name for run in runs)
        mean = {key: average([run.results.get(key) for run in done]) for key in
                ("auc", "auc_psnr", "gap", "psnr_normal", "psnr_abnormal")}
        distances = [percent(average(aucs)) for aucs in zip(*map(distance_aucs, done))]
        published = next(run.published for run in runs if run.row == name)
        difference = "-" if published is None or mean["auc"] is None else f"{100 * mean['auc'] - published:+.1f}"
        alone = mean["auc_psnr"] if mean["auc_psnr"] is not None else mean["auc"]
        rows.append([name, f"{len(done)} of {count}", spread([run.results["auc"] for run in done]), percent(alone),
                     " / ".join(distances) or "-", number(mean["gap"], 3),
                     number(average([live_items(run) for run in done]), 1),
                     f"{number(mean['psnr_normal'], 2)} / {number(mean['psnr_abnormal'], 2)}",
                     number(average([minutes(run) for run in done]), 1), number(published, 1), difference])
    header = ["row", "seeds", "AUC %", "PSNR only", "distance only", "gap", "live items", "PSNR normal / abnormal",
              "minutes", "published", "difference"]
    return f"# {title}\n\n{markdown(header, rows)}\n"


def spread(aucs: list[float | None]) -> str:
    """AUCs, fractions, as their mean and standard deviation in percent; a dash where there are none."""
    aucs = [100 * value for value in aucs if value is not None]
    if not aucs:
        return "-"
    return f"{statistics.mean(aucs):.2f}" + (f" ± {statistics.stdev(aucs):.2f}" if len(aucs) > 1 else "")


def average(values: list[float | None]) -> float | None:
    """Mean of what is not None; None where nothing is."""
    values = [value for value in values if value is not None]
    return statistics.mean(values) if values else None


def number(value: float | None, digits: int) -> str:
    """With so many decimals; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def distance_aucs(run: Run) -> list[float]:
    """The AUC of the distance to each memory alone; [] without one."""
    return [value for key, value in sorted(run.results.items()) if key.startswith("auc_distance")]


def live_items(run: Run) -> int | None:
    """Items, of all memories, that were the nearest of some query of the last logged batch; None without a memory."""
    row = last_line(run.folder / "log.jsonl")
    return row["live_items"] if row and distance_aucs(run) else None


def minutes(run: Run) -> float | None:
    """Minutes of training, over all its pieces; None where none were noted."""
    seconds = read_times(run).get("train")
    return None if seconds is None else seconds / 60


def last_line(path: Path) -> dict | None:
    """The last complete object of a log; None before there is one."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return next((json.loads(line) for line in reversed(lines) if line.endswith("\n")), None)


if __name__ == "__main__":
    run_command(main)
