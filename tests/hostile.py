"""Files that mean harm: each payload, in each container, for each reader and command; `hostile` of soak.py counts.

Three things may not happen: code of a file runs, something is written where its reader has nothing to write, or text
arrives raw, so that a terminal, a page or a spreadsheet obeys it.
"""

import contextlib
import csv
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import stat
import tarfile
import traceback
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from helpers import Code, load_script, run
from plotly.offline import get_plotlyjs

import evaluate
import train

measure, plan, prepare, check, predict = (load_script(f"scripts/{name}.py").main for name in (
    "measure", "run_plan", "prepare_data", "check_data", "predict_video"))
MARKUP = ["<img src=x onerror=alert(1)>", "\" onmouseover='alert(1)'", "</script><script>alert(1)</script>"]
TEXTS = ["\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\u202etxt.exe", "a\rb", "a\nb", *MARKUP, "=1+1", "@SUM(1)",
         "+1-1", "-1+1", "\t=1", "'=1", "{{7*7}}", "$\\frac{$", "%s%n", "\udcff"]
BOMB = "{" + ", ".join(f"k{k}: &a{k} [{', '.join(9 * [f'*a{k - 1}' if k else 'x'])}]" for k in range(9)) + "}"


def pickles(good, mark):
    """Code that leaves a mark, in the containers of each suffix: functions that write a file. `good`: a checkpoint."""
    touch = Code(Path.touch, (mark,))
    codes = (touch, Code(os.system, (f"touch {mark}",)), Code(exec, (f"open({str(mark)!r}, 'w')",)),
             Code(pickle.loads, (pickle.dumps(touch),)))
    arrays = (lambda code, path: path.write_bytes(pickle.dumps(code)),
              *(lambda code, path, save=save: save(path.open("wb"), np.array([code])) for save in (np.save, np.savez)))
    weights = (arrays[0], torch.save, partial(torch.save, _use_new_zipfile_serialization=False),
               *(lambda code, path, key=key: torch.save(good | {key: code}, path) for key in good))
    return {suffix: [partial(wrap, code) for wrap, code in itertools.product(wraps, codes)]
            for suffix, wraps in {".pt": weights, ".npy": arrays, ".mat": arrays}.items()}


def archives(target):
    """Members that would change the file `target`, lie beside it, or are no files: (name, kind, target of a link)."""
    name, file, up = "x/v.avi", (tarfile.REGTYPE, ""), "../../../../../../../.."
    links = [(kind, link) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) for link in (str(target), f"{up}{target}")]
    names = [[(path, *file)] for path in (
        f"../{name}", f"a/../../{name}", f"{up}/{name}", f"{target}2.avi", f"{up}{target}2.avi", f"..\\{name}",
        f"{300 * 'x'}/v.avi", *(f"{text}/v.avi" for text in TEXTS[:-1]))]
    others = [*([(name, *link)] for link in links), *([(name, *link), (name, *file)] for link in links),
              [("x.avi", tarfile.SYMTYPE, str(target.parent)), ("x.avi/2.avi", *file)],
              *([(name, kind, "")] for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE))]

    def tar(mode, members, path):
        with tarfile.open(path, mode) as archive:
            for name, kind, link in members:
                member = tarfile.TarInfo(name)
                member.type, member.linkname, member.mode = kind, link, 0o6777
                archive.addfile(member)

    return {".tgz": [partial(tar, *one) for one in itertools.product(("w", "w:gz", "w:xz"), names + others)],
            ".zip": [lambda path, name=one[0][0]: zipfile.ZipFile(path, "w").writestr(name, b"") for one in names]}


def documents(mark):
    """YAML that makes objects or grows, and numbers that do not end, in place of a good file's learning rate."""
    values = (*(f"!!python/object/{how}:os.system ['touch {mark}']" for how in ("apply", "new")),
        f"!!python/object/apply:eval [\"open('{mark}', 'w')\"]", "!!python/name:os.system", "!!python/module:os",
        BOMB, 5000 * "[", 5000 * "{a: ", "1e400", "10" + 400 * "0", 5000 * "9", "!!binary AAAA", "*a", "2020-01-01",
        "\"\\e[31m\"", "0x7fffffffffffffff")
    return {".yaml": [lambda path, value=value: path.write_text(path.read_text().replace("1e-3", value))
                      for value in values]}


