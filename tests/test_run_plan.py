"""scripts/run_plan.py: tiny runs, whole, stopped, killed, failed, shared, and taken over from earlier versions."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from helpers import ROOT, load_script, run, sentence, write_data_set

import train
from lgn_net.report.tables import latex, markdown, plan_tables

run_plan = load_script("scripts/run_plan.py")
PLAN = """
title: Two rows
question: Is it so?
config: {config}
set: {{train.epochs: 2}}
rows:
  "LGN-Net": {{set: {{model.name: lgn_net}}}}
  "Loc-Net, narrow": {{set: {{model.name: loc_net, model.hidden_width: 2}}}}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A plan of two rows in a folder with drawn videos and a tiny configuration, as arguments."""
    made = tmp_path_factory.mktemp("made")
    write_data_set(made)
    (made / "plan.yaml").write_text(PLAN.format(config=made / "tiny.yaml"))
    return "--dataset_path", made, "--plan", made / "plan.yaml", "--device", "cpu"


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A finished plan: its arguments, its folder, and how its command ended."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    argv = *base, "--exp_dir", runs, "--seeds", 1, "--jobs", 2
    stopped = run(run_plan.main, *argv, "--minutes", 0.001)
    assert stopped.status == 75 and "2 of 2 runs are not complete; give the same command again" in stopped.out
    return argv, runs, run(run_plan.main, *argv)


def aucs_of(runs):
    """The AUC of every run that has one, by row and seed."""
    return {path.parts[-4:-2]: json.loads(path.read_text())["auc"]
            for path in sorted(runs.glob("*/*/evaluation_last/results.json"))}


def test_a_plan(whole):
    """Tables, list, pictures hold the results. Given again, nothing is left to do; other knobs want other folders."""
    argv, runs, done = whole
    assert done.status == 0, done
    aucs = aucs_of(runs)
    assert [*aucs] == [("lgn_net", "seed_1"), ("loc_net_narrow", "seed_1")]
    rows = list(csv.DictReader((runs / "plan.csv").read_text().splitlines()))
    assert [(one["row"], one["seed"], float(one["auc"])) for one in rows] == [
        (name, "1", auc) for name, auc in zip(("LGN-Net", "Loc-Net, narrow"), aucs.values())]
    assert all(float(one["train_s"]) > 0 and float(one["evaluate_s"]) > 0 for one in rows)
    table, tex = ((runs / f"plan.{kind}").read_text() for kind in ("md", "tex"))
    assert table.startswith("# Two rows\n\nIs it so?\n\ndata set made; pixels a side 16; channels 1; epochs 2; proto")
    assert tex.count(r"\begin{tabular}{l" + 14 * "r") == 1 and "all rows: train.epochs 2" in tex
    assert table in done.out and all(f"seed 1: AUC {100 * auc:.2f} %" in done.out for auc in aucs.values())
    assert all((runs / f"plan.{kind}").stat().st_size > 1000 for kind in ("png", "pdf"))

    (runs / "loc_net_narrow/seed_1/last.pt").unlink()                                # weights may be removed
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/**/*.*") if path.is_file()}
    assert run(run_plan.main, *argv).status == 0
    assert before == {path: path.stat().st_mtime_ns for path in runs.glob("*/**/*.*") if path.is_file()}
    said = sentence(run(run_plan.main, *argv, "--rows", "LGN-Net", "--", "--model.read_grad", "true"))
    assert "model.read_grad is False there, True here" in said and "--exp_dir" in said


@pytest.mark.slow
def test_killed_and_stopped(base, whole, tmp_path):
    """A training whose command was killed is left alone; SIGTERM saves; the numbers are the same."""
    base = *base, "--seeds", 1, "--rows", "LGN-Net", "--exp_dir", tmp_path / "runs"

    def start(sent, *more):
        """Start the command, send it a signal once something is logged, and return its output."""
        command = map(str, (sys.executable, ROOT / "scripts/run_plan.py", *base, *more))
        with subprocess.Popen([*command], stdout=subprocess.PIPE, text=True) as process:
            while not list((tmp_path / "runs").glob("*/*/log.jsonl")):
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(sent)
            out = process.stdout.read()
        assert process.returncode == (128 + sent if sent == signal.SIGTERM else -sent)
        return out

    endless = "--", "--train.epochs", 10000
    assert "give the same command again" in start(signal.SIGTERM, *endless)
    assert "--resume" in run(run_plan.main, *base, "--dry-run", *endless).out
    shutil.rmtree(tmp_path / "runs")
    start(signal.SIGKILL)
    while (again := run(run_plan.main, *base)).status == 75:
        assert "another command works on it" in again.out
    assert again.status == 0 and aucs_of(tmp_path / "runs").items() < aucs_of(whole[1]).items()
    assert "another process is training" not in (tmp_path / "runs/lgn_net/seed_1.log").read_text()


@pytest.mark.slow
def test_taken_over_and_failed(base, tmp_path):
    """Begun with other knobs, a run goes on with the plan's; a failing row leaves the others."""
    made, folder, narrow = base[1], tmp_path / "runs/lgn_net/seed_0", tmp_path / "runs/loc_net_narrow/seed_0"
    begun = "--exp_dir", folder, "--train.epochs", 2, "--train.max_steps", 2, "--train.log_every", 2
    assert run(train.main, "--config", made / "tiny.yaml", "--dataset_path", made, *begun).status == 0
    plan = tmp_path / "plan.yaml"
    plan.write_text((made / "plan.yaml").read_text().replace("width: 2", "width: 2, data.label_source: ano_pred"))
    base = *base, "--plan", plan, "--exp_dir", tmp_path / "runs", "--seeds", 0
    result = run(run_plan.main, *base)
    assert result.status == 1 and re.search("Loc-Net, narrow, seed 0: failed, see .*: error: ", result.out), result
    assert re.search(r"\| LGN-Net +\| 1 of 1 \|", (tmp_path / "runs/plan.md").read_text())
    for one in (folder, narrow):
        saved = torch.load(one / "last.pt", weights_only=True)
        assert saved["step"] == 2 * 5 and saved["config"]["train"]["max_steps"] is None
        assert saved["config"]["train"]["log_every"] == 1

    # Another lambda only asks for a new evaluation; fewer steps than there are cannot be had.
    before, again = (folder / "last.pt").stat().st_mtime_ns, (*base, "--rows", "LGN-Net", "--")
    assert run(run_plan.main, *again, "--score.psnr_weight", 0.25).status == 0
    assert json.loads((folder / "evaluation_last/results.json").read_text())["signals"]["psnr"] == 0.25
    assert run(run_plan.main, *again, "--train.max_steps", 2).status == 1
    assert (folder / "last.pt").stat().st_mtime_ns == before


