"""Every command on a system that lacks what only Unix has, as Windows does; two minutes of tests/soak.py."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, load_script, run, sentence, shell, write_data_set

# Runs first of all: what Windows lacks is gone.
WITHOUT_UNIX = """
import os, signal, sys
for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for module, names in ((os, "fork killpg setsid getpgid getuid nice preadv pread pwritev sched_getaffinity sysconf "
                           "posix_fadvise statvfs mkfifo wait4"),
                      (signal, "SIGKILL SIGCHLD SIGPIPE SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGCONT SIGSTOP SIGTSTP SIGQUIT "
                               "alarm setitimer pthread_sigmask sigwait pause siginterrupt")):
    for name in names.split():
        delattr(module, name)
"""
# Commands, each with its exit status and what had to be imported until then.
COMMAND = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    print("+++", *sys.argv)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print("ended", end.code or 0, *{"torch", "cv2", "scipy", "sklearn", "matplotlib"} & {*sys.modules})
"""
COMMANDS = ["train.py", "evaluate.py", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("scripts/[!a]*.py"))]
HERE = "--dataset_path {0} --device cpu --data.workers 0 "
WORK = ["scripts/prepare_data.py custom --source {0}/made --labels {0}/made/labels.csv --out {0}/DATA --name mine",
        "scripts/check_data.py {0}/DATA --dataset mine",
        "train.py --config {0}/tiny.yaml --exp_dir {0}/run --data.cache {0}/cache --train.epochs 1 " + HERE,
        "evaluate.py --checkpoint {0}/run " + HERE, "scripts/measure.py --scores {0}/run/evaluation_last/scores.csv",
        "scripts/predict_video.py --checkpoint {0}/run/last.pt --normal {0}/made/training/frames/00 --device cpu "
        "--video {0}/made/testing/frames/01 --out {0}/own"]


@pytest.mark.parametrize("code, without", [
    ("import train, evaluate, run_plan, gpu_check, export_weights", "av plotly lpips torchvision tensorboard"),
    ("import measure; measure.main(['tests/golden/scores.csv'])", "torch torchvision tensorboard matplotlib")])
def test_packages_that_are_not_needed(code, without):
    """By what docs/scale.md runs on a borrowed GPU; and by a measurement, which must not wait for slow imports."""
    done = shell("-c", f"import sys; sys.path.append('scripts'); {code}; print(*sys.modules)")
    assert "numpy" in done.out.split() and not {*without.split()} & {*done.out.split()}, done.err


@pytest.mark.slow
def test_commands_without_unix(tmp_path):
    write_data_set(tmp_path)
    done = shell("-c", WITHOUT_UNIX + COMMAND, json.dumps([command.format(tmp_path).split() for command in WORK]))
    assert len(re.findall("^ended 0 ", done.out, re.MULTILINE)) == len(WORK), done


def test_questions_are_answered_before_imports_that_take_seconds():
    asked = [[script, flag] for script in COMMANDS for flag in ("--help", "--version")]
    done = shell("-c", WITHOUT_UNIX + COMMAND, json.dumps([*asked, ["scripts/sweep.py", "gamma", "--help-all"]]))
    for answer in done.out.split("+++ ")[1:]:
        (*_, flag), first, *_, imported = map(str.split, filter(None, answer.splitlines()))
        assert first[0] == ("LGN-Net" if flag == "--version" else "usage:") and imported == ["ended", "0"], answer
    assert done.out.count("+++ ") == 2 * len(COMMANDS) + 1, done


MISSPELT = "--helpp is no flag of this command; did you mean --help"


@pytest.mark.parametrize("words, said", [
    *((f"{command.replace('sweep.py', 'sweep.py gamma')} --helpp", MISSPELT) for command in COMMANDS),
    ("scripts/predict_video.py --vidoe x", "--vidoe is no flag of this command; did you mean --video or --no_video?"),
    ("scripts/predict_video.py --checkpoint x", "--video is missing: video file, folder of images, camera's number,"),
    ("scripts/run_plan.py --exp_dir x --plan=y --dry-run", "--dataset_path is missing: folder with the data set's"),
    ("scripts/prepare_data.py ped3 --out x", "argument dataset: invalid choice: 'ped3' (choose from 'avenue',"),
    ("scripts/sweep.py lambda RUN --step 2", "--step is no flag of this command; did you mean --steps?")])
def test_words_that_cannot_be(words, said):
    script, *words = words.split()
    assert sentence(run(load_script(script).main, *words)).startswith(said)


@pytest.mark.parametrize("device, installs", [("cpu", ["whl/cpu", "requirements.txt"]), ("cuda", ["requirements.txt"])])
def test_what_the_image_installs(tmp_path, device, installs):
    """Its RUN, with a pip that says its words; the files that these name and all of the code get into the image."""
    script = re.search(r"^RUN (.*?[^\\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    said = subprocess.run(["sh", "-c", script], env={"PATH": f"{tmp_path}:/bin", "DEVICE": device}, text=True,
                          capture_output=True, check=True).stdout.splitlines()
    assert len(said) == len(installs) and all(word in line for word, line in zip(installs, said))
    ignored = {path for pattern in (ROOT / ".dockerignore").read_text().split() for path in ROOT.glob(pattern)}
    files = [ROOT / name for line in said for name in re.findall(r"-[cr] (\S+)", line)]
    for path in [*files, *ROOT.glob("[!.]*.*"), *ROOT.glob("configs/**/*.yaml"), *ROOT.glob("lgn_net/**/*.py")]:
        assert path.exists() and not {path, *path.parents} & ignored


def test_a_terminal_without_some_letters_loses_no_output(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = shell("-c", "from lgn_net.terminal import run_command; run_command(lambda _: print('\u89c6 1\x1b'))")
    assert done.out == "\\u89c6 1\\x1b\n" and not done.status


def test_memory_that_is_not_there_is_a_sentence():
    for main in (lambda _: torch.empty(2**50), lambda _: np.empty(2**50)):
        assert "memory is full" in sentence(run(main))


@pytest.mark.slow
def test_two_minutes_of_soak():
    """Kills, full disks, damage and fuzz; `make soak` takes half an hour."""
    subprocess.run([sys.executable, "tests/soak.py", "--minutes", "2"], cwd=ROOT, check=True)
