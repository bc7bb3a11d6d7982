"""Files that mean harm: each payload, in each container, for each command that reads such a file; soak.py counts.

Three things may not happen: code of the file runs, a file outside of the command's folder is touched, or text arrives
raw, so that a terminal, a page or a spreadsheet obeys it. A case is what it tries ("" for a harmless file, which must
be taken), a function that makes the file in `given`, and the command, which may write into `out`.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from helpers import TINY, load_script, random_official_state, run
from plotly.offline import get_plotlyjs

import evaluate
import train
from lgn_net.data.archives import unpack
from lgn_net.data.labels import load_label_folder

measure, plan, prepare, check, predict, official = (load_script(f"scripts/{name}.py").main for name in (
    "measure", "run_plan", "prepare_data", "check_data", "predict_video", "import_official"))
PNG = cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()
MARKUP = ["<img src=x onerror=alert(1)>", "\" onmouseover='alert(1)'", "</script><script>alert(1)</script>"]
TEXTS = ["\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\u202etxt.exe", "a\rb", "a\nb", *MARKUP, "=1+1", "@SUM(1)",
         "+1-1", "-1+1", "\t=1", "'=1", "{{7*7}}", "$\\frac{$", "%s%n", "\udcff"]
BOMB = "{" + ", ".join(f"k{k}: &a{k} [{', '.join(9 * [f'*a{k - 1}' if k else 'x'])}]" for k in range(9)) + "}"


class Code:
    """Unpickled, it calls a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def pickles(base, given, out, mark):
    """Code that leaves a mark, in checkpoints, weights and arrays."""
    run_, pt, npy, mat = base / "run", given / "last.pt", given / "l.npy", given / "l.mat"
    where = "--dataset_path", base, "--device", "cpu", "--config", base / "tiny.yaml"
    good, line, touch = torch.load(run_ / "last.pt"), f"open({str(mark)!r}, 'w')", Code(Path.touch, (mark,))
    codes = (touch, Code(os.system, (f"touch {mark}",)), Code(subprocess.call, (["touch", str(mark)],)),
             Code(eval, (line,)), Code(exec, (line,)), Code(pickle.loads, (pickle.dumps(touch),)))
    weights = (lambda code, path: path.write_bytes(pickle.dumps(code)), torch.save,
               partial(torch.save, _use_new_zipfile_serialization=False),
               *(lambda code, path, key=key: torch.save(good | {key: code}, path) for key in good))
    arrays = weights[0], *(lambda code, path, save=save: save(path.open("wb"), np.array([code])) for save in (
        np.save, np.savez))
    np.save(base / "l.npy", np.repeat([0, 1], 9))
    scipy.io.savemat(base / "l.mat", {"gt": np.array([np.array([[2], [5]]), np.array([[1], [3]]), None], object)[:-1]})
    for name, content in zip(("pair.pth", "keys.pt"), random_official_state(0, 4, 4, 1, 4, 1, 5)):
        torch.save(content, base / name)
    for wraps, sound, path, *command in (
            (weights, run_ / "last.pt", pt, evaluate.main, "--checkpoint", pt, "--out", out, *where),
            (weights, run_ / "last.pt", pt, train.main, "--init_from", pt, "--exp_dir", out, *where),
            (weights, run_ / "last.pt", pt, train.main, "--resume", "auto", "--exp_dir", given, *where),
            (weights, run_ / "last.pt", out / ".part0of1.state", evaluate.main, "--checkpoint", run_, "--out", out, *where),
            (weights, base / "pair.pth", pt, official, pt, base / "keys.pt", "--out", out / "ours.pt"),
            (weights, base / "keys.pt", pt, official, base / "pair.pth", pt, "--out", out / "ours.pt"),
            (arrays, base / "l.npy", npy, lambda _: load_label_folder(given) and 0),
            (arrays, base / "l.npy", npy, measure, given, "--labels", npy),
            (arrays, base / "l.npy", npy, measure, npy, "--direction", "normal", *where[:2], "--dataset_type", "made"),
            (arrays, base / "l.mat", mat, measure, given, "--labels", mat),
            (arrays, run_ / "evaluation_last/maps.npz", given / "maps.npz", measure, given, "--out", out)):
        yield "", partial(shutil.copy, sound, path), command
        for k, (code, wrap) in enumerate(itertools.product(codes, wraps)):
            yield f"{code.call[0].__name__}, container {k % len(wraps)}", partial(wrap, code, path), command