@pytest.mark.slow
def test_splits_at_different_times(base, tmp_path):
    """Training without the testing split, evaluation without the training split; a fitted run keeps its epochs."""
    for split in ("training", "testing"):
        shutil.copytree(base[1] / "made" / split, tmp_path / split / "made" / split)
    shutil.copy(base[1] / "made/labels.csv", tmp_path / "testing/made")
    # 60 epochs of 5 steps: after the 50 measured ones the time is over, so that train.py chooses the 10 it has done.
    argv = *base, "--rows", "LGN-Net", "--exp_dir", tmp_path / "runs", "--seeds", 0, "--fit", 0.001, "--every", 5
    more = "--", "--train.epochs", 60
    assert "no training frames" in run(run_plan.main, *argv, "--dataset_path", tmp_path / "testing", *more).out
    assert run(run_plan.main, *argv, "--dataset_path", tmp_path / "training", "--train-only", *more).status == 0
    assert not aucs_of(tmp_path / "runs")
    done = run(run_plan.main, *argv, "--dataset_path", tmp_path / "testing", "--evaluate-only", *more)
    assert done.status == 0 and "epochs 10;" in (tmp_path / "runs/plan.md").read_text()
    folder = tmp_path / "runs/lgn_net/seed_0"
    assert {path.name for path in folder.glob("evaluation_*")} == {"evaluation_last", "evaluation_epoch_005"}
    assert json.loads((folder / "evaluation_epoch_005/results.json").read_text())["grid"] == []
    assert (folder / "auc_over_epochs.png").is_file()


