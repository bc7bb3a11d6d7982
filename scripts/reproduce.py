"""Train and evaluate LGN-Net on UCSD Ped2 as published, and write what came out beside what was published.

    scripts/reproduce_ped2.sh --seed 0 --dataset_path DATA
    scripts/reproduce_ped2.sh --seed 0 --dataset_path DATA --minutes 9     # the same again goes on, until it is done
    scripts/reproduce_ped2.sh --seed 0 --dataset_path DATA -- --model.read_grad true       # train.py's knobs after --
    python scripts/reproduce.py --table results/*.json                       # rows for docs/results.md

The run is a folder of train.py and evaluate.py: RUN/last.pt, RUN/evaluation_last, and evaluation_epoch_NNN with the
scores of every K-th epoch, whose weights go once they are scored. RESULTS/<name>.json says what came out, or how far
the run is. The result is that of the last epoch; the best epoch was chosen on the test set, and is an oracle.

Exit status: 0 complete; 75 stopped by --minutes, SIGINT or SIGTERM, give the same command again; 1 training diverged;
2 something to mend, which the sentence names.
"""

import argparse
import contextlib
import fcntl
import functools
import json
import math
import os
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, flatten, to_yaml
from lgn_net.data.videos import SPLIT_FOLDERS, find_split, index_videos
from lgn_net.datasets import difference_from_published
from lgn_net.datasets.common import find_folders
from lgn_net.datasets.ucsd import UCSD
from lgn_net.errors import UserError
from lgn_net.files import ROOT, check_writable, to_json, write_atomic
from lgn_net.preparation.archives import download
from lgn_net.preparation.prepare import Settings, prepare
from lgn_net.report.figures import save_figure
from lgn_net.report.reproduction import CONFIG, SIGNALS, curve_figure, published, table
from lgn_net.report.tables import percent
from lgn_net.terminal import run_command

LOCK = ".reproduce.lock"                                           # in every run of this script
AGAIN = 75                                                         # EX_TEMPFAIL
KEPT = ("results.json", "scores.csv")                              # of the evaluation of an epoch before the last


def main(argv: list[str]) -> int:
    started = time.monotonic()
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = arguments()
    args = parser.parse_args(argv[:cut])
    if args.table:
        try:
            print(table([json.loads(path.read_text()) for path in args.table]))
        except (ValueError, KeyError, TypeError):
            raise UserError("--table wants results that this script wrote, results/*.json") from None
        return 0
    if args.every < 0 or (args.minutes is not None and not args.minutes > 0):
        raise UserError("--every must be 0 or more, --minutes more than 0")
    if any(word.partition("=")[0] == "--seed" for word in argv[cut:]):
        raise UserError("--seed stands before --, where it names the run as well")
    job = Job(args, argv[cut + 1:], parser)
    refuse_others(job)
    check_writable(job.run)
    check_writable(args.results)
    before = job.position()
    with stoppable(args.minutes and 60 * args.minutes - (time.monotonic() - started)):
        work(job)

    result = gather(job)
    write_atomic(args.results / f"{job.name}.json", to_json(result))
    if result["curve"]:
        save_figure(curve_figure(result), job.run / "auc_over_epochs")
    print(summary(job, result))
    if result["status"] == "complete":
        return 0
    told = "" if job.position() != before else "; nothing was finished in this time, give it more"
    print(f"stopped: {result['status']}{told}; go on with: {result['command']}"
          + (f" --minutes {args.minutes:g}" if args.minutes else ""))
    return AGAIN


