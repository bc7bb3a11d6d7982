"""Every command on a system that lacks what only Unix has, as Windows does; nothing of it is asked for."""

import subprocess
import sys

import pytest
from helpers import ROOT, write_data_set, write_training_set

# Runs before the commands: what Windows lacks is gone.
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
import sys
sys.path[:0] = ["tests"]
from helpers import load_script, run
file, *argv = sys.argv[1:]
result = run(load_script(file).main, *argv)
print(result)
sys.exit(result.status or "Traceback" in result.err)
"""
COMMANDS = ["train.py", "evaluate.py", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("scripts/*.py"))]
HERE = "--dataset_path {0} --device cpu --data.workers 0 "
WORK = ["scripts/make_toy_data.py --out {0}/DATA",
        "scripts/prepare_data.py custom --source {0}/made --labels {0}/made/labels.csv --out {0}/DATA --name mine",
        "scripts/check_data.py {0}/DATA --dataset mine",
        "train.py --config {0}/tiny.yaml --exp_dir {0}/run --data.cache {0}/cache --train.epochs 1 " + HERE,
        "evaluate.py --checkpoint {0}/run " + HERE, "scripts/measure.py --scores {0}/run/evaluation_last/scores.csv",
        "scripts/predict_video.py --checkpoint {0}/run/last.pt --normal {0}/made/training/frames/00 --device cpu "
        "--video {0}/made/testing/frames/01 --out {0}/own"]


@pytest.mark.slow
def test_commands_without_unix(tmp_path):
    write_training_set(tmp_path / "tiny")
    (tmp_path / "tiny/tiny.yaml").rename(tmp_path / "tiny.yaml")
    write_data_set(tmp_path)
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/sitecustomize.py").write_text(WITHOUT_UNIX)
    failed = {}
    for words in [f"{command} --help" for command in COMMANDS] + [command.format(tmp_path) for command in WORK]:
        done = subprocess.run([sys.executable, "-c", RUN, *words.split()], cwd=ROOT, capture_output=True, text=True,
                              env={"PYTHONPATH": f"{tmp_path / 'stub'}:{ROOT}", "OMP_NUM_THREADS": "1"}, check=False)
        if done.returncode:
            failed[words] = (done.stdout + done.stderr)[-600:]
    assert not failed, "\n".join(f"{words}: {said}" for words, said in failed.items())
