"""scripts/run_plan.py: tiny runs, whole, stopped, killed, failed, shared, and taken over from earlier versions."""

import csv
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import ROOT, TINY, load_script, run, sentence, write_data_set
from test_prepare import ped2_files

import evaluate
import train
from lgn_net.report.plan import plan_tables
from lgn_net.report.tables import latex, markdown
from lgn_net.terminal import run_command
from lgn_net.training import plan_run

run_plan = load_script("scripts/run_plan.py")
# What scripts/reproduce_ped2.sh puts before its user's options.
SHIPPED = ("--plan", ROOT / "plans/reproduce_ped2.yaml", *(ROOT / "scripts/reproduce_ped2.sh").read_text().split(
    "\"$@\"")[0].split("reproduce_ped2.yaml\"")[1].replace("\\", "").split())
EPOCHS = 4                         # of the published run's stand-in; 5 steps each: 9 windows in batches of 2
PLAN = """
title: Two rows
question: Is it so?
config: {config}
set: {{train.epochs: 2, train.max_steps: 4}}
rows:
  "LGN-Net": {{set: {{model.name: lgn_net}}, published: {{made: 60.0}}}}
  "Loc-Net, narrow": {{set: {{model.name: loc_net, model.hidden_width: 2}}}}
"""


SERVER = multiprocessing.get_context("forkserver")     # a process without threads, whose forks cannot find locks held
SERVER.set_forkserver_preload(["train", "evaluate"])


def work(command, log):
    """Run train.py or evaluate.py in a fork, with its output in the log."""
    sys.argv = command
    os.setsid()
    with open(log, "a") as file:
        sys.stdout = sys.stderr = file
        run_command(train.main if command[0].endswith("train.py") else evaluate.main)


class Forked(SERVER.Process):
    """Popen of train.py or evaluate.py, without the imports."""

    def __init__(self, command, stdout, **_):
        super().__init__(target=work, args=(command[1:], stdout.name))
        self.start()

    def poll(self):
        return self.exitcode

    returncode, wait = property(poll), multiprocessing.Process.join


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No waiting between looks, and no imports for a command."""
    patch = pytest.MonkeyPatch()
    patch.setattr(run_plan, "POLL", 0.01)
    patch.setattr(plan_run, "subprocess", SimpleNamespace(Popen=Forked, STDOUT=subprocess.STDOUT))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Drawn videos and tiny configurations."""
    folder = tmp_path_factory.mktemp("made")
    write_data_set(folder)
    for name, epochs in (("tiny", 3), ("six", EPOCHS), ("long", 60)):
        (folder / f"{name}.yaml").write_text(TINY.replace("epochs: 3", f"epochs: {epochs}"))
    return folder


@pytest.fixture
def base(made, tmp_path):
    """A plan of two rows, as arguments."""
    (tmp_path / "plan.yaml").write_text(PLAN.format(config=made / "tiny.yaml"))
    return "--plan", tmp_path / "plan.yaml", "--dataset_path", made, "--exp_dir", tmp_path / "runs", "--device", "cpu"


@pytest.fixture(scope="module")
def published(made):
    """The arguments of scripts/reproduce_ped2.sh, for a trial."""
    return *SHIPPED, "--config", made / "six.yaml", "--dataset_path", made, "--device", "cpu", "--every", 3


@pytest.fixture(scope="module")
def whole(published, tmp_path_factory):
    """The folder of a published run, stopped at once by its time and given again."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(run_plan.main, *published, *places(folder), "--minutes", 0.001).status == 75
    unfinished = result_of(folder)
    assert unfinished["status"] == f"training, epoch 1 of {EPOCHS}" and unfinished["oracle"] is None
    assert run(run_plan.main, *published, *places(folder)).status == 0
    return folder


def places(folder):
    return "--exp_dir", folder / "run", "--results", folder / "results"


def result_of(folder):
    """The one result of a published run."""
    path, = (folder / "results").iterdir()
    return json.loads(path.read_text())


def results_of(tmp_path):
    """The results.json of every run that has one, by row and seed."""
    return {path.parts[-4:-2]: json.loads(path.read_text())
            for path in sorted((tmp_path / "runs").glob("*/*/evaluation_last/results.json"))}


def times(folder):
    """When every file of the runs was written, but for pictures."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")
            if path.is_file() and not path.name.startswith(("auc_over", "plan."))}