def arguments() -> argparse.ArgumentParser:
    """The options; what stands behind `--` is train.py's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False, usage="reproduce_ped2.sh [options] [-- train.py's knobs]\n"
                                                               "       reproduce.py --table results/*.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="stop in time to be through after so many minutes, all included")
    parser.add_argument("--dataset_path", type=Path, default=Path("data"), metavar="DATA",
                        help="folder with Ped2, prepared or as published; where there is none, it is downloaded to it "
                             "(default: data)")
    parser.add_argument("--exp_dir", type=Path, metavar="RUN", help="folder of the run (default: runs/<name>)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of <name>.json")
    parser.add_argument("--config", default=CONFIG, help="another configuration (for a trial)")
    parser.add_argument("--epochs", type=int, help="another schedule (for a trial)")
    parser.add_argument("--every", type=int, default=5, metavar="K",
                        help="evaluate every K-th epoch as well; 0: the last one only (default: 5)")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="print rows of results, and do no more")
    return parser


# ------------------------------------------------------------------------------------------------------------ the job

class Position(NamedTuple):
    """How far a run is."""

    step: int                    # of last.pt
    epochs: int                  # that are complete
    images: int                  # windows trained on
    complete: bool               # all epochs of the schedule
    evaluated: tuple[int, ...]   # epochs; the last one is that of last.pt


class Job:
    """What is to be trained and evaluated, and where."""

    def __init__(self, args: argparse.Namespace, knobs: list[str], parser: argparse.ArgumentParser):
        config = args.config if Path(args.config).exists() else str(ROOT / args.config)
        self.args = args
        epochs = [] if args.epochs is None else ["--train.epochs", str(args.epochs)]
        self.argv = ["--config", config, *epochs, *knobs, "--seed", str(args.seed)]
        self.config = parse(self.argv)
        self.changed = changed(self.config, config)
        system = self.config.model.name.replace("lgn_net", "lgn")
        words = [knob.removeprefix("model.").replace(".", "_") + ("" if value is True else f"_{value}")
                 for knob, value in self.changed.items()]
        self.name = "_".join([Path(config).stem, system, *words, f"seed{args.seed}"]).replace("/", "_")
        self.run = args.exp_dir or Path("runs") / self.name
        self.last = self.run / "last.pt"
        given = [(name, getattr(args, name)) for name in ("seed", "dataset_path", "exp_dir", "results", "config",
                                                          "epochs", "every", "device")]
        self.command = shlex.join(["scripts/reproduce_ped2.sh", *(
            word for name, value in given if name == "seed" or value != parser.get_default(name)
            for word in (f"--{name}", str(value))), *(["--", *knobs] if knobs else [])])

    @functools.cached_property
    def curve_epochs(self) -> range:
        """Epochs before the last that are evaluated as well."""
        return range(self.args.every, self.config.train.epochs, self.args.every) if self.args.every else range(0)

    @property
    def where(self) -> list[str]:
        """Data and device, for both commands."""
        return ["--dataset_path", str(self.args.dataset_path), "--device", self.args.device]

    def training(self) -> list[str]:
        """train.py's command line; with a checkpoint every knob is spelled out, else it would bring its own."""
        how = self.argv
        if self.last.exists():
            write_atomic(self.run / "config.yaml", to_yaml(self.config))
            how = ["--config", str(self.run / "config.yaml"), "--resume", str(self.last)]
        return [*how, *self.where, "--exp_dir", str(self.run)]

    def saved(self) -> dict:
        """What last.pt says beside its tensors; {} where there is none. UserError when it belongs to another run."""
        from lgn_net.training.checkpoint import FREE, differences

        if not self.last.exists():
            return {}
        config, saved = read_position(self.last, self.last.stat().st_ino, self.last.stat().st_mtime_ns)
        free = tuple(set(FREE) - {"score"})
        if different := [line for knob, line in differences(self.config, config) if not knob.startswith(free)]:
            raise UserError(f"{self.last} belongs to another run: {'; '.join(different)}; give another --exp_dir")
        return saved

    def position(self) -> Position:
        """How far the run is, by last.pt and the evaluations beside it."""
        saved, B, N = self.saved(), self.config.train.batch_size, self.config.train.epochs
        if not saved:
            return Position(0, 0, 0, False, ())
        step = saved["step"]
        windows = sum(max(length - self.config.model.window + 1, 0) for length in saved["videos"].values())
        epochs, rest = divmod(step, math.ceil(windows / B))
        evaluated = [epoch for epoch in range(1, N + 1) if (self.evaluation(epoch) / "results.json").exists()]
        return Position(step, epochs, epochs * windows + rest * B, epochs >= N, tuple(evaluated))

    def evaluation(self, epoch: int) -> Path:
        """The folder of an epoch's evaluation."""
        return self.run / f"evaluation_{'last' if epoch == self.config.train.epochs else f'epoch_{epoch:03d}'}"

    def pieces(self) -> list[dict]:
        """The pieces in which the run was trained; one that was killed is not among them."""
        path = self.run / "pieces.json"
        return json.loads(path.read_text()) if path.exists() else []


