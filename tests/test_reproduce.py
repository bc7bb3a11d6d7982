"""scripts/reproduce_ped2.sh: real runs of a tiny network, whole and in pieces, stopped and killed anywhere."""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, TINY, load_script, run, sentence, tensors, write_data_set
from test_prepare import ped2_files

from lgn_net.preparation import archives

reproduce = load_script("scripts/reproduce.py")
EPOCHS, STEPS = 6, 30              # 9 windows in batches of 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Drawn videos and a tiny configuration, as arguments."""
    folder = tmp_path_factory.mktemp("made")
    write_data_set(folder)
    (folder / "tiny.yaml").write_text(TINY.replace("epochs: 3", f"epochs: {EPOCHS}"))
    return "--config", folder / "tiny.yaml", "--dataset_path", folder, "--device", "cpu", "--every", 3


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """The folder of a run in one go."""
    folder = tmp_path_factory.mktemp("whole")
    result = run(reproduce.main, *base, *places(folder))
    assert result.status == 0, result
    assert "tiny_lgn_seed0: complete" in result.out and "oracle, chosen on the test set" in result.out
    return folder


def places(folder):
    return "--exp_dir", folder / "run", "--results", folder / "results"


def result_of(folder):
    """The one JSON file, the folder's own name and the times taken out."""
    path, = (folder / "results").iterdir()
    return json.loads(path.read_text().replace(str(folder), "HERE")) | {"times": None}


def assert_same(folder, expected):
    """Results and weights of one run are those of the other, and no weights are left but the last."""
    assert result_of(folder) == result_of(expected)
    ours, theirs = (torch.load(one / "run/last.pt", weights_only=True) for one in (folder, expected))
    assert all(map(torch.equal, tensors(ours), tensors(theirs))) and ours["step"] == theirs["step"]
    assert (folder / "run/log.jsonl").read_text() == (expected / "run/log.jsonl").read_text()
    assert sorted(path.name for path in (folder / "run").iterdir() if "tfevents" not in path.name) == [
        ".lock", ".reproduce.lock", "auc_over_epochs.pdf", "auc_over_epochs.png", "config.yaml", "evaluation_epoch_003",
        "evaluation_last", "last.pt", "log.jsonl", "pieces.json"]


def test_in_one_go(base, whole):
    result = result_of(whole)
    last = json.loads((whole / "run/evaluation_last/results.json").read_text())
    assert (result["status"], result["schedule_complete"], result["epochs_done"]) == ("complete", True, EPOCHS)
    for key in ("auc", "interval", "auc_psnr", "auc_distance"):
        assert result[key] == last[key] == result["evaluation"][key] and result[key] is not None
    assert result["config"] == last["config"] and result["evaluation"]["grid"] == last["grid"] != []
    assert [row["epoch"] for row in result["curve"]] == [3, EPOCHS] and result["curve"][1]["auc"] == last["auc"]
    assert result["oracle"]["auc"] == max(row["auc"] for row in result["curve"])
    assert "test set" in result["oracle"]["warning"]
    rows = [json.loads(line) for line in (whole / "run/log.jsonl").read_text().splitlines()]
    assert result["live_items"] == [row["live_items"] for row in rows[4::5]] and len(rows) == STEPS
    assert "--minutes" not in result["command"] and result["versions"]["device"].startswith("cpu")
    times = json.loads((whole / "results/tiny_lgn_seed0.json").read_text())["times"]
    assert [piece["images"] for piece in times["pieces"]] == [9 * EPOCHS]
    assert times["images_per_s"] == pytest.approx(9 * EPOCHS / times["training_s"], rel=1e-3)
    assert (whole / "run/evaluation_last/report.html").is_file()
    assert sorted(os.listdir(whole / "run/evaluation_epoch_003")) == ["results.json", "scores.csv"]

    before = {path: path.stat().st_mtime_ns for path in (whole / "run").rglob("*.*") if "auc_over" not in path.name}
    assert run(reproduce.main, *base, *places(whole), "--minutes", 1).status == 0              # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_in_pieces_of_time(base, whole, tmp_path):
    """Each piece is given three times the time of the one before, from too little for anything."""
    minutes, said = 0.0005, []
    while (result := run(reproduce.main, *base, *places(tmp_path), "--minutes", minutes)).status != 0:
        assert result.status == 75, result
        assert f"--minutes {minutes:g}" in result.out.splitlines()[-1]
        unfinished = result_of(tmp_path)
        assert unfinished["status"] != "complete" and unfinished["oracle"] is None
        assert (unfinished["auc"] is None) == ("last" not in str(list((tmp_path / "run").glob("evaluation_*"))))
        said.append(unfinished["status"])
        minutes *= 3
    assert said[0] == f"training, epoch 1 of {EPOCHS}" and len(said) > 2
    assert_same(tmp_path, whole)