def test_tables_by_hand():
    """Student's t for two and three seeds, paired differences over common seeds, three memories, dashes for nothing."""
    def one(row, seed, published, auc=None, live=None, seconds=None, memories=(), **more):
        signals = {"psnr": 1.0, **{f"distance{name}": 0.0 for name in memories}}
        results = {"auc": auc, "gap": 0.1, "gap_psnr": 0.2, "psnr_normal": 30.0, "psnr_abnormal": 28.0, "auc_copy": 0.9,
                   "auc_linear": 0.8, "auc_skill": 0.4, "signals": signals, "dataset": f"d_{seed % 2}"} | more
        return {"row": row, "seed": seed, "published_auc": published, "live_items": live, "train_s": seconds,
                **(results if auc else {})}

    three = {"memories": ("_1", "_2", "_3"), "auc_distance_2": 0.5, "auc_distance_3": None, "auc_psnr": 0.5}
    runs = [*(one("MSN-Net", k, 80.0, auc, 14, 60.0, auc_distance_1=0.25 + auc / 4, **three)
              for k, auc in enumerate((0.5, 1.0))), one("MSN-Net", 2, 80.0),
            *(one("other", k, None, auc) for k, auc in ((1, 0.8), (2, 0.7), (0, 0.6)))]
    (caption, _, (first, second)), (_, _, (gap,)) = plan_tables(runs, "all rows: --x 1")
    # 50 and 100: sd 35.36, half of the interval 12.706 * 35.36 / sqrt(2) = 317.7. 60, 70, 80: 4.303 * 10 / sqrt(3).
    assert first == ["MSN-Net", "2 of 3", "75.00", "35.36", "0.0 to 100.0", "50.00", "43.75 / 50.00 / -",
                     "90.00 / 80.00 / 40.00", "0.100", "0.200", "14.0", "30.00 / 28.00", "1.0", "80.0", "-5.0"]
    assert second == ["other", "3 of 3", "70.00", "10.00", "45.2 to 94.8", "70.00", "-", "90.00 / 80.00 / 40.00",
                      "0.100", "0.200", "-", "30.00 / 28.00", "-", "-", "-"]
    # Seeds 0 and 1 are common: +10 and -20, half of the interval is 12.706 * 21.21 / sqrt(2) = 190.6; p of t = -1/3
    # with one degree of freedom is 1 - 2 atan(1/3) / pi. Without a memory the AUC is that of the PSNR: +10 and +30.
    assert gap == ["other", "2", "-5.00", "-195.6 to +185.6", "0.795", "2", "+20.00", "-107.1 to +147.1", "0.295",
                   "0", "-", "-", "-"]
    assert caption == "data set d_0 or d_1; all rows: --x 1"
    assert markdown(["row", "n"], [["a", "10"]], left=1) == "| row |  n |\n| --- | -: |\n| a   | 10 |"
    assert r"\caption{50\% of a\_b}" in latex(["a", "b"], [["c & d", "1"]], "50% of a_b", "x")
    assert "\nc \\& d & 1 \\\\\n\\bottomrule" in latex(["a", "b"], [["c & d", "1"]], "", "x")


def test_dry_run(base, tmp_path):
    """One line for each run, with knobs in the order plan, row, command line."""
    def lines(*argv):
        result = run(run_plan.main, *base, "--exp_dir", tmp_path / "runs", "--seeds", 3, "--dry-run", *argv)
        assert result.status == 0 and not (tmp_path / "runs").exists(), result
        return result.out.splitlines()

    one, two = lines("--", "--model.hidden_width", 6)
    assert re.fullmatch(r"python \S*/train.py .*_epochs last .*_width 6 --seed 3 .* && python \S*/evaluate.py .*", one)
    order = ("--model.name loc_net", "--train.epochs 2", "--model.hidden_width 2", "--model.hidden_width 6")
    assert [two.index(word) for word in order] == sorted(two.index(word) for word in order)
    one, two = lines("--config", base[1] / "tiny.yaml")                       # the plan's `set` is for its own `config`
    assert "train.epochs" not in one and "--model.hidden_width 2" in two
    one, = lines("--rows", "LGN-Net", "--every", 2, "--minutes", 60, "--fit", 9, "--train-only")
    assert "&&" not in one and all(words in one for words in ("keep_epochs 2", "minutes 59.", "fit_minutes 9"))
    one, two = lines("--fast", "--evaluate-only")
    assert "evaluate.py" in one and "train.py" not in one + two


def test_plans_that_ship():
    """Every row is a configuration that stands; one that chooses nothing but the system has what is published of it."""
    published = {}
    for plan in (ROOT / "plans").glob("*.yaml"):
        argv = "--plan", plan, "--dataset_path", "data", "--exp_dir", "runs", "--seeds", 0
        runs = run_plan.read_plan([*map(str, argv)])[2]
        assert [one.row for one in runs] == [*yaml.safe_load(plan.read_text())["rows"]]
        assert len({one.folder for one in runs}) == len(runs)
        published[plan.stem] = [one.published for one in runs]
    assert published["five_rows"] == [97.1, None, None, 97.0, None] and published["table1"] == [90.2, 97.0, None, 97.1]


def test_bad_plan(tmp_path):
    argv = "--plan", tmp_path / "plan.yaml", "--dataset_path", tmp_path, "--exp_dir", tmp_path / "runs", "--rows", "A"
    for content, word in [
            ("rows: {A: }", "config"), ("rows: [", "expected title"),
            ("config: configs/toy.yaml\nrows: {B: {set: {}}}", "'A'"),
            ("config: configs/toy.yaml\nrows: {A: {set: {model.name: xyz}}}", "mnad_pred"),
            ("config: configs/toy.yaml\nrows: {A: {sett: {train.lr: 1}}}", "'set'")]:
        (tmp_path / "plan.yaml").write_text(f"title: x\n{content}")
        assert word in sentence(run(run_plan.main, *argv))