@functools.lru_cache(1)
def read_position(path: Path, _inode: int, _written: int) -> tuple[Config, dict]:
    """Configuration, step, videos and provenance of a run's last.pt, read anew when the file is another one."""
    from lgn_net.training.checkpoint import load_checkpoint

    config, saved = load_checkpoint(path)
    if not {"step", "videos", "provenance"} <= saved.keys():
        raise UserError(f"{path} is not the last.pt of a run of train.py; give another --exp_dir")
    return config, {key: saved[key] for key in ("step", "videos", "provenance")}


def refuse_others(job: Job) -> None:
    """UserError where the run or the result of this name is somebody else's, which would be pruned or overwritten."""
    if job.last.exists() and not (job.run / LOCK).exists():
        raise UserError(f"{job.run} is a run of train.py, whose epochs are left alone; give another --exp_dir")
    path = job.args.results / f"{job.name}.json"
    if path.exists():
        try:
            other = shlex.split(json.loads(path.read_text())["commands"][0])[-1]
        except (ValueError, KeyError, IndexError, TypeError):
            raise UserError(f"{path} was not written by this script; give another --results") from None
        if Path(other).resolve() != job.run.resolve():
            raise UserError(f"{path} is the result of the run in {other}, this one is in {job.run}; give another "
                            f"--results or --exp_dir")


def parse(argv: list[str]) -> Config:
    """The configuration that a command line of train.py means."""
    return parse_command(command_parser("", ""), [*argv, "--dataset_path", "."])[0]


def changed(config: Config, path: str) -> dict:
    """Knobs in which a configuration differs from a file's (with its system's own hyper-parameters) and that matter."""
    from lgn_net.training.checkpoint import FREE

    plain, system = parse(["--config", path]), config.model.name
    if plain.model.name != system:
        plain = parse(["--config", path, "--model.name", system])
    ours, theirs = flatten(asdict(config)), flatten(asdict(plain))
    return {knob: value for knob, value in ours.items()
            if value != theirs[knob] and not knob.startswith(("seed", *set(FREE) - {"score"}))}


# ----------------------------------------------------------------------------------------------------------- the work

@contextlib.contextmanager
def stoppable(seconds: float | None) -> Iterator[None]:
    """A block that SIGINT, SIGTERM and the end of the time end early; train.py, inside, saves first and returns.

    The last 20 seconds (or a fifth) of the time are left for that.
    """
    def once_more(lost: object) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):     # raised where it is lost: in a destructor or the like
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            hook(lost)

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.default_int_handler,
                signal.SIGALRM: lambda *_: signal.raise_signal(signal.SIGTERM)}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    hook, sys.unraisablehook = sys.unraisablehook, once_more
    try:
        with contextlib.suppress(KeyboardInterrupt):
            if seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, max(seconds - min(20.0, 0.2 * seconds), 0.001))
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)


def work(job: Job) -> None:
    """Everything that is still to be done."""
    find_data(job)
    job.run.mkdir(parents=True, exist_ok=True)
    with open(job.run / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)     # released when the process ends, however it ends
        except BlockingIOError:
            raise UserError(f"another process works in {job.run}; wait for it, or give another --exp_dir") from None
        evaluate_epochs(job)                                 # what an earlier piece has left
        if train_on(job):
            evaluate_epochs(job)


