"""Every command on a system that lacks what only Unix has, as Windows does; two minutes of tests/soak.py."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, run, sentence, shell, write_data_set

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
RUN = """
import json
sys.path[:0] = "tests", "scripts"
from helpers import load_script, run
for words in json.loads(sys.argv[1]):
    result = run(load_script(words[0]).main, *words[1:])
    if result.status:
        sys.exit(f"{words} {result}")
"""
COMMANDS = ["train.py", "evaluate.py", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("scripts/[!a]*.py"))]
HERE = "--dataset_path {0} --device cpu --data.workers 0 "
WORK = ["scripts/prepare_data.py custom --source {0}/made --labels {0}/made/labels.csv --out {0}/DATA --name mine",
        "scripts/check_data.py {0}/DATA --dataset mine",
        "train.py --config {0}/tiny.yaml --exp_dir {0}/run --data.cache {0}/cache --train.epochs 1 " + HERE,
        "evaluate.py --checkpoint {0}/run " + HERE, "scripts/measure.py --scores {0}/run/evaluation_last/scores.csv",
        "scripts/predict_video.py --checkpoint {0}/run/last.pt --normal {0}/made/training/frames/00 --device cpu "
        "--video {0}/made/testing/frames/01 --out {0}/own"]


@pytest.mark.slow
def test_commands_without_unix(tmp_path):
    write_data_set(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = [[command, "--help"] for command in COMMANDS] + [command.format(tmp_path).split() for command in WORK]
    done = subprocess.run([sys.executable, "-c", WITHOUT_UNIX + RUN, json.dumps(words)], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert not done.returncode, done.stderr[-1000:]


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
