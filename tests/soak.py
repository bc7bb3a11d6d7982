"""Throw kills, full disks, damage and hostile files at the commands, and count what holds.

    PYTHONPATH=. python tests/soak.py [PROMISE ...] [--minutes 28] [--seed 0]

Every function named in PROMISES proves one promise of docs/reliability.md: it yields a line for each trial that failed,
and "" for each that held. The status is 1 when a trial failed.
"""

import argparse
import contextlib
import functools
import html
import io
import os
import pickle
import random
import re
import resource
import select
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from helpers import ROOT, TINY, Bomb, load_script, run, tensors, write_data_set

import evaluate
import train
from lgn_net.cli import command_parser, parse_command
from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import read_image
from lgn_net.data.footage import open_footage
from lgn_net.data.labels import load_labels
from lgn_net.data.videos import index_videos
from lgn_net.errors import UserError
from lgn_net.inference.loop import score_videos
from lgn_net.model.build import build_model
from lgn_net.datasets.archives import unpack
from lgn_net.scores.evaluation import open_evaluation
from lgn_net.scores.score_file import read_scores
from lgn_net.terminal import run_command
from lgn_net.training.checkpoint import load_checkpoint, load_file
from lgn_net.training.run import read_log

SCRIPTS = {name: load_script(f"scripts/{name}.py").main for name in
           ("prepare_data", "predict_video", "run_plan", "measure", "check_data")}
TOKENS = [b"9" * 5000, b"1e400", b"NaN", b"-1", b"null", b"[]", b"{}", b'"\\u001b[31m"', b"2020-01-01", b"[" * 5000,
          b"&a [*a, *a]", b"0x7fffffffffffffff", b"", b"\xff\xfe", b"=1+1", b"true", b"1.5", b"\0"]


def forked(main, argv, seconds=120.0, limit=None):
    """Run a command in a process group of its own, killed after so many seconds: its status, and what it printed.

    `limit` is the size in bytes at which files are full.
    """
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.setsid()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.argv, status = ["command", *map(str, argv)], 70
        try:
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            run_command(main)
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    os.close(writer)
    end, printed, killed = time.monotonic() + seconds, b"", False
    while not killed:
        killed = not select.select([reader], [], [], max(0, end - time.monotonic()))[0]
        if killed:
            os.killpg(child, signal.SIGKILL)
        elif not (part := os.read(reader, 65536)):
            break
        else:
            printed += part
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed.decode(errors="replace")


# ------------------------------------------------------------------------------------------ kills and full disks

@functools.cache
def base():
    """A folder with a small data set, its videos as a user films them, a trained run, its evaluation, and a plan."""
    folder = Path(tempfile.mkdtemp(prefix="soak_"))
    write_data_set(folder)
    (folder / "tiny.yaml").write_text(TINY.replace("log_every: 1", "log_every: 1, save_minutes: 0.001"))
    (folder / "plan.yaml").write_text(f"title: P\nconfig: {folder}/tiny.yaml\nrows:\n  A: {{}}\n")
    where = "--dataset_path", folder, "--device", "cpu"
    for main, argv in ((train.main, ("--config", folder / "tiny.yaml", "--exp_dir", folder / "run", *where)),
                       (evaluate.main, ("--checkpoint", folder / "run/last.pt", *where))):
        assert run(main, *argv).status == 0                # in this process: the others find everything imported
    return folder


def commands(out):
    """The commands that write, each into `out`, by name."""
    b, where = base(), ("--dataset_path", base(), "--device", "cpu")
    training = "--config", b / "tiny.yaml", *where, "--exp_dir", out / "run", "--resume", "auto"
    return {
        "train": (train.main, training),
        "packing": (train.main, (*training, "--data.cache", out / "cache", "--train.max_steps", 1)),
        "evaluate": (evaluate.main, ("--checkpoint", b / "run/last.pt", *where, "--out", out / "evaluation")),
        "prepare": (SCRIPTS["prepare_data"], ("custom", "--source", b / "made", "--labels", b / "made/labels.csv",
                                              "--out", out / "DATA", "--name", "mine")),
        "own video": (SCRIPTS["predict_video"], ("--checkpoint", b / "run/last.pt", "--normal",
                                                 b / "made/training/frames/00", "--video", b / "made/testing/frames/01",
                                                 "--out", out / "own")),
        "plan": (SCRIPTS["run_plan"], ("--plan", b / "plan.yaml", "--seeds", 0, "--exp_dir", out / "plan", *where))}