def find_data(job: Job) -> None:
    """See to it that the frames are there: as they are, from the published files, or downloaded.

    UserError with what to type where that fails, and for a part of a benchmark.
    """
    data, name = job.args.dataset_path, job.config.data.dataset
    missing, ours = what_is_missing(data, name), (data / name / "prepared.json").exists()
    if missing and name == "ped2":
        if ours or not (data / name).exists():               # else somebody's frames, which are left alone
            found = [path for path in (data / UCSD.name, data / "archives" / UCSD.name) if path.is_file()]
            if data.is_dir():
                found += [path for path in find_folders([data], "UCSDped2") if (path / "Train").is_dir()]
            try:
                prepare(found[:1] or [download(UCSD, data / "archives")], data, Settings(name, name))
                missing = what_is_missing(data, name)
            except UserError as error:
                missing += f", and {error}"
        advice = f"--source {UCSD.name} --out {shlex.quote(str(data))}"
        missing = missing and f"{missing}; get {UCSD.name}, and type: python scripts/prepare_data.py ped2 {advice}"
    if missing:
        raise UserError(missing)


def what_is_missing(data: Path, name: str) -> str | None:
    """A sentence where the frames of a data set are not there, or not all of a benchmark's."""
    try:
        for split in SPLIT_FOLDERS:
            videos = index_videos(find_split(data, name, split))
            if note := difference_from_published(name, split, [len(video.frames) for video in videos]):
                return note
    except UserError as error:
        return str(error)
    return None


def train_on(job: Job) -> bool:
    """Train until the schedule is complete or a signal comes; whether to go on."""
    import train

    before = job.position()
    if before.complete:
        return True
    discard(job, before)
    started = time.monotonic()
    try:
        status = train.main(job.training())
    finally:                                                 # however it ended: steps that were saved took their time
        after = job.position()
        if after.step > before.step:
            piece = {"from_step": before.step, "to_step": after.step, "images": after.images - before.images,
                     "seconds": round(time.monotonic() - started, 3), "versions": job.saved()["provenance"]}
            write_atomic(job.run / "pieces.json", to_json([*job.pieces(), piece]))
        discard(job, after)
    if status == 0 and not after.complete:
        raise UserError(f"train.max_steps ended the training in epoch {after.epochs + 1} of "
                        f"{job.config.train.epochs}; leave it out to go on")
    return status == 0


def discard(job: Job, position: Position) -> None:
    """Remove the weights of epochs that nothing needs any more; those of the last one are in last.pt."""
    for path in job.run.glob("epoch_*.pt"):
        epoch = int(path.stem.removeprefix("epoch_"))
        if epoch in position.evaluated or epoch not in job.curve_epochs or epoch > position.epochs:
            path.unlink()


def evaluate_epochs(job: Job) -> None:
    """Evaluate last.pt once the schedule is complete, and every K-th epoch before."""
    position = job.position()
    if position.complete and job.config.train.epochs not in position.evaluated:
        evaluate_checkpoint(job, job.last)
    for epoch in job.curve_epochs:
        path = job.run / f"epoch_{epoch:03d}.pt"
        if epoch <= position.epochs and epoch not in position.evaluated and path.exists():
            evaluate_checkpoint(job, path, "--protocol", "paper", "--maps", "0", "--localize", "off")
    discard(job, job.position())


def evaluate_checkpoint(job: Job, checkpoint: Path, *options: str) -> None:
    """evaluate.py, whose folder appears when it is complete; of epochs before the last only the numbers are kept."""
    import evaluate

    out, part = job.run / f"evaluation_{checkpoint.stem}", job.run / ".evaluation"
    shutil.rmtree(part, ignore_errors=True)
    print(f"evaluating {checkpoint}", flush=True)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        evaluate.main(["--checkpoint", str(checkpoint), *job.where, "--out", str(part), *options])
    if checkpoint != job.last:
        for path in part.iterdir():
            if path.name not in KEPT:
                path.unlink()
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


# --------------------------------------------------------------------------------------------------------- the result