def pack(path, mode, members):
    """Write an archive of members (name, kind in a tar, target of a link)."""
    with zipfile.ZipFile(path, "w") if mode == "zip" else tarfile.open(path, mode) as archive:
        for name, kind, link in members:
            data = PNG if kind == tarfile.REGTYPE else b""
            if mode == "zip":
                member = zipfile.ZipInfo(name)
                member.external_attr = (stat.S_IFLNK if link else stat.S_IFREG | stat.S_ISUID) << 16
                archive.writestr(member, link or data)
            else:
                member = tarfile.TarInfo(name)
                member.size, member.type, member.linkname, member.mode = len(data), kind, link, 0o6777
                archive.addfile(member, io.BytesIO(data))


def archives(base, given, out, _mark):
    """Members that lie or lead elsewhere, or that are no files."""
    name, file, up = "training/x/0.png", (tarfile.REGTYPE, ""), "../../../../../../../.."
    (base / "beside/training/x").mkdir(parents=True)
    (target := base / "beside" / name).write_bytes(PNG)
    links = [(kind, link) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) for link in (str(target), f"{up}{target}")]
    names = f"../{name}", f"{up}/{name}", f"a/../../../{name}", f"{target}2", f"{up}{target}2", f"..\\{name}", \
        f"training/{300 * 'x'}/0.png", *(f"training/{text}/0.png" for text in TEXTS[:-1])
    for mode, (k, members) in itertools.product(("w", "w:gz", "w:xz", "zip"), enumerate((
            [(name, *file)], *([(path, *file)] for path in names),
            *([(name, kind, "")] for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)),
            *([(name, *link)] for link in links), *([(name, *link), (name, *file)] for link in links),
            [("training/x.avi", tarfile.SYMTYPE, f"{target.parent}"), ("training/x.avi/1.png", *file)]))):
        for command in ((prepare, "custom", "--source", given / "a", "--out", out, "--name", "x"),
                        (lambda _: unpack(given / "a", out / "unpacked", [".*"]),)):
            yield k and f"{members}, {mode}", partial(pack, given / "a", mode, members), command


def documents(base, given, out, mark):
    """YAML that makes objects or grows, and numbers that do not end."""
    path, where = given / "c.yaml", ("--dataset_path", base, "--device", "cpu")
    values = ("1", *(f"!!python/object/{how}:{call}" for how in ("apply", "new") for call in (
        f"os.system ['touch {mark}']", f"subprocess.call [[touch, {mark}]]", f"eval [\"open('{mark}', 'w')\"]",
        f"pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]")), "!!python/name:os.system",
        "!!python/module:os", BOMB, 5000 * "[", 5000 * "{a: ", "1e400", "10" + 400 * "0", 5000 * "9", "!!binary AAAA",
        "*a", "2020-01-01", "\"\\e[31m\"", "0x7fffffffffffffff")
    for text, command in (
            (TINY.replace("epochs: 3", "epochs: %s"), (train.main, "--config", path, "--exp_dir", out, *where)),
            ("score: {calibration: %s}", (evaluate.main, "--config", path, "--checkpoint", base / "run", "--out", out,
                                          *where)),
            (f"title: P\nconfig: {base}/tiny.yaml\nrows: {{A: {{set: {{train.max_steps: %s}}}}}}",
             (plan, "--plan", path, "--exp_dir", out, "--dry-run", *where))):
        for k, value in enumerate(values):
            yield k and f"{value[:60]!r} in {text[:20]!r}", partial(path.write_text, text.replace("%s", value)), command