def state(folder):
    """What a command leaves: the tensors of checkpoints, and the bytes of frames, labels, packed frames and scores."""
    kept = {}
    for path in folder.rglob("*"):
        if path.suffix == ".pt" and path.is_file():
            kept[path.relative_to(folder)] = [t.numpy().tobytes() for t in tensors(load_checkpoint(path)[1])]
        elif path.suffix in (".npy", ".u8") or path.name == "scores.csv" or "frames" in path.parts:
            kept[path.relative_to(folder)] = path.read_bytes() if path.is_file() else b""
    return kept


def interrupted(dice, seconds, full_disk=False):
    """Stop every command somewhere, two times, and give it again: its end is that of a run that nobody stopped."""
    wanted, took, start, names = {}, {}, time.monotonic(), list(commands(Path()))
    order = names + (10 * names[:-1] + names[-1:]) * 100                # a plan starts processes, which takes long
    for trial, name in enumerate(order):
        if trial >= len(names) and time.monotonic() - start > seconds:
            return
        with tempfile.TemporaryDirectory() as out:
            main, argv = commands(Path(out))[name]
            for _ in range(2 * (name in wanted)):
                if full_disk:
                    limit = int(10 ** dice.uniform(1.5, 5))
                    status, said = forked(main, argv, limit=limit)
                    sentence = said.splitlines()[-1] if said else ""
                    held = "Traceback" not in said and (status in (0, 1) or status == 2 and "error: " in sentence)
                    yield "" if held else f"{name}, files of {limit} bytes: status {status}, {said[-300:]}"
                else:
                    forked(main, argv, dice.uniform(0, took[name]))
            begun = time.monotonic()
            status, said = forked(main, argv)
            took.setdefault(name, time.monotonic() - begun)
            end = state(Path(out)) if status == 0 else said[-300:]
            same = end == wanted.setdefault(name, end) and status == 0
            if trial >= len(names) or not same:
                yield from ["" if same else f"{name}, trial {trial}: status {status}, another end: {said[-300:]}"] * 2


def full_disks(dice, seconds):
    """Files that cannot grow, at every writer: one sentence, and the command goes on when there is room."""
    return interrupted(dice, seconds, full_disk=True)


# ------------------------------------------------------------------------------------------------ damage and fuzz

def flipped_bits(dice, seconds):
    """One bit of a tensor, or 64 of its bytes zeroed, is noticed before anything of a checkpoint is used."""
    path, copy = base() / "run/last.pt", base() / "copy.pt"
    content = path.read_bytes()
    stored = [bytes(t.untyped_storage()) for t in tensors(torch.load(path)) if t.numel() > 8]
    places = [(content.index(t), len(t)) for t in stored if any(t)]
    for trial in range(1000 if seconds > 20 else 300):
        first, length = dice.choice(places)
        data, at = bytearray(content), first + dice.randrange(length)
        if trial % 4 or not any(data[at:at + 64]):
            data[at] ^= 1 << dice.randrange(8)
        else:
            data[at:at + 64] = bytes(len(data[at:at + 64]))
        copy.write_bytes(data)
        with contextlib.suppress(UserError):
            load_checkpoint(copy)
            yield f"byte {at} of last.pt was changed, and the file loaded"
            continue
        yield ""


