"""One run of a plan: its commands, and what its folder says about how far it is."""

import functools
import json
import math
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import yaml
from filelock import FileLock, Timeout

from lgn_net.config import Config, config_from_dict, to_yaml
from lgn_net.errors import UserError
from lgn_net.files import ROOT, to_json, write_atomic
from lgn_net.training.checkpoint import FREE, differences, load_checkpoint

AGAIN = 75                                  # EX_TEMPFAIL, the exit status of "stopped in time, give it again"
# Knobs in which a run's folder may differ from the plan: of speed; those that only ask for a new evaluation; and the
# limit of steps, which only asks for more training.
SPEED = (*(set(FREE) - {"score", "train.max_steps"}), "train.minutes", "train.keep_epochs", "train.fit_minutes")
SCORE, LIMIT = ("score.", "data.label_source"), "train.max_steps"
NUMBERS_ONLY = ["--protocol", "paper", "--maps", "0", "--localize", "off"]


class Progress(NamedTuple):
    """How far a training is, by its last.pt."""

    step: int = 0
    epochs: int = 0               # that are complete
    images: int = 0               # windows trained on
    complete: bool = False        # nothing is left to train
    provenance: dict = {}


@dataclass
class Run:
    """A row of the plan with a seed.

    `argv` is the configuration as train.py's options, `config` the same parsed; `published` is an AUC in percent.
    `stage` is waiting (for the training), trained, done, stopped, failed, elsewhere (another command works on it), or
    the command that runs: train, evaluate. `to_evaluate` holds checkpoints, `results` those of the last epoch.
    """

    row: str
    seed: int
    folder: Path
    argv: list[str]
    config: Config
    published: float | None
    where: list[str]                        # data and device, for every command
    system: str = ""                        # its name in a published run's result, and the knobs changed there
    changed: dict = field(default_factory=dict)
    stage: str = "waiting"
    progress: Progress = Progress()
    to_evaluate: list[Path] = field(default_factory=list)
    results: dict = field(default_factory=dict)
    process: subprocess.Popen | None = None
    started: float = 0.0
    lock: FileLock | None = None

    @property
    def last(self) -> Path:
        """The checkpoint that a training goes on from."""
        return self.folder / "last.pt"

    def beside(self, kind: str) -> Path:
        """Return the run's file of a kind that lies beside its folder."""
        return Path(f"{self.folder}.{kind}")

    def epoch(self, epoch: int) -> Path:
        """Return the checkpoint of an epoch before the last, which may not have been kept."""
        return self.folder / f"epoch_{epoch:03d}.pt"

    def results_of(self, checkpoint: Path) -> tuple[dict, Config] | None:
        """Return the results of a checkpoint, and the configuration in them; None where there are none."""
        path = self.folder / f"evaluation_{checkpoint.stem}" / "results.json"
        if not path.is_file():
            return None
        try:
            results = json.loads(path.read_text())
            return results, config_from_dict(results["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} does not hold results of evaluate.py ({error}); move it away") from None

    # ------------------------------------------------------------------------------------------------- the commands

    def training(self, limits: Sequence[str], first_limits: Sequence[str]) -> list[str]:
        """Return the command that trains, with options for every call and for the first one alone."""
        how = [*self.settings(), "--resume", str(self.last)] if self.last.exists() else [*self.argv, *first_limits]
        return [sys.executable, str(ROOT / "train.py"), *how, *self.where, "--exp_dir", str(self.folder), *limits]

    def evaluating(self) -> list[str]:
        """Return the command that evaluates the next checkpoint."""
        checkpoint = (self.to_evaluate or [self.last])[0]
        return [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", str(checkpoint), *self.settings(),
                *self.where, *(NUMBERS_ONLY if checkpoint != self.last else [])]

    def settings(self) -> list[str]:
        """Return the option that gives every knob by a file; a checkpoint would bring some of its own."""
        return ["--config", str(self.beside("yaml"))] if self.beside("yaml").exists() else []

    def start(self, limits: Sequence[str], first_limits: Sequence[str], environment: dict) -> None:
        """Start the next command, with the options of `training`; its output is appended to the run's log."""
        write_atomic(self.beside("yaml"), to_yaml(self.config))
        if not self.last.exists():                                     # killed between the first epoch's two files
            self.epoch(1).unlink(missing_ok=True)
        command = self.evaluating() if self.stage == "trained" else self.training(limits, first_limits)
        with open(self.beside("log"), "a") as log:
            print(f"\n$ {shlex.join(command)}", file=log, flush=True)
            # A process group of its own: Ctrl-C reaches the runner alone, which passes SIGTERM on.
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment,
                                            start_new_session=True)
        self.stage, self.started = "evaluate" if self.stage == "trained" else "train", time.monotonic()

    def end(self, every: int, fit: bool, stopping: bool) -> None:
        """Note the time of a command that ended, and find out what comes next."""
        assert self.process
        status, stage, checkpoints, before = self.process.returncode, self.stage, self.to_evaluate, self.progress
        self.process, seconds = None, round(time.monotonic() - self.started, 3)
        self.take_over(every, fit)
        after = self.progress
        if stage == "evaluate" or after.step > before.step:
            piece = {"stage": stage, "from_step": before.step, "to_step": after.step,
                     "images": after.images - before.images, "seconds": seconds, "versions": after.provenance}
            write_atomic(self.folder / "pieces.json", to_json([*self.pieces("train", "evaluate"), piece]))
        if status == AGAIN and self.stage == "waiting":
            self.stage = "stopped"
        elif not stopping and (status not in (0, AGAIN) or (self.stage == "waiting" if stage == "train" else
                                                            self.to_evaluate == checkpoints)):
            self.stage = "failed"                                      # another try would end in the same way
        if self.stage != "trained":
            self.release()

    # ----------------------------------------------------------------------------------------------- what there is

    def take_over(self, every: int, fit: bool) -> None:
        """Set the stage by what the folder holds; UserError when it was made with other settings than the plan's.

        Args:
            every: evaluate the files of every K-th epoch, too, as far as they were kept; 0: none.
            fit: whether train.py chooses the number of epochs.
        """
        self.stage, self.results, self.to_evaluate = "waiting", {}, []
        if fit and (self.folder / "config.yaml").exists():
            epochs = yaml.safe_load((self.folder / "config.yaml").read_text())["train"]["epochs"]
            self.config = replace(self.config, train=replace(self.config.train, epochs=epochs))
        self.progress = self.read_progress()
        found, begun = self.results_of(self.last), self.last.exists()
        other = self.check(found[1], (*SCORE, LIMIT) if begun else ()) if found else []
        if not (self.progress.complete if begun else found):
            return
        if found and not other:
            self.results = found[0]
        else:
            self.to_evaluate.append(self.last)
        for path in map(self.epoch, range(every, self.config.train.epochs, every) if every else ()):
            done = self.results_of(path)
            if path.exists() and not (done and done[1].score == self.config.score):
                self.to_evaluate.append(path)
        self.stage = "trained" if self.to_evaluate else "done"

    def read_progress(self) -> Progress:
        """Read how far the training is; UserError when last.pt was made with other settings than the plan's."""
        if not self.last.exists():
            return Progress()
        made, saved = load_checkpoint(self.last)
        if not {"step", "videos", "provenance"} <= saved.keys():
            raise UserError(f"{self.last} is not the last.pt of a run of train.py; choose another --exp_dir")
        self.check(made, (*SCORE, LIMIT))
        windows = sum(max(length - made.model.window + 1, 0) for length in saved["videos"].values())
        per_epoch, step = math.ceil(windows / made.train.batch_size), saved["step"]
        end = min(self.config.train.epochs * per_epoch, self.config.train.max_steps or math.inf)
        if step > end:
            raise UserError(f"{self.last} has {step} steps, but train.max_steps is {end}; choose another --exp_dir")
        epochs, rest = divmod(step, per_epoch)
        return Progress(step, epochs, epochs * windows + rest * made.train.batch_size, step == end, saved["provenance"])

    def check(self, made: Config, free: tuple[str, ...]) -> list[str]:
        """Return the `free` knobs in which the folder differs from the plan; UserError for any other difference."""
        other = [(knob, line) for knob, line in differences(self.config, made) if not knob.startswith(SPEED)]
        if settled := [line for knob, line in other if not knob.startswith(free)]:
            raise UserError(f"{self.folder} was made with other settings than the plan's: {'; '.join(settled)}; move "
                            f"it away, or choose another --exp_dir")
        return [knob for knob, _ in other]

    def log_rows(self) -> list[dict]:
        """Return the complete rows of log.jsonl."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def pieces(self, *stages: str) -> list[dict]:
        """Return a record of each command of the stages that ended; it has no stage in files of earlier versions."""
        path = self.folder / "pieces.json"
        pieces = json.loads(path.read_text()) if path.is_file() else []
        return [piece for piece in pieces if piece.get("stage", "train") in stages]

    def seconds(self, stage: str) -> float | None:
        """Return the time that the commands of a stage took; None where none was noted."""
        old = self.beside("times.json")                                # of earlier versions
        before = json.loads(old.read_text()).get(stage, 0) if old.is_file() else 0
        return sum((piece["seconds"] for piece in self.pieces(stage)), before) or None

    def status(self) -> str:
        """Describe the state in a few words."""
        if self.stage == "train" and (rows := self.log_rows()):
            return f"training, epoch {rows[-1]['epoch']}"
        if self.stage == "failed":
            lines = self.beside("log").read_text().splitlines()
            return f"failed, see {self.beside('log')}: {lines[-1].strip()}"
        auc = self.results.get("auc")
        return {"done": f"AUC {'-' if auc is None else f'{100 * auc:.2f} %'}", "train": "training",
                "evaluate": "evaluating", "elsewhere": "another command works on it"}.get(self.stage, self.stage)

    # ------------------------------------------------------------------------------------------------------ the lock

    def claim(self) -> bool:
        """Lock the run; False when another command works on it, or a training whose command was killed goes on."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.lock = self.lock or lock(self.beside("lock"))
        if self.lock and (self.folder / ".lock").exists():
            if training := lock(self.folder / ".lock"):                # train.py's own
                training.release()
            else:
                self.release()
        return bool(self.lock)

    def release(self) -> None:
        """Let other commands work on the run."""
        if self.lock:
            self.lock.release()
        self.lock = None


def lock(path: Path) -> FileLock | None:
    """Lock a file; None when another process holds it. On a disk without locks, warn once and go on without."""
    one = FileLock(path)
    try:
        one.acquire(blocking=False)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        warn_once(f"this disk has no locks ({error.args[-1]}); give one command at a time for a folder")
    return one


warn_once = functools.cache(warnings.warn)