def texts(base, given, out):
    """Yield a text, a function that puts it somewhere, and the command that reads it, for every text and place."""
    made, known, scores = given / "made", given / "results.json", given / "scores.csv"

    def rename(text):
        shutil.copytree(base / "made", made)
        np.save(made / "frame_labels_made.npy", np.repeat([0, 1], 9))
        for split in "training", "testing":
            (made / split / "frames/00").rename(made / split / "frames" / text.replace("/", ""))

    def cell(old, text):
        quoted = text.replace('"', '""')
        scores.write_bytes(os.fsencode(scores.read_text().replace(old, f'{old[0]}"{quoted}"{old[-1]}')))

    def tell(text):
        known.write_text(json.dumps(json.loads(known.read_text()) | {
            "dataset": text, "checkpoint": text, "versions": {"git": text},
            "memories": [{"live_items": text, "queries_of_item": [1], "item_cosine": 0.5}]}))

    def row(text):
        shutil.copytree(base / "run", out / re.sub(r"\W+", "_", text.lower()).strip("_") / "seed_0")
        known.write_text(json.dumps({"title": text, "config": f"{base}/tiny.yaml", "rows": {text: {"set": {}}}}))

    network = "--checkpoint", base / "run", "--out", out, "--device", "cpu"
    for text in "plain", *TEXTS:
        for make, *command in (
                (rename, check, given, "--dataset", "made"),
                (rename, train.main, "--config", base / "tiny.yaml", "--exp_dir", out, "--dataset_path", given,
                 "--train.max_steps", 1),
                (rename, evaluate.main, *network, "--dataset_path", given),
                (rename, predict, *network, "--normal", base / "made/training/frames/00", "--video",
                 made / "testing/frames" / text.replace("/", "")),
                (rename, prepare, "custom", "--source", made, "--out", out, "--name", "x"),
                (row, plan, "--plan", known, "--exp_dir", out, "--seed", 0, "--dataset_path", base),
                *((make, measure, given, "--out", out) for make in (
                    tell, partial(cell, "\n01,"), partial(cell, ",psnr_copy,")))):
            yield text, partial(make, text), command


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


def cases(base, readers):
    """List what is tried, "" for a harmless file, which must be taken; the file; what makes it; and the command."""
    (target := base / "beside.avi").write_bytes(b"data")
    writers = pickles(torch.load(base / "run/last.pt"), base / "mark") | archives(target) | documents(base / "mark")
    every = [("" if text == "plain" else repr(text), None, make, command)
             for text, make, command in texts(base, base / "room/given", base / "room/out")]
    for path, read in readers.items():
        command = [lambda _, path=path, read=read: (read(path), None)[1]]
        every += [("", path, lambda: None, command)]
        every += [(repr(write), path, partial(write, path), command) for write in writers.get(path.suffix, ())]
    return every


def outcome(main, *argv):
    """Run a command for 30 seconds at most: what it said, its status, and its fault, "" for an answer or a sentence."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(30)
    try:
        status, out, err = run(main, *argv)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "", 70, f"{error!r:.150} {place.filename}:{place.lineno}"
    finally:
        signal.alarm(0)
    good = status in (0, 1) or status == 2 and "error: " in err
    return out + err, status, "" if good else f"status {status}: {err[-300:]!r}"


def attempt(base, what, path, make, command):
    """Make a file and give it to its reader: "", or what happened that may not."""
    given, out, mark = base / "room/given", base / "room/out", base / "mark"
    written = {base / name for name in ("room", "unpacked", "DATA")}

    def around():
        stats = {file: file.lstat() for file in base.rglob("*")}
        odd = [file for file, s in stats.items() if s.st_mode & stat.S_ISUID or stat.S_IFMT(s.st_mode) not in (
            stat.S_IFREG, stat.S_IFDIR)]
        return odd, {file: (s.st_size, s.st_mtime_ns, s.st_nlink) for file, s in stats.items()
                     if not written & {file, *file.parents}}

    shutil.rmtree(base / "room", ignore_errors=True)
    shutil.copytree(base / "run/evaluation_last", given, ignore=shutil.ignore_patterns("*.html", "*.png"))
    out.mkdir()
    good = path and path.read_bytes()
    make()
    before = around()[1]
    said, status, fault = outcome(*command)
    odd, after = around()
    if path:
        path.write_bytes(good)
    if mark.exists():
        mark.unlink()
        return "executed"
    if odd or after != before:
        return f"escaped {odd}"
    if found := [*raw(said, out)]:
        return f"raw {found}"
    return fault or ("" if what or not status else f"refused: {said[-300:]!r}")