def texts(base, given, out, _mark):
    """What terminals, pages and spreadsheets obey, in names and in what files say."""
    where, made, known = ("--dataset_path", given, "--device", "cpu"), given / "made", given / "results.json"

    def rename(text):
        shutil.copytree(base / "made", made)
        np.save(made / "frame_labels_made.npy", np.repeat([0, 1], 9))
        for split in "training", "testing":
            (made / split / "frames/00").rename(made / split / "frames" / text.replace("/", ""))

    def cell(path, old, text):
        rows = [[text if word == old else word for word in row] for row in csv.reader(path.open(newline=""))]
        with (given / path.name).open("w", newline="", errors="surrogateescape") as file:
            csv.writer(file).writerows(rows)

    def entry(key, text):
        known.write_text(json.dumps(json.loads(known.read_text()) | {key: text}))

    def live(text):
        entry("memories", [{"live_items": text, "queries_of_item": [1], "item_cosine": 0.5}])

    def row(text):
        shutil.copytree(base / "run", out / re.sub(r"\W+", "_", text.lower()).strip("_") / "seed_0")
        known.write_text(json.dumps({"title": text, "config": f"{base}/tiny.yaml", "rows": {text: {"set": {}}}}))

    scores, report = base / "run/evaluation_last/scores.csv", (measure, given, "--out", out)
    for text in "plain", *TEXTS:
        for make, command in (
                (rename, (check, given, "--dataset", "made")),
                (rename, (train.main, "--config", base / "tiny.yaml", "--exp_dir", out, "--train.max_steps", 1, *where)),
                (rename, (evaluate.main, "--checkpoint", base / "run", "--out", out, *where)),
                (rename, (predict, "--checkpoint", base / "run", "--normal", base / "made/training/frames/00", "--out",
                          out, "--video", made / "testing/frames" / text.replace("/", ""))),
                (rename, (prepare, "custom", "--source", made, "--out", out, "--name", "x")),
                (row, (plan, "--plan", known, "--exp_dir", out, "--seed", 0, "--dataset_path", base)),
                (live, report), *((partial(cell, scores, old), report) for old in ("01", "psnr_copy")),
                *((partial(entry, key), report) for key in ("dataset", "checkpoint", "versions", "parameters"))):
            yield text != "plain" and f"{text!r} by {make}", partial(make, text), command


def raw(said, out):
    """What a command said or wrote that is obeyed instead of read."""
    pages = [path.read_text(errors="replace").replace(get_plotlyjs(), "") for path in out.rglob("*.html")]
    yield from (text for text, page in itertools.product(MARKUP, pages) if text in page)
    yield from (c for c in {*said.replace("\r", ""), *"".join(pages)} if not (c.isprintable() or c == "\n"))
    yield from re.findall(r"\w\r\w", said)                                                # others are a progress bar's
    for path in out.rglob("*.csv"):
        for cell in itertools.chain(*csv.reader(path.open(newline=""))):
            with contextlib.suppress(ValueError):
                cell = str(abs(float(cell)))
            if re.match(r"[=+\-@\t\r]", cell):
                yield cell


def attempt(base, what, make, command):
    """Give a command its file: "", or what happened that may not."""
    def around():
        files = (path for path in base.rglob("*") if base / "room" not in path.parents and not path.is_dir())
        return {path: (path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_nlink) for path in files}

    given, out, mark = base / "room/given", base / "room/out", base / "mark"
    shutil.rmtree(base / "room", ignore_errors=True)
    shutil.copytree(base / "run/evaluation_last", given, ignore=shutil.ignore_patterns("*.html", "*.png"))
    out.mkdir()
    make()
    before = around()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(30)                                                                      # it hangs
    try:
        status, *said = run(*command)
    except Exception as error:
        status, said = 70, [f"{error!r:.200}"]
    signal.alarm(0)
    odd = [path for path in out.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())
           or path.stat().st_mode & stat.S_ISUID]
    if mark.exists():
        mark.unlink()
        return "executed"
    if odd or around() != before:
        return f"escaped {odd}"
    if found := [*raw("".join(said), out)]:
        return f"raw {found[:3]!r}"
    return "" if status in ((0, 1, 2) if what else (0,)) else f"status {status}, {said[-1][-300:]}"


def cases(base):
    """All of them."""
    place = base, base / "room/given", base / "room/out", base / "mark"
    return [case for kind in (pickles, archives, documents, texts) for case in kind(*place)]