def real_files():
    """Small real files of every kind: their names and contents, and a function that reads one."""
    b, lengths, image = base(), {"00": 8, "01": 10}, cv2.imread(str(base() / "made/testing/frames/00/000.png"))
    flat, made = np.repeat([0, 1], 9), b / "fuzz"
    made.mkdir(exist_ok=True)
    np.save(made / "l.npy", flat)
    scipy.io.savemat(made / "l.mat", {"gt": np.array([np.array([[2], [5]]), np.array([[1], [3]]), None], object)[:-1]})
    texts = {"l.m": "x{end+1}.gt_frame = [2:3, 5:5];\nx{end+1}.gt_frame = [1];\n", "l.csv": "video,start,end\n00,1,2\n",
             "l.json": '{"videos": ["00", "01"], "frames": [8, 10], "abnormal": [[[1, 2]], []]}',
             "f.csv": "video_frame;label\n00_1;1\n01_2;0\n", "c.yaml": TINY}
    for name, text in texts.items():
        (made / name).write_text(text)
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".webp"):
        cv2.imwrite(str(made / f"i{suffix}"), image)
    torch.save(torch.load(b / "run/last.pt"), made / "old.pt", _use_new_zipfile_serialization=False)
    for name, kind in (("v.avi", "MJPG"), ("v.mp4", "mp4v")):
        video = cv2.VideoWriter(str(made / name), cv2.VideoWriter_fourcc(*kind), 10, image.shape[1::-1])
        for _ in range(5):
            video.write(image)
        video.release()
    with tarfile.open(made / "a.tgz", "w:gz") as tar, zipfile.ZipFile(made / "a.zip", "w") as packed:
        tar.add(made / "v.avi")
        packed.write(made / "v.avi")
    videos = index_videos(b / "made/testing/frames")
    index = pack_frames(videos, 1, 16, made / "cache").path.with_suffix(".json")
    prepare = commands(b)["prepare"]
    forked(*prepare)

    def decode(path):
        with open_footage(path) as footage:
            list(footage.frames)

    def labels(path):
        load_labels(path, lengths)

    readers = {made / name: labels for name in ("l.npy", "l.m", "l.json", "l.csv", "f.csv")}
    readers |= {path: read_image for path in sorted(made.glob("i.*"))} | dict.fromkeys(made.glob("v.*"), decode)
    readers |= {path: lambda path: unpack(path, b / "unpacked", [r".*\.avi"]) for path in made.glob("a.*")}
    return readers | {
        made / "old.pt": load_file, b / "run/last.pt": load_checkpoint, b / "run/log.jsonl": read_log,
        index: lambda path: pack_frames(videos, 1, 16, made / "cache"),
        made / "c.yaml": lambda path: parse_command(command_parser("", "", False), ["--config", str(path)]),
        b / "run/evaluation_last/scores.csv": lambda path: read_scores(path, ("psnr", "distance")),
        b / "run/evaluation_last/results.json": lambda path: (open_evaluation(path.parent), SCRIPTS["measure"](
            ["--scores", str(path.with_name("scores.csv")), "--out", str(b / "measured")])),
        b / "DATA/mine/prepared.json": lambda path: prepare[0]([*map(str, prepare[1])]), made / "l.mat": labels}


def mutated(data, dice):
    """Another content: bits, bytes, pieces; numbers and words that are not what they seem."""
    data = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4])):
        at, n = dice.randrange(len(data) + 1), dice.choice([1, 1, 4, 30, 300])
        words = [match.span() for match in re.finditer(rb"-?\b[\d.]+\b|\"\w*\"|\w+", data)] if len(data) < 20000 else []
        kind = dice.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at:at + n] = bytes(dice.choice([0, 255, dice.randrange(256)]) for _ in range(n))
        elif kind == 2:
            del data[at:at + n]
        elif kind == 3:
            data[at:at] = data[at:at + n] * dice.choice([1, 50])
        elif words:
            data[slice(*dice.choice(words))] = dice.choice(TOKENS)
        else:
            del data[at:]
    return bytes(data)


def fuzz(dice, seconds):
    """Changed files of every kind, read again and again: an answer or one sentence, soon, and no crash."""
    readers = real_files()
    for path, read in readers.items():
        content, seed = path.read_bytes(), dice.randrange(2 ** 32)

        def work(_, path=path, read=read, content=content, seed=seed):
            """In a process of its own, which may crash."""
            end, count, draw = time.monotonic() + seconds / len(readers), 0, random.Random(seed)
            warnings.simplefilter("ignore")
            signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("it hangs")))
            while time.monotonic() < end:
                path.write_bytes(mutated(content, draw))
                signal.alarm(10)
                try:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        read(path)
                except Exception as error:
                    if not isinstance(error, UserError | OSError) or isinstance(error, TimeoutError):
                        (base() / f"failed_{count}_{path.name}").write_bytes(path.read_bytes())
                        place = traceback.extract_tb(error.__traceback__)[-1]
                        print(f"FAILED {path.name} {count}: {error!r:.150} {place.filename}:{place.lineno}")
                signal.alarm(0)
                count += 1
            print(f"TRIALS {count}")

        status, said = forked(work, (), 60 + seconds)
        path.write_bytes(content)
        failed = re.findall("^FAILED .*", said, re.MULTILINE)
        failed += [f"{path.name}, seed {seed}: status {status}, {said[-400:]}"] * (status != 0)
        print(f"    {path.name}: {said.rpartition('TRIALS ')[2].strip()}", file=sys.stderr)
        yield from failed
        yield from [""] * (int((re.findall(r"TRIALS (\d+)", said) or ["0"])[0]) - len(failed))