def test_killed_and_stopped(base, whole, tmp_path):
    """SIGKILL and SIGTERM in training, SIGKILL in an evaluation: the same numbers in the end."""
    log, part = tmp_path / "run/log.jsonl", tmp_path / "run/.evaluation"
    command = [ROOT / "scripts/reproduce_ped2.sh", *base, *places(tmp_path)]

    def start(sign, number):
        """Start the script, send it the signal as soon as there is a sign of something, and return its exit status."""
        process = subprocess.Popen(list(map(str, command)), env=os.environ | {"PYTHON": sys.executable}, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not sign() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out

    def trains(piece, steps):
        """Whether this piece has begun to train, and so many steps are logged."""
        return len(list(log.parent.glob("*tfevents*"))) == piece and log.read_text().count("\n") >= steps

    assert start(lambda: trains(1, 6), signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (tmp_path / "results").exists()
    status, out = start(lambda: trains(2, 12), signal.SIGTERM)
    assert status == 75 and "go on with: scripts/reproduce_ped2.sh" in out
    stopped = result_of(tmp_path)
    assert re.fullmatch(f"training, epoch [2-6] of {EPOCHS}", stopped["status"]) and stopped["auc"] is None
    assert start(lambda: (part / "scores.csv").exists(), signal.SIGKILL)[0] == -signal.SIGKILL
    assert part.exists() and not (tmp_path / "run/evaluation_last").exists()
    assert result_of(tmp_path) == stopped
    assert run(reproduce.main, *base, *places(tmp_path)).status == 0
    assert_same(tmp_path, whole)


def test_ped2_as_published_is_prepared(base, tmp_path, monkeypatch):
    """The unpacked archive below the data's path; a part of the data set is refused, since it reproduces nothing."""
    for name, content in ped2_files().items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    argv = (*base[:2], "--dataset_path", tmp_path / "data", *base[4:6], *places(tmp_path), "--epochs", 1, "--",
            "--data.dataset", "ped2")
    said = sentence(run(reproduce.main, *argv))
    assert "2 videos with 15 frames here, 16 videos with 2550 frames" in said and "prepare_data.py ped2" in said
    assert (tmp_path / "data/ped2/prepared.json").is_file() and not (tmp_path / "run").exists()

    monkeypatch.setattr(reproduce, "difference_from_published", lambda *_: None)
    assert "AUC is undefined" in sentence(run(reproduce.main, *argv))                 # of a single scored frame
    assert (tmp_path / "run/last.pt").is_file() and not (tmp_path / "run/evaluation_last").exists()


def test_no_data(base, tmp_path, monkeypatch):
    """One sentence that says what to type, and nothing is written."""
    said = sentence(run(reproduce.main, *base[:2], "--dataset_path", tmp_path, *places(tmp_path)))
    assert "no training frames of made" in said
    monkeypatch.setattr(archives, "ATTEMPTS", 1)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    said = sentence(run(reproduce.main, "--dataset_path", tmp_path / "no data", *places(tmp_path)))
    assert "no such folder" in said and "no connection" in said
    assert said.endswith(f"prepare_data.py ped2 --source UCSD_Anomaly_Dataset.tar.gz --out '{tmp_path}/no data'")
    (tmp_path / "data/ped2/training/frames/01").mkdir(parents=True)                    # somebody's: left alone
    assert "no image" in sentence(run(reproduce.main, "--dataset_path", tmp_path / "data", *places(tmp_path)))
    assert not (tmp_path / "run").exists() and not (tmp_path / "results").exists()


@pytest.mark.parametrize("argv, words", [
    (("--seed", 1), ["belongs to another run", "seed is 0 there, 1 here", "--exp_dir"]),
    (("--", "--score.gamma", "0.02"), ["score.gamma is 0.009 there, 0.02 here"]),
    (("--", "--modle.name", "x"), ["unknown option"]),
    (("--minutes", 0), ["--minutes"]),
    (("--", "--seed=1"), ["--seed stands before --"]),
    (("--exp_dir", "elsewhere"), ["is the result of the run in", "this one is in elsewhere", "--results"]),
])
def test_refused(base, whole, argv, words):
    said = sentence(run(reproduce.main, *base, *places(whole), *argv))
    assert all(word in said for word in words), said


def test_a_limit_on_steps_is_lifted(base, whole, tmp_path, monkeypatch):
    """The checkpoint of a run cut off by train.max_steps does not bring that limit; its folder may be named anyhow."""
    said = sentence(run(reproduce.main, *base, *places(tmp_path), "--", "--train.max_steps", 7))
    assert "train.max_steps ended the training in epoch 2 of 6" in said
    assert run(reproduce.main, *base, *places(tmp_path)).status == 0
    result, expected = (result_of(one) for one in (tmp_path, whole))
    assert all(result[key] == expected[key] for key in ("auc", "curve", "config"))
    monkeypatch.chdir(tmp_path)
    assert run(reproduce.main, *base, "--exp_dir", "run", "--results", "results").status == 0
    (tmp_path / "results/tiny_lgn_seed0.json").write_text("{}")
    assert "was not written by this script" in sentence(run(reproduce.main, *base, *places(tmp_path)))


def test_a_run_of_train_py_keeps_its_epochs(base, whole, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("last.pt", "epoch_001.pt"):
        shutil.copy(whole / "run/last.pt", tmp_path / "run" / name)
    assert "is a run of train.py" in sentence(run(reproduce.main, *base, *places(tmp_path)))
    assert (tmp_path / "run/epoch_001.pt").exists()


def test_stopped_where_exceptions_are_lost():
    """A signal that arrives in a callback of the garbage collection ends the block all the same."""
    class Slow:
        def __del__(self):
            time.sleep(0.3)

    reached = []
    with reproduce.stoppable(0.1):
        Slow()
        time.sleep(5)
        reached.append(True)
    assert not reached


def test_one_at_a_time(base, whole):
    with open(whole / "run/.reproduce.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process" in sentence(run(reproduce.main, *base, *places(whole)))


def test_table(whole, tmp_path):
    result = result_of(whole) | {"configuration": "configs/ped2.yaml", "published": 0.6,
                                 "changed": {"model.read_grad": True}}
    unfinished = result | {"status": "training, epoch 3 of 60", "auc": None, "interval": None, "oracle": None}
    for name, one in (("a", result), ("b", unfinished)):
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    _, _, first, second = run(reproduce.main, "--table", tmp_path / "a.json", tmp_path / "b.json").out.splitlines()
    assert first.startswith("| LGN-Net, `model.read_grad true`, seed 0 | 60.0")
    assert f"| {100 * result['auc']:.2f} " in first and f"{100 * result['auc'] - 60:+.2f}" in first
    assert "training, epoch 3 of 60" in second and f"{100 * result['auc']:.2f}" not in second
    (tmp_path / "b.json").write_text("{}")
    assert "results/*.json" in sentence(run(reproduce.main, "--table", tmp_path / "a.json", tmp_path / "b.json"))


def test_commands_of_the_documentation():
    """Every command of docs/results.md is understood, and each run has a place of its own."""
    text = (ROOT / "docs/results.md").read_text()
    commands = list(dict.fromkeys(re.findall(r"`scripts/reproduce_ped2\.sh (.*?)`", text)))
    names = []
    for command in commands:
        argv = shlex.split(command)
        cut = argv.index("--") if "--" in argv else len(argv)
        parser = reproduce.arguments()
        names.append(reproduce.Job(parser.parse_args(argv[:cut]), argv[cut + 1:], parser).name)
    assert len(set(names)) == len(names) >= 5
    assert {"ped2_lgn_seed0", "ped2_lgn_read_grad_seed0", "ped2_mnad_pred_bn_init_uniform_seed0"} <= set(names)
