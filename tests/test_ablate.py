"""scripts/ablate.py: real runs of tiny networks, killed, resumed, repeated, failed."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch
import yaml
from helpers import ROOT, TINY, load_script, run, sentence, write_data_set

import train

ablate = load_script("scripts/ablate.py")
PLAN = """
title: Two rows
config: {config}
set: {{train.epochs: 2, train.max_steps: 4}}
rows:
  "LGN-Net": {{set: {{model.name: lgn_net}}, published: {{made: 60.0}}}}
  "Loc-Net, narrow": {{set: {{model.name: loc_net, model.hidden_width: 2}}}}
"""


@pytest.fixture
def base(tmp_path):
    """A plan of two rows on drawn videos, as arguments."""
    write_data_set(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "plan.yaml").write_text(PLAN.format(config=tmp_path / "tiny.yaml"))
    return "--plan", tmp_path / "plan.yaml", "--dataset_path", tmp_path / "data", "--exp_dir", tmp_path / "runs"


def results_of(tmp_path):
    """results.json of every run that has one, by row and seed."""
    return {path.parts[-4:-2]: json.loads(path.read_text())
            for path in sorted((tmp_path / "runs").glob("*/*/evaluation_last/results.json"))}


def test_killed_and_given_again(base, tmp_path):
    """Killed without warning in the middle, then done to the end; a third time nothing is left to do."""
    command = [sys.executable, ROOT / "scripts/ablate.py", *base, "--seeds", "0", "1", "--jobs", "2", "--device", "cpu"]
    killed = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "runs").glob("*/*/log.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert list((tmp_path / "runs").glob("*/*/log.jsonl")) and len(results_of(tmp_path)) < 4

    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done
    results = results_of(tmp_path)
    assert list(results) == [(row, seed) for row in ("lgn_net", "loc_net_narrow") for seed in ("seed_0", "seed_1")]
    assert [r["config"]["seed"] for r in results.values()] == [0, 1, 0, 1]
    assert results["loc_net_narrow", "seed_1"]["config"]["model"]["hidden_width"] == 2
    assert results["loc_net_narrow", "seed_0"]["signals"] == {"psnr": 1.0}
    for key, result in results.items():
        config = yaml.safe_load((tmp_path / "runs" / "/".join(key) / "config.yaml").read_text())
        assert config == result["config"] and config["train"]["max_steps"] == 4

    table = (tmp_path / "runs/plan.md").read_text()
    aucs = [100 * results["lgn_net", seed]["auc"] for seed in ("seed_0", "seed_1")]
    row = next(line for line in table.splitlines() if line.startswith("| LGN-Net"))
    assert f"{statistics.mean(aucs):.2f} ± {statistics.stdev(aucs):.2f}" in row and "2 of 2" in row
    assert row.rstrip(" |").endswith(f"{statistics.mean(aucs) - 60:+.1f}") and table.rstrip() in done.stdout
    with open(tmp_path / "runs/plan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["row"], r["seed"], float(r["auc"])) for r in rows} == {
        (name, seed, results[slug, f"seed_{seed}"]["auc"]) for name, slug in
        (("LGN-Net", "lgn_net"), ("Loc-Net, narrow", "loc_net_narrow")) for seed in "01"}

    assert all((tmp_path / "runs" / f"plan.{kind}").stat().st_size > 1000 for kind in ("png", "pdf"))

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/**/*") if path.is_file()}
    again = run(ablate.main, *base, "--seeds", 0, 1)
    assert again.status == 0 and "2 of 2" in again.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/**/*") if path.is_file()} == before
    said = sentence(run(ablate.main, *base, "--config", write(tmp_path / "other.yaml", TINY.replace("1e-3", "1e-4"))))
    assert all(word in said for word in ("train.lr", "0.001", "0.0001", "--exp_dir"))

    earlier = tmp_path / "runs/lgn_net/seed_0/evaluation_last/results.json"        # of a version without this knob
    del results["lgn_net", "seed_0"]["config"]["train"]["accumulate"]
    earlier.write_text(json.dumps(results["lgn_net", "seed_0"]))
    assert run(ablate.main, *base, "--seeds", 0, 1).status == 0
    other = write(tmp_path / "other.yaml", TINY.replace("batch_size: 2", "batch_size: 2, accumulate: 2"))
    said = sentence(run(ablate.main, *base, "--config", other))
    assert "train.accumulate is 1 there, 2 here" in said


def test_interrupted(base, tmp_path):
    """SIGTERM reaches the training, which saves its state; nothing goes on running."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(plan.read_text().replace("train.epochs: 2, train.max_steps: 4", "train.epochs: 10000"))
    command = [sys.executable, ROOT / "scripts/ablate.py", *base, "--seeds", "0", "--device", "cpu"]
    started = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "runs").glob("lgn_net/*/log.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    out, _ = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM and "give the same command again" in out
    assert (tmp_path / "runs/lgn_net/seed_0/last.pt").is_file()
    assert "--resume" in run(ablate.main, *base, "--seeds", 0, "--dry-run").out.splitlines()[0]


def test_a_checkpoint_brings_no_knobs_of_its_own(base, tmp_path):
    """A run that was begun with others goes on with the plan's; other knobs of `score` score it anew, no more."""
    folder, plan = tmp_path / "runs/lgn_net/seed_0", tmp_path / "plan.yaml"
    plan.write_text(f"title: x\nconfig: {tmp_path / 'tiny.yaml'}\nrows: {{LGN-Net: {{}}}}\n")
    begun = "--train.max_steps", 2, "--train.log_every", 2
    assert run(train.main, "--config", tmp_path / "tiny.yaml", "--dataset_path", tmp_path / "data", "--device", "cpu",
               "--exp_dir", folder, *begun).status == 0
    assert run(ablate.main, *base, "--seeds", 0, "--device", "cpu").status == 0
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["step"] == 3 * 5 and saved["config"]["train"]["max_steps"] is None               # 9 windows by 2
    assert saved["config"]["train"]["log_every"] == 1

    weights = (folder / "last.pt").stat().st_mtime_ns
    plan.write_text(plan.read_text().replace("{}", "{set: {score.psnr_weight: 0.25}}"))
    assert run(ablate.main, *base, "--seeds", 0, "--device", "cpu").status == 0
    results = results_of(tmp_path)["lgn_net", "seed_0"]
    assert results["config"]["score"]["psnr_weight"] == 0.25 and results["signals"]["psnr"] == 0.25
    assert (folder / "last.pt").stat().st_mtime_ns == weights

    plan.write_text(plan.read_text().replace("score.psnr_weight: 0.25", "train.max_steps: 2"))
    assert "train.max_steps is None there, 2 here" in sentence(run(ablate.main, *base, "--seeds", 0))


def test_two_commands_share_a_folder(base, tmp_path):
    """From another folder than the project's, by paths relative to it; the first epoch of one run was cut off."""
    torn = tmp_path / "runs/lgn_net/seed_0/epoch_001.pt"
    torn.parent.mkdir(parents=True)
    torn.write_text("no checkpoint")
    command = [sys.executable, ROOT / "scripts/ablate.py", "--plan", "plan.yaml", "--dataset_path", "data", "--exp_dir",
               "runs", "--seeds", "0", "1", "--device", "cpu"]
    both = [subprocess.Popen(list(map(str, command)), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True) for _ in range(2)]
    for one in both:
        out, _ = one.communicate(timeout=300)
        assert one.returncode == 0 and out.count("| 2 of 2 |") == 2, out
    assert len(results_of(tmp_path)) == 4
    for log in (tmp_path / "runs").glob("*/*.log"):
        assert log.read_text().count("\n$ ") == 2 and "evaluate.py" in log.read_text()       # trained and scored once


def test_three_memories_have_three_distances(tmp_path):
    """By hand: means over two seeds, a dash for what is not there."""
    results = [{"auc": auc, "auc_psnr": 0.5, "auc_distance_1": 0.25 + auc / 4, "auc_distance_2": 0.5,
                "auc_distance_3": None, "gap": 0.1, "psnr_normal": 30.0, "psnr_abnormal": 28.0} for auc in (0.5, 1.0)]
    runs = [ablate.Run("MSN-Net", k, tmp_path / str(k), [], None, stage="done", results=one)
            for k, one in enumerate(results)]
    (tmp_path / "0").mkdir()
    (tmp_path / "0/log.jsonl").write_text('{"step": 1, "live_items": 14}\n{"step": 2, "live_it')
    cells = [cell.strip() for cell in ablate.table("x", runs).splitlines()[-1].split("|")[1:-1]]
    assert cells == ["MSN-Net", "2 of 2", "75.00 ± 35.36", "50.00", "43.75 / 50.00 / -", "0.100", "14.0",
                     "30.00 / 28.00", "-", "-", "-"]


def test_a_row_that_fails_leaves_the_others(base, tmp_path):
    os.remove(tmp_path / "data/made/training/frames/00/003.png")
    (tmp_path / "data/made/training/frames/01/003.png").write_text("no picture")
    result = run(ablate.main, *base, "--seeds", 0, "--device", "cpu")
    assert result.status == 1 and "2 of 2 runs failed" in result.err
    assert "failed, see" in result.out and "003.png" in (tmp_path / "runs/lgn_net/seed_0.log").read_text()
    assert "| LGN-Net         | 0 of 1 |" in (tmp_path / "runs/plan.md").read_text()


def test_dry_run(base, tmp_path):
    result = run(ablate.main, *base, "--seeds", 3, "--dry-run")
    lines = result.out.splitlines()
    assert result.status == 0 and len(lines) == 4 and not (tmp_path / "runs").exists()
    assert lines[0].startswith("python ") and "train.py" in lines[0] and "evaluate.py" in lines[1]
    assert "--model.name loc_net" in lines[2]
    assert lines[2].index("--model.name") < lines[2].index("--model.hidden_width 2")
    assert "--seed 3" in lines[2]


def test_another_config_leaves_the_plans_own_settings_out(base, tmp_path):
    """They are made for its own; knobs behind -- are every row's, whatever the plan says."""
    lines = run(ablate.main, *base, "--seeds", 0, "--config", tmp_path / "tiny.yaml", "--dry-run").out.splitlines()
    assert not any("max_steps" in line for line in lines) and "--model.hidden_width 2" in lines[2]
    lines = run(ablate.main, *base, "--seeds", 0, "--dry-run", "--", "--model.hidden_width", 6).out.splitlines()
    assert all("--train.max_steps 4" in line and "--model.hidden_width 6" in line for line in lines[::2])
    assert lines[2].index("--model.hidden_width 2") < lines[2].index("--model.hidden_width 6")


def test_a_plan_is_read_like_a_config(base, tmp_path):
    """`off` is a word."""
    plan = write(tmp_path / "plan.yaml", f"title: x\nconfig: {tmp_path / 'tiny.yaml'}\n"
                                         f"rows: {{A: {{set: {{score.memory_update: off, train.lr: 2e-3}}}}}}")
    result = run(ablate.main, *base, "--plan", plan, "--seeds", 0, "--dry-run")
    assert result.status == 0 and "--score.memory_update off --train.lr 0.002" in result.out


@pytest.mark.parametrize("plan", sorted((ROOT / "plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_plans_that_ship(plan, tmp_path):
    """Every row is a configuration that stands, with the system's own hyper-parameters where the plan is silent."""
    argv = "--plan", plan, "--dataset_path", tmp_path, "--exp_dir", tmp_path / "runs", "--seeds", 0, "--dry-run"
    for extra in ((), ("--config", ROOT / "configs/avenue_small.yaml")):
        result = run(ablate.main, *argv, *extra)
        assert result.status == 0, result
        assert len(result.out.splitlines()) == 2 * len(yaml.safe_load(plan.read_text())["rows"])


@pytest.mark.parametrize("content, words", [
    ("title: x\nrows: {}", ["config"]), ("- 1", ["expected title"]), ("title: [", ["expected title"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {A: {set: {model.nam: x}}}", ["model.nam"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {A: {set: {model.name: xyz}}}", ["xyz", "lgn_st", "mnad_pred"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {A b: {}, a-B: {}}", ["'A b'", "'a-B'", "a_b"]),
    ("title: x\nconfig: configs/nowhere.yaml\nrows: {A: {}}", ["nowhere.yaml"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {A: {sett: {train.lr: 1}}}", ["unknown sett", "row A"]),
    ("title: x\nconfig: configs/toy.yaml\nsets: {}\nrows: {A: {}}", ["unknown sets"]),
    ("title: x\nconfig: configs/toy.yaml\nset: [a]\nrows: {A: {}}", ["set is ['a']"]),
    ("title: x\nconfig: configs/toy.yaml\nset: {seed: 7}\nrows: {10: {}}", ["--seeds"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {A: {published: 97.1}}", ["published is 97.1"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {A: {published: {ped2: high}}}", ["high"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {}", ["no rows"]),
    ("title: x\nconfig: configs/toy.yaml\nrows: {'--': {}}", ["needs a name"]),
    ("title: x\nconfig: configs/toy.yaml\nrows:\n  A: {}\n  A: {}", ["A stands here twice", "line 5"]),
])
def test_bad_plan(tmp_path, content, words):
    path = write(tmp_path / "plan.yaml", content)
    said = sentence(run(ablate.main, "--plan", path, "--dataset_path", tmp_path, "--exp_dir", tmp_path / "runs"))
    assert all(word in said for word in words), said
    assert not (tmp_path / "runs").exists()


def write(path, content):
    path.write_text(content)
    return path