# ------------------------------------------------------------------------------------------------------------- a plan

@pytest.mark.slow
def test_a_plan_and_given_again(base, tmp_path):
    done = run(run_plan.main, *base, "--seeds", 0, 1, "--jobs", 2)
    assert done.status == 0, done
    results = results_of(tmp_path)
    assert [(*key, r["config"]["seed"], r["config"]["model"]["hidden_width"]) for key, r in results.items()] == [
        ("lgn_net", "seed_0", 0, 4), ("lgn_net", "seed_1", 1, 4), ("loc_net_narrow", "seed_0", 0, 2),
        ("loc_net_narrow", "seed_1", 1, 2)]
    rows = list(csv.DictReader((tmp_path / "runs/plan.csv").read_text().splitlines()))
    assert [(r["row"], r["seed"], float(r["auc"])) for r in rows] == [
        (name, seed, results[slug, f"seed_{seed}"]["auc"]) for seed in "01" for name, slug in
        (("LGN-Net", "lgn_net"), ("Loc-Net, narrow", "loc_net_narrow"))]
    assert all(float(r["train_s"]) > 0 and float(r["evaluate_s"]) > 0 for r in rows)
    table, tex = ((tmp_path / f"runs/plan.{kind}").read_text() for kind in ("md", "tex"))
    assert table.startswith("# Two rows\n\nIs it so?\n\ndata set made; pixels a side 16; channels 1; epochs 2; proto")
    assert tex.count(r"\begin{tabular}{l" + 14 * "r") == 1 and r"max\_steps 4" in tex
    printed = [line.split() for line in done.out.splitlines()]
    assert all(line.split() in printed for line in table.splitlines() if "---" not in line)
    assert printed.count(["#", "Two", "rows"]) <= 2 and done.out.count("| LGN-Net ") <= 5   # changes, then all
    assert all((tmp_path / f"runs/plan.{kind}").stat().st_size > 1000 for kind in ("png", "pdf"))

    # Given again, with weights that were removed; then with another lambda, which only asks for a new evaluation.
    (tmp_path / "runs/loc_net_narrow/seed_1/last.pt").unlink()
    before = times(tmp_path / "runs")
    assert run(run_plan.main, *base, "--seeds", 0, 1).status == 0 and times(tmp_path / "runs") == before
    argv = *base, "--seeds", 0, "--rows", "LGN-Net", "--"
    assert run(run_plan.main, *argv, "--score.psnr_weight", 0.25).status == 0
    assert results_of(tmp_path)["lgn_net", "seed_0"]["signals"]["psnr"] == 0.25
    weights = tmp_path / "runs/lgn_net/seed_0/last.pt"
    assert weights.stat().st_mtime_ns == before[weights]
    assert run(run_plan.main, *argv, "--train.max_steps", 2).status == 1                     # it has more steps already
    assert "train.lr" in sentence(run(run_plan.main, *argv, "--train.lr", 1))


