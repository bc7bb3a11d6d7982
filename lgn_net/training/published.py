"""The published Ped2 run: its name, its frames, and its result beside the published AUC."""

import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from lgn_net.config import Config, flatten
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import difference_from_published
from lgn_net.errors import UserError
from lgn_net.files import ROOT
from lgn_net.training.plan_run import LIMIT, SPEED, Run

SIGNALS = ("auc", "auc_psnr", "auc_distance")


def changed(config: Config, plain: Config) -> dict:
    """Return the knobs that decide a result and differ from a plain configuration's."""
    theirs = flatten(asdict(plain))
    return {knob: value for knob, value in flatten(asdict(config)).items()
            if value != theirs[knob] and not knob.startswith(("seed", LIMIT, *SPEED))}


def name_of(path: str, config: Config, knobs: dict, *words: str) -> str:
    """Return the name of a run and of its result: configuration, system, changed knobs, words and seed."""
    system = config.model.name.replace("lgn_net", "lgn")
    changes = [knob.removeprefix("model.").replace(".", "_") + ("" if value is True else f"_{value}")
               for knob, value in knobs.items()]
    return "_".join([Path(path).stem, system, *changes, *words, f"seed{config.seed}"]).replace("/", "_")


def find_data(data: Path, name: str, splits: list[str]) -> None:
    """Prepare Ped2 where it is missing; UserError where a needed split is missing or is not the whole benchmark."""
    def problem() -> str | None:
        try:
            lengths = {split: [len(video.frames) for video in index_videos(find_split(data, name, split))]
                       for split in splits}
        except UserError as error:
            return str(error)
        return next(filter(None, (difference_from_published(name, *split) for split in lengths.items())), None)

    # Frames that prepare_data.py did not make are left alone.
    if problem() and name == "ped2" and ((data / name / "prepared.json").exists() or not (data / name).exists()):
        here = (data / "UCSD_Anomaly_Dataset.tar.gz").exists() or any(data.glob("**/UCSDped2/Train"))
        source = ["--source", data] if here else ["--download"]
        subprocess.run([sys.executable, ROOT / "scripts/prepare_data.py", name, *source, "--out", data], check=False)
    if wrong := problem():
        raise UserError(f"{wrong}; get UCSD_Anomaly_Dataset.tar.gz, and type: python scripts/prepare_data.py ped2 "
                        f"--source UCSD_Anomaly_Dataset.tar.gz --out {shlex.quote(str(data))}")


def result_of(run: Run, configuration: str, command: str) -> dict:
    """Return what is known of a run, for JSON; the AUC is None before its schedule is complete."""
    at, epochs, pieces = run.progress, run.config.train.epochs, run.pieces("train")
    # The curve has every epoch that was evaluated, whether or not its weights are still there.
    evaluated = {epoch: found[0] for epoch in range(1, epochs) if (found := run.results_of(run.epoch(epoch)))}
    evaluated |= {epochs: run.results} if run.results else {}
    curve = [{"epoch": epoch} | {key: one.get(key) for key in (*SIGNALS, "memory_updates")}
             for epoch, one in evaluated.items()]
    trained = at.epochs >= epochs
    status = "complete" if trained and run.stage == "done" else \
        f"evaluating, {len(curve)} of {len(curve) + len(run.to_evaluate)} epochs" if trained else \
        f"training, epoch {at.epochs + 1} of {epochs}"
    best = max(curve, key=lambda one: one["auc"] or 0) if status == "complete" else None
    final = run.results if trained else {}
    live = {row["epoch"]: row["live_items"] for row in run.log_rows() if row["step"] <= at.step}
    seconds = sum(piece["seconds"] for piece in pieces)
    return {
        "name": run.row,
        "status": status,
        "schedule_complete": trained,
        "epochs_done": at.epochs,
        "epochs": epochs,
        "system": run.system,
        "seed": run.seed,
        "configuration": configuration,
        "changed": run.changed,
        "published": run.published and round(run.published / 100, 6),
        **{key: final.get(key) for key in (SIGNALS[0], "interval", *SIGNALS[1:])},
        "oracle": best and best | {"warning": "epoch chosen on the test set: no result"},
        "curve": curve,
        "live_items": [live[epoch] for epoch in sorted(live) if epoch <= at.epochs],
        "command": command,
        "versions": at.provenance,
        "times": {"training_s": round(seconds, 3), "pieces": pieces,
                  "images_per_s": round(sum(piece["images"] for piece in pieces) / seconds, 3) if seconds else None},
        "config": asdict(run.config),
        "evaluation": {key: value for key, value in final.items() if key not in ("config", "checkpoint")} or None,
    }