def gather(job: Job) -> dict:
    """What is known of the run, for JSON. AUC and what belongs to it are null before its schedule is complete."""
    position, saved, N = job.position(), job.saved(), job.config.train.epochs
    results = {epoch: json.loads((job.evaluation(epoch) / "results.json").read_text()) for epoch in position.evaluated}
    curve = [{"epoch": epoch} | {key: one.get(key) for key in (*SIGNALS, "memory_updates")}
             for epoch, one in results.items()]
    final = results.get(N, {}) if position.complete else {}
    open_ = [epoch for epoch in job.curve_epochs
             if epoch not in position.evaluated and (job.run / f"epoch_{epoch:03d}.pt").exists()]
    lost = [epoch for epoch in job.curve_epochs if epoch <= position.epochs and epoch not in (*results, *open_)]
    if lost:
        warnings.warn(f"the weights of epochs {', '.join(map(str, lost))} were not kept by a call with another "
                      f"--every; the curve goes without them")
    if not position.complete:
        status = f"training, epoch {position.epochs + 1} of {N}"
    elif open_ or not final:
        status = f"evaluating, {len(results)} of {len(results) + len(open_) + (not final)} epochs"
    else:
        status = "complete"
    best = max(curve, key=lambda row: row["auc"]) | {"warning": "epoch chosen on the test set: no result"} \
        if status == "complete" else None
    pieces, systems = job.pieces(), published(job.config.data.dataset)
    seconds = sum(piece["seconds"] for piece in pieces)
    versions = [piece["versions"] for piece in pieces] or [saved.get("provenance", {})]
    return {
        "name": job.name,
        "status": status,
        "schedule_complete": position.complete,
        "epochs_done": position.epochs,
        "epochs": N,
        "system": systems.get(job.config.model.name, (job.config.model.name, None))[0],
        "seed": job.config.seed,
        "configuration": job.args.config,
        "changed": job.changed,
        "published": systems.get(job.config.model.name, (None, None))[1],
        **{key: final.get(key) for key in (SIGNALS[0], "interval", *SIGNALS[1:])},
        "oracle": best,
        "curve": curve,
        "live_items": live_items(job.run / "log.jsonl", position),
        "command": job.command,
        "commands": [shlex.join(["python", "train.py", *job.argv, *job.where, "--exp_dir", str(job.run)]),
                     shlex.join(["python", "evaluate.py", "--checkpoint", str(job.last), *job.where])],
        "versions": {key: " / ".join(dict.fromkeys(str(one.get(key)) for one in versions)) for key in versions[0]},
        "times": {"training_s": round(seconds, 3), "pieces": pieces,
                  "images_per_s": round(sum(piece["images"] for piece in pieces) / seconds, 3) if pieces else None},
        "config": asdict(job.config),
        "evaluation": {key: value for key, value in final.items() if key not in ("config", "checkpoint")} or None,
    }


def live_items(log: Path, position: Position) -> list[int]:
    """Of every complete epoch: items that were the nearest of some query of its last logged batch."""
    rows = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")] \
        if log.exists() else []
    by_epoch = {row["epoch"]: row["live_items"] for row in rows if row["step"] <= position.step}
    return [by_epoch[epoch] for epoch in sorted(by_epoch) if epoch <= position.epochs]


def summary(job: Job, result: Mapping) -> str:
    """What came out, or how far it is, and where it lies."""
    lines = [f"\n{result['name']}: {result['status']}"]
    if result["status"] == "complete":
        interval, best = result["interval"], result["oracle"]
        lines += [f"  AUC {percent(result['auc'])} %"
                  + (f", 95 % interval {percent(interval[0], 1)} to {percent(interval[1], 1)}" if interval else "")
                  + (f"; published {percent(result['published'], 1)}" if result["published"] else ""),
                  f"  oracle, chosen on the test set: {percent(best['auc'])} % in epoch {best['epoch']}",
                  f"report   {job.evaluation(result['epochs']) / 'report.html'}"]
    if speed := result["times"]["images_per_s"]:
        lines.insert(1, f"  trained {result['times']['training_s'] / 60:.1f} minutes, {speed:.1f} images/s, on "
                        f"{result['versions']['device']}")
    lines += [f"picture  {job.run / 'auc_over_epochs.png'}"] * bool(result["curve"])
    return "\n".join([*lines, f"result   {job.args.results / job.name}.json"])


if __name__ == "__main__":
    run_command(main)