@pytest.mark.slow
def test_killed_and_stopped(base, tmp_path):
    """A training whose command was killed is left alone; SIGTERM saves; the numbers are the same."""
    base = *base, "--seeds", 0, "--rows", "LGN-Net"
    assert run(run_plan.main, *base, "--exp_dir", tmp_path / "whole/runs").status == 0

    def start(sent, *more):
        """Start the command, send it a signal once something is logged, and return status and output."""
        command = map(str, (sys.executable, ROOT / "scripts/run_plan.py", *base, *more))
        process = subprocess.Popen([*command], stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not list((tmp_path / "runs").glob("*/*/log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(sent)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out

    endless = "--", "--train.max_steps", "null", "--train.epochs", 10000
    status, out = start(signal.SIGTERM, *endless)
    assert status == 128 + signal.SIGTERM and "give the same command again" in out
    assert "--resume" in run(run_plan.main, *base, "--dry-run", *endless).out.splitlines()[0]
    shutil.rmtree(tmp_path / "runs")
    assert start(signal.SIGKILL)[0] == -signal.SIGKILL
    while (again := run(run_plan.main, *base)).status == 75:
        assert "another command works on it" in again.out
    assert again.status == 0
    assert [one["auc"] for one in results_of(tmp_path).values()] == [
        one["auc"] for one in results_of(tmp_path / "whole").values()]
    assert "another process is training" not in (tmp_path / "runs/lgn_net/seed_0.log").read_text()


@pytest.mark.slow
def test_taken_over_and_failed(base, made, tmp_path):
    """A run begun with other knobs goes on with the plan's; a torn file goes; a row that fails leaves the others."""
    folder, torn = tmp_path / "runs/lgn_net/seed_0", tmp_path / "runs/loc_net_narrow/seed_0/epoch_001.pt"
    begun = "--train.max_steps", 2, "--train.log_every", 2
    begun = "train.py", "--config", made / "tiny.yaml", "--dataset_path", made, "--exp_dir", folder, *begun
    with open(tmp_path / "begun.log", "w") as log:
        Forked(["python", *map(str, begun)], log).wait()
    torn.parent.mkdir(parents=True)
    torn.write_text("no checkpoint")
    plan = tmp_path / "plan.yaml"
    plan.write_text(plan.read_text().replace("hidden_width: 2", "hidden_width: 2, data.label_source: ano_pred"))
    knobs = "--train.epochs", 3, "--train.max_steps", "null"
    result = run(run_plan.main, *base, "--seeds", 0, "--", *knobs)
    assert result.status == 1 and "1 of 2 runs failed" in result.err
    assert "failed, see" in result.out and "error: " in result.out
    assert re.search(r"\| LGN-Net +\| 1 of 1 \|", (tmp_path / "runs/plan.md").read_text())
    for one in (folder, torn.parent):
        saved = torch.load(one / "last.pt", weights_only=True)
        assert saved["step"] == 3 * 5 and saved["config"]["train"]["max_steps"] is None
        assert saved["config"]["train"]["log_every"] == 1


def test_tables_by_hand():
    """Student's t for two and three seeds, paired differences over common seeds, three memories, dashes for nothing."""
    def one(row, seed, published, auc=None, live=(), seconds=None, memories=(), **more):
        signals = {"psnr": 1.0, **{f"distance{name}": 0.0 for name in memories}}
        results = {"auc": auc, "gap": 0.1, "gap_psnr": 0.2, "psnr_normal": 30.0, "psnr_abnormal": 28.0, "auc_copy": 0.9,
                   "auc_linear": 0.8, "auc_skill": 0.4, "signals": signals, "dataset": f"d_{seed % 2}"} | more
        return {"row": row, "seed": seed, "published_auc": published, "results": results if auc else {},
                "live_items": live, "train_s": seconds, "evaluate_s": seconds}

    three = {"memories": ("_1", "_2", "_3"), "auc_distance_2": 0.5, "auc_distance_3": None, "auc_psnr": 0.5}
    runs = [*(one("MSN-Net", k, 80.0, auc, [3, 14], 60.0, auc_distance_1=0.25 + auc / 4, **three)
              for k, auc in enumerate((0.5, 1.0))), one("MSN-Net", 2, 80.0),
            *(one("other", k, None, auc) for k, auc in ((1, 0.8), (2, 0.7), (0, 0.6)))]
    (caption, header, (first, second)), (_, _, (gap,)) = plan_tables(runs, "all rows: --x 1")
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

    # On the page of a terminal, and for LaTeX.
    wide = markdown(header, [first], width=80).split("\n\n")
    assert len(wide) > 2 and all(len(line) <= 80 for table in wide for line in table.splitlines())
    assert [cell.strip() for table in wide for cell in table.splitlines()[2].split("|")[2:-1]] == first[1:]
    assert r"\caption{50\% of a\_b}" in latex(["a", "b"], [["c & d", "1"]], "50% of a_b", "x")
    assert "\nc \\& d & 1 \\\\\n\\bottomrule" in latex(["a", "b"], [["c & d", "1"]], "", "x")


def test_dry_run(base, made, tmp_path):
    """One line for each run, with knobs in the order plan, row, command line."""
    def lines(*argv):
        result = run(run_plan.main, *base, "--seeds", 3, "--dry-run", *argv)
        assert result.status == 0 and not (tmp_path / "runs").exists(), result
        return result.out.splitlines()

    one, two = lines("--", "--model.hidden_width", 6)
    assert re.fullmatch(r"python \S*/train.py .* --model.hidden_width 6 --seed 3 .* && python \S*/evaluate.py .*", one)
    order = ("--model.name loc_net", "--train.max_steps 4", "--model.hidden_width 2", "--model.hidden_width 6")
    assert [two.index(word) for word in order] == sorted(two.index(word) for word in order)
    one, two = lines("--config", made / "tiny.yaml")                       # the plan's `set` is for its own `config`
    assert "max_steps" not in one and "--model.hidden_width 2" in two
    one, = lines("--rows", "LGN-Net", "--every", 2, "--minutes", 60, "--fit", 9, "--train-only")
    assert "--train.keep_epochs 2 --train.minutes 59." in one and "--train.fit_minutes 9" in one and "&&" not in one
    one, two = lines("--fast", "--evaluate-only")
    assert "evaluate.py" in one and "train.py" not in one + two


def test_plans_that_ship(tmp_path):
    """Every row is a configuration that stands; one that chooses nothing but the system has what is published of it."""
    published = {}
    for plan in (ROOT / "plans").glob("*.yaml"):
        argv = "--plan", plan, "--dataset_path", tmp_path, "--exp_dir", tmp_path / "runs", "--seeds", 0, "--dry-run"
        result = run(run_plan.main, *argv)
        assert len(result.out.splitlines()) == len(yaml.safe_load(plan.read_text())["rows"]), result
        runs = run_plan.read_plan(run_plan.parse_arguments([*map(str, argv)]))[1]
        published[plan.stem] = [one.published for one in runs]
    assert published["five_rows"] == [97.1, None, None, 97.0, None] and published["table1"] == [90.2, 97.0, None, 97.1]


@pytest.mark.parametrize("content, word", [
    ("rows: {A: }", "config"), ("rows: [", "expected title"), ("config: configs/toy.yaml\nrows: {B: }", "'A'"),
    ("config: configs/toy.yaml\nrows: {A: {set: {model.name: xyz}}}", "mnad_pred"),
    ("config: configs/toy.yaml\nrows: {A: {}, A.: {}}", "'A.'"),
    ("config: configs/toy.yaml\nrows: {A: {sett: {train.lr: 1}}}", "sett")])
def test_bad_plan(tmp_path, content, word):
    (tmp_path / "plan.yaml").write_text(f"title: x\n{content}")
    argv = "--plan", tmp_path / "plan.yaml", "--dataset_path", tmp_path, "--exp_dir", tmp_path / "runs"
    assert word in sentence(run(run_plan.main, *argv, "--rows", "A", *["A."] * ("A." in content)))


# ---------------------------------------------------------------------------------------------- the published Ped2 run

def test_in_one_go(published, whole):
    """The result's file; given again, nothing is left to do; other knobs want another folder."""
    result = result_of(whole)
    assert result["name"] == "six_lgn_seed0"
    last = json.loads((whole / "run/evaluation_last/results.json").read_text())
    assert (result["status"], result["epochs_done"], result["config"]) == ("complete", EPOCHS, last["config"])
    for key in ("auc", "interval", "auc_psnr", "auc_distance"):
        assert result[key] == last[key] == result["evaluation"][key] and result[key] is not None
    assert [row["epoch"] for row in result["curve"]] == [3, EPOCHS] and result["curve"][1]["auc"] == last["auc"]
    assert result["oracle"]["auc"] == max(row["auc"] for row in result["curve"])
    rows = [json.loads(line) for line in (whole / "run/log.jsonl").read_text().splitlines()]
    assert result["live_items"] == [row["live_items"] for row in rows[4::5]]
    assert result["times"]["images_per_s"] == pytest.approx(9 * EPOCHS / result["times"]["training_s"], rel=1e-3)
    assert result["versions"]["device"].startswith("cpu") and (whole / "run/auc_over_epochs.png").is_file()
    assert {path.name for path in (whole / "run").glob("epoch_*.pt")} == {"epoch_003.pt", "epoch_004.pt"}

    before = times(whole / "run")
    assert run(run_plan.main, *published, *places(whole), "--minutes", 1).status == 0
    assert times(whole / "run") == before
    said = sentence(run(run_plan.main, *published, *places(whole), "--", "--model.read_grad", "true"))
    assert "model.read_grad is False there, True here" in said and "--exp_dir" in said


def test_gammas_by_quantiles_of_the_regular_score(made, whole, tmp_path):
    """Of training frames, beside 0 and the configuration's: from no update to some, the more the higher gamma is."""
    argv = "gamma", "--checkpoint", whole / "run/last.pt", "--dataset_path", made, "--device", "cpu", "--out", tmp_path
    done = run(load_script("scripts/sweep.py").main, *argv)
    assert "quantiles of the regular score of 9 training frames" in done.out, done
    rows = list(csv.DictReader((tmp_path / "sweep_gamma.csv").read_text().splitlines()))
    gammas, updates = ([float(row[key]) for row in rows] for key in ("gamma", "memory_updates"))
    assert len(gammas) == 10 and gammas == sorted(gammas) and gammas[0] == 0 and 0.009 in gammas
    assert updates == sorted(updates) and updates[0] == 0 < updates[-1] <= float(rows[0]["frames"]) == 10


@pytest.mark.slow
def test_splits_at_different_times(published, made, tmp_path):
    """Training without the testing split, evaluation without the training split; a fitted run keeps its epochs."""
    for split in ("training", "testing"):
        shutil.copytree(made / "made" / split, tmp_path / split / "made" / split)
    shutil.copy(made / "made/labels.csv", tmp_path / "testing/made")
    # 60 epochs of 5 steps: after the 50 measured ones the time is over, so that train.py chooses the 10 it has done.
    argv = *SHIPPED, "--config", made / "long.yaml", "--device", "cpu", *places(tmp_path), "--fit", 0.001
    argv_of = {split: (*argv, "--every", 5, "--dataset_path", tmp_path / split) for split in ("training", "testing")}
    assert "no training frames" in sentence(run(run_plan.main, *argv_of["testing"]))
    assert run(run_plan.main, *argv_of["training"], "--train-only").status == 0
    assert result_of(tmp_path)["status"] == "evaluating"
    assert run(run_plan.main, *argv_of["testing"]).status == 0
    result = result_of(tmp_path)
    assert result["name"] == "long_lgn_fit_0.001_seed0" and result["status"] == "complete"
    assert [row["epoch"] for row in result["curve"]] == [5, 10] and result["auc"] is not None
    assert result["epochs_done"] == result["config"]["train"]["epochs"] == 10


@pytest.mark.slow
def test_ped2_as_published_is_prepared(published, tmp_path):
    """The unpacked archive below the data's path; a part of the data set is refused, since it reproduces nothing."""
    for name, content in ped2_files().items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    argv = *published, "--dataset_path", tmp_path / "data", *places(tmp_path)
    said = sentence(run(run_plan.main, *argv, "--", "--data.dataset", "ped2"))
    assert "2 videos with 15 frames here, 16 videos with 2550 frames" in said
    assert (tmp_path / "data/ped2/prepared.json").is_file() and not (tmp_path / "run").exists()


def test_names_of_published_runs():
    """Every command of docs/results.md has a place of its own, and a row of the plan is the same run as its knobs."""
    commands = re.findall(r"`scripts/reproduce_ped2\.sh (--seed.*?)`", (ROOT / "docs/results.md").read_text())
    commands = [*dict.fromkeys(commands), "--rows 'LGN-Net read_grad'", "--fast", "--fit 9"]
    runs = [run_plan.read_plan(run_plan.parse_arguments([*map(str, SHIPPED), *shlex.split(command)]))[1]
            for command in commands]
    names = [one.row for one, in runs]
    assert len(set(names)) == len(names) - 1 >= 6 and all(one.folder == Path("runs") / one.row for one, in runs)
    assert names[-3:] == ["ped2_lgn_read_grad_seed0", "ped2_lgn_fast_seed0", "ped2_lgn_fit_9_seed0"]
    assert {"ped2_lgn_seed0", "ped2_mnad_pred_bn_init_uniform_seed0"} <= set(names)