# -------------------------------------------------------------------------------------------------- hostile files

def hostile(dice, seconds):
    """Pickles, YAML, archives and names: no code runs, nothing leaves its folder, nothing is shown raw."""
    b, mark = base(), base() / "mark"
    home = b / "hostile"
    home.mkdir(exist_ok=True)

    class Call(Bomb):
        def __reduce__(self):
            return self.mark

    # Code in pickles and YAML.
    calls = [Call(call) for call in ((os.system, (f"touch {mark}",)), (eval, (f"open({str(mark)!r}, 'w')",)),
                                     (exec, (f"open({str(mark)!r}, 'w')",)), (os.mkdir, (str(mark),)))] + [Bomb(mark)]
    shapes = [lambda x: x, lambda x: {"model": x}, lambda x: [x], lambda x: {"format": x, "config": {}},
              lambda x: {"format": "lgn_net checkpoint 1", "config": {"seed": x}, "model": {}}]
    trials = []
    for k, (call, shape) in enumerate((call, shape) for call in calls for shape in shapes):
        for zipped in (True, False):
            torch.save(shape(call), home / f"{k}{zipped}.pt", _use_new_zipfile_serialization=zipped)
            trials.append((home / f"{k}{zipped}.pt", load_checkpoint))
        np.save(home / f"{k}.npy", np.array([shape(call)] * 18, object), allow_pickle=True)
        (home / f"{k}.json").write_bytes(pickle.dumps(shape(call)))
        trials += [(home / f"{k}{suffix}", lambda path: load_labels(path, {"00": 8, "01": 10}))
                   for suffix in (".npy", ".json")]
    tags = [f"!!python/object/apply:{call} ['touch {mark}']" for call in
            ("os.system", "subprocess.check_output", "eval", "os.popen")] + ["!!python/name:os.system",
                                                                             "!!python/module:os"]
    for k, (tag, form) in enumerate((tag, form) for tag in tags for form in ("{}", "seed: {}", "data: {{dataset: {}}}")):
        (home / f"{k}.yaml").write_text(form.format(tag))
        trials.append((home / f"{k}.yaml", lambda path: parse_command(command_parser("", "", False),
                                                                      ["--config", str(path)])))
    # Archives that reach for other places.
    for k, name in enumerate(["../mark", "a/../../mark", str(mark), "//mark", "..\\mark", "a/./../../../mark"]):
        with zipfile.ZipFile(home / f"{k}.zip", "w") as packed, tarfile.open(home / f"{k}.tar", "w") as tar:
            packed.writestr(f"{name}.avi", "x")
            for kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                member = tarfile.TarInfo(f"{name}.avi" if kind == tarfile.REGTYPE else f"{kind}.avi")
                member.type, member.linkname = kind, name
                with tarfile.open(home / f"{k}{kind.decode()}.tar", "w") as one:
                    one.addfile(member)
            tar.addfile(tarfile.TarInfo(f"{name}.avi"))
    trials += [(path, lambda path: unpack(path, home / "in/in/in/unpacked", [r".*\.avi"]))
               for path in (*home.glob("*.zip"), *home.glob("*.tar"))]
    for path, read in trials:
        with contextlib.suppress(UserError), contextlib.redirect_stderr(io.StringIO()):
            read(path)
        out = [p for p in [*base().parent.glob("mark*"), *base().glob("mark*"), *home.glob("mark*"), Path("/mark.avi")]
               if p.exists()]
        yield f"{path.name}: {out}" if out else ""

    # Names and columns that are markup, escapes of the terminal, formulas, or no UTF-8.
    names = ["<img src=x onerror=alert(1)>", "<script>alert(1)<!-", "\x1b[31mred\x1b]0;x\x07", "=HYPERLINK(1)", "@SUM(1)",
             "+1+1", "-1", "a\nb", "a\rb", "\"'><b>", "{{7*7}}", "$x^2$", "%s%n", "\u202egnp", "a,b", "a;b", " a", "a&b"]
    source = base() / "made/testing/frames/00"
    for name in names:
        data = home / f"set{names.index(name)}"
        for place in (f"testing/frames/{name}", "training/frames/01"):
            (data / "made" / place).parent.mkdir(parents=True)
            (data / "made" / place).symlink_to(source)
        np.save(data / "made/frame_labels_made.npy", np.repeat([0, 1], 4))
        where = "--dataset_path", data, "--device", "cpu"
        status, said = forked(evaluate.main, ("--checkpoint", b / "run/last.pt", *where, "--out", data / "out"))
        table = (data / "out/scores.csv").read_text() if status == 0 else ""
        (data / "foreign.csv").write_text(table.replace("psnr", f'"psnr{name}"'.replace("\n", "").replace('"\'', "'")))
        other = forked(SCRIPTS["measure"], ("--scores", data / "out/scores.csv", "--out", data / "again", *where))
        checked = forked(SCRIPTS["check_data"], (data, "--dataset", "made"))
        pages = "".join(path.read_text(errors="replace") for path in data.glob("*/report.html"))
        cells = [cell for line in table.splitlines()[1:] for cell in line.split(",")[:1]]
        raw = [word for word in ("<img src=x", "<script>alert", "\"'><b>", "\x1b") if word in pages]
        raw += ["escape"] * any("\x1b" in text for text in (said, other[1], checked[1]))
        raw += ["Traceback"] * any("Traceback" in text for text in (said, other[1], checked[1]))
        raw += [cell for cell in cells if re.match(r"[=+@-](?!\d*\.)", cell)]
        held = not raw and (status == 2 or status == 0 and html.escape(name.split("\n")[0])[:1])
        yield from ["" if held else f"name {name!r}: {raw}, {said[-200:]}"] * 3


