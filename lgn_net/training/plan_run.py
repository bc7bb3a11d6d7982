"""One run of a plan: its commands, and what its folder says about how far it is."""

import contextlib
import json
import math
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import Timeout

from lgn_net.cli import config_from_dict
from lgn_net.config import Config, to_yaml
from lgn_net.errors import UserError
from lgn_net.files import ROOT, locked, to_json, write_atomic
from lgn_net.training.checkpoint import FREE, differences, load_checkpoint, newest_good
from lgn_net.training.run import read_log

AGAIN = 75                                  # EX_TEMPFAIL, the exit status of "stopped in time, give it again"
# Knobs in which a run's folder may differ from the plan: those of speed, and those that only ask for a new evaluation
# or for more training.
SPEED = (*(set(FREE) - {"score", "train.max_steps"}), "train.fit_minutes")
LATER = ("score.", "data.label_source", "train.max_steps")


def read_json(path: Path) -> dict:
    """Read a file of one dictionary; {} where it is missing or damaged, since it will be made again."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {}
    return {}


@dataclass
class Run:
    """A row of the plan with a seed.

    `argv` is the configuration as train.py's options, `config` the same parsed; `where` are the options of data and
    device; with `every` K > 0 the weights of every K-th epoch are evaluated, too; `published` is an AUC in percent.
    `look` finds the rest: how far the training is, and the results of the last epoch.
    """

    row: str
    seed: int
    folder: Path
    argv: list[str]
    config: Config
    where: list[str]
    every: int = 0
    published: float | None = None
    epochs: int = 0                                 # that are complete
    images: int = 0                                 # windows trained on
    versions: dict = field(default_factory=dict)
    to_evaluate: list[Path] = field(default_factory=list)
    results: dict = field(default_factory=dict)
    stage: str = "train"                            # what is to be done next: train, evaluate, or "" for nothing
    failed: bool = False
    process: subprocess.Popen | None = None

    def __post_init__(self):
        self.last = self.folder / "last.pt"

    def beside(self, kind: str) -> Path:
        """Return the run's file of a kind that lies beside its folder."""
        return Path(f"{self.folder}.{kind}")

    def epoch(self, epoch: int) -> Path:
        """Return the checkpoint of an epoch, which may not have been kept."""
        return self.folder / f"epoch_{epoch:03d}.pt"

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

            # How far the training is.
            windows = sum(max(length - made.model.window + 1, 0) for length in saved.get("videos", {}).values())
            steps_per_epoch = max(math.ceil(windows / made.train.batch_size), 1)
            self.epochs, rest = divmod(saved["step"], steps_per_epoch)
            self.images = self.epochs * windows + rest * made.train.batch_size
            end = min(self.config.train.epochs * steps_per_epoch, self.config.train.max_steps or math.inf)
            trained, self.versions = good == str(self.last) and saved["step"] == end, saved["provenance"]
        kept = [self.epoch(k) for k in range(1, self.config.train.epochs) if self.every and k % self.every == 0]
        self.to_evaluate = [path for path in (self.last, *kept) if path.exists() and not self.results_of(path)]
        self.results = self.results_of(self.last) if trained else {}
        self.stage = "train" if not trained else "evaluate" if self.to_evaluate else ""

    def results_of(self, checkpoint: Path) -> dict:
        """Return the results of a checkpoint; {} where it was not evaluated, or with other settings than the plan's."""
        results = read_json(self.folder / f"evaluation_{checkpoint.stem}" / "results.json")
        same = results.get("config") and all(knob.startswith(SPEED)
                               for knob, _ in differences(self.config, config_from_dict(results["config"])))
        return results if same else {}

    def summary(self) -> dict:
        """Return the run as the tables and pictures of `lgn_net.report.plan` take it."""
        times = read_json(self.beside("times.json"))
        live = {row["epoch"]: row["live_items"] for row in read_log(self.folder / "log.jsonl")}      # the last of each
        return {"row": self.row, "seed": self.seed, "published_auc": self.published, "results": self.results,
                "live_items": [*live.values()], "train_s": times.get("train"), "evaluate_s": times.get("evaluate")}

    def command(self, stage: str, limits: list[str], first_limits: list[str]) -> list[str]:
        """Return the command that trains, with options for every call and for the first one alone, or evaluates."""
        # A checkpoint would bring some knobs of its own, but for a file that gives every knob.
        settings = ["--config", str(self.beside("yaml"))] if self.beside("yaml").exists() else []
        if stage == "train":
            how = [*settings, "--resume", "auto"] if self.last.exists() else [*self.argv, *first_limits]
            return [sys.executable, str(ROOT / "train.py"), *how, *self.where, "--exp_dir", str(self.folder), *limits]
        checkpoint = (self.to_evaluate or [self.last])[0]
        little = ["--protocol", "paper", "--maps", "0", "--localize", "off"] if checkpoint != self.last else []
        return [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", str(checkpoint), *settings, *self.where,
                *little]

    def start(self, limits: list[str], first_limits: list[str], environment: dict) -> None:
        """Start the next command, with the options of `command`; its output is appended to the run's log."""
        write_atomic(self.beside("yaml"), to_yaml(self.config))
        if not self.last.exists():                                     # killed between the first epoch's two files
            self.epoch(1).unlink(missing_ok=True)
        command = self.command(self.stage, limits, first_limits)
        with open(self.beside("log"), "a") as log:
            print(f"\n$ {shlex.join(command)}", file=log, flush=True)
            # A process group of its own: Ctrl-C reaches the runner alone, which passes SIGTERM on.
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment,
                                            start_new_session=True)
        self.started = time.monotonic()

    def end(self, stopping: bool) -> bool:
        """Note the time of a command that ended, and look what comes next; return whether it may start."""
        status, before = self.process.returncode if self.process else 0, (self.stage, self.to_evaluate)
        times = read_json(self.beside("times.json"))
        times[self.stage] = round(times.get(self.stage, 0) + time.monotonic() - self.started, 3)
        write_atomic(self.beside("times.json"), to_json(times))
        self.look()
        unchanged = (self.stage, self.to_evaluate) == before           # another try would end in the same way
        self.failed = not stopping and status != AGAIN and (status != 0 or unchanged)
        return status == 0 and not self.failed

    def claim(self) -> bool:
        """Lock the run and look; False when another command works on it, or a training whose command was killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = contextlib.ExitStack()
        try:
            self.lock.enter_context(locked(self.beside("lock"), timeout=0))
            with locked(self.folder / ".lock", timeout=0):             # train.py's own
                self.look()
        except Timeout:
            self.lock.close()
            return False
        return True