# ------------------------------------------------------------------------------------------------------ a long run

def long_run(dice, seconds):
    """Memory stays what it is while many frames are scored."""
    data, frames = base() / "long", 100_000 if seconds > 200 else 6_000
    images = [path.resolve() for path in sorted((base() / "made/testing/frames/00").iterdir())]
    for v in range(10):
        (folder := data / f"made/testing/frames/{v:02d}").mkdir(parents=True)
        for t in range(frames // 10):
            (folder / f"{t:06d}.png").symlink_to(images[t % len(images)])
    np.save(data / "made/frame_labels_made.npy", np.arange(frames) % 2)
    config, saved = load_checkpoint(base() / "run/last.pt")
    model, resident = build_model(config), []
    model.load_state_dict(saved["model"])

    def look(_video, _frame, *_pictures):
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)

    score_videos(model, index_videos(data / "made/testing/frames"), config, torch.device("cpu"), observers=[look])
    early, late = resident[len(resident) // 5], max(resident)
    print(f"    {len(resident)} frames: {early / 1e6:.0f} MB, at most {late / 1e6:.0f} MB", file=sys.stderr)
    yield "" if late < 1.02 * early else f"{early} bytes were resident after a fifth, later {late}"


# Each promise, and its share of the time.
PROMISES = {"kills": (interrupted, 0.38), "full_disks": (full_disks, 0.1), "flipped_bits": (flipped_bits, 0.05),
            "fuzz": (fuzz, 0.37), "hostile": (hostile, 0.05), "long_run": (long_run, 0.05)}


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promises", nargs="*", metavar="PROMISE", default=list(PROMISES), help=", ".join(PROMISES))
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    failures = []
    for name in args.promises:
        promise, share = PROMISES[name]
        start, trials = time.monotonic(), 0
        for failed in promise(random.Random(args.seed), 60 * share * args.minutes):
            trials += 1
            if failed:
                failures.append(failed)
                print(f"    {name}: {failed}", file=sys.stderr)
        print(f"{name}: {trials} trials in {time.monotonic() - start:.0f} s; {len(failures)} failures so far", flush=True)
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
