"""From archives in the publishers' layout to folders that train.py and evaluate.py read."""

import dataclasses
import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from helpers import ROOT, load_script, run, sentence
from test_footage import write

from lgn_net.data.archives import unpack
from lgn_net.data.clips import read_image
from lgn_net.data.footage import open_footage
from lgn_net.data.labels import find_labels, load_labels
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import BENCHMARKS, facts_of
from lgn_net.errors import UserError
from lgn_net.files import locked

main = load_script("scripts/prepare_data.py").main
H, W = 24, 32


def picture(*seed: int, channels: int = 3) -> np.ndarray:
    """A smooth picture that is another one for every seed: uint8 (H, W, C)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, channels), np.uint8)
    return cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC).reshape(H, W, channels)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def mask(abnormal: bool) -> np.ndarray:
    image = np.zeros((H, W), np.uint8)
    image[3:9, 4:12] = 255 * abnormal
    return image


def write_avi(path: Path, frames: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, [picture(seed, t) for t in range(frames)], "mjpeg", "yuvj420p")


def write_tar(path: Path, files: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), tarfile.SYMTYPE if link else b"0", link
            file.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def written(folder: Path) -> dict[str, int]:
    """Every file below a folder, and when it was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def read(folder: Path) -> list[np.ndarray]:
    return [read_image(str(path), 3) for path in sorted(folder.iterdir())]


def labels_of(data: Path, dataset: str) -> list[list[int]]:
    """As evaluate.py finds and reads them."""
    folder = find_split(data, dataset, "testing")
    videos = index_videos(folder)
    labels = load_labels(find_labels(data, dataset, folder), {video.name: len(video.frames) for video in videos})
    assert all(np.array_equal(np.load(folder.parent / "labels" / f"{name}.npy"), y) for name, y in labels.items())
    return [array.tolist() for array in labels.values()]


def ped2_files(tests: tuple = (5, 4)) -> dict[str, bytes]:
    """A small Ped2 with all that lies about in the published archive; testing 02 is abnormal in its frames 1 and 2."""
    home = "UCSD_Anomaly_Dataset.v1p2/UCSDped2/"
    ranges = (b"TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [1:5];\n"
              b"TestVideoFile{end+1}.gt_frame = [2:2, 3:3];\n")
    files = {f"{home}.DS_Store": b"x", f"{home}Test/._UCSDped2.m": b"x", f"{home}Test/UCSDped2.m": ranges,
             "UCSD_Anomaly_Dataset.v1p2/README.txt": b"x",
             "UCSD_Anomaly_Dataset.v1p2/UCSDped1/Train/Train001/001.tif": b"x"}
    for split, lengths in {"Train": (3, 12), "Test": tests}.items():
        for v, length in enumerate(lengths, 1):
            folder = f"{home}{split}/{split}{v:03d}"
            files |= {f"{folder}/.DS_Store": b"x", f"{folder}/._001.tif": b"x", f"{folder}/Thumbs.db": b"x"}
            files |= {f"{folder}/{t:03d}.tif": encoded(picture(len(split), v, t, channels=1), ".tif")
                      for t in range(1, length + 1)}
            if split == "Test":
                names = ("{:03d}", "frame{:03d}")[v - 1]                      # both forms occur in the published one
                files |= {f"{folder}_gt/{names.format(t)}.bmp": encoded(mask(v == 1 or t in (2, 3)), ".bmp")
                          for t in range(1, length + 1)}
                files[f"{folder}_gt/._001.bmp"] = b"x"
    return files


def test_ped2_archives(tmp_path):
    """Frames and masks may come apart; what is there stays, and only what is missing is made again."""
    out = tmp_path / "DATA"
    frames, truth = (write_tar(tmp_path / f"{tif}.tgz", {name: data for name, data in ped2_files().items()
                                                         if name.endswith(".tif") == tif}) for tif in (True, False))
    command = "ped2", "--source", frames, truth, "--out", out
    result = run(main, *command)
    assert "training: 2 videos, 15 frames\ntesting:  2 videos, 9 frames\nlabels:   the source's own, 7 " in result.out
    assert [" 2 videos with " in warning for warning in result.warnings()[1:]] == [True, True]     # there are more
    assert set(os.listdir(out)) == {"ped2", ".ped2.lock"}
    assert sorted(os.listdir(out / "ped2/training/frames/02")) == [f"{t:03d}.png" for t in range(12)]
    for t, frame in enumerate(read(out / "ped2/training/frames/02")):
        assert (frame == picture(len("Train"), 2, t + 1, channels=1)).all()  # lossless, every frame, in order
    assert labels_of(out, "ped2") == [[1, 1, 1, 1, 1], [0, 1, 1, 0]]
    assert [frame.any() for frame in read(out / "ped2/testing/masks/02")] == [False, True, True, False]

    before = written(out / "ped2/training/frames")
    shutil.rmtree(out / "ped2/training/frames/01")
    assert run(main, *command).status == 0
    again = written(out / "ped2/training/frames")
    assert again.keys() == before.keys() and {name[:2] for name in again if again[name] != before[name]} == {"01"}
    for argv in command[:3] + command[4:], (*command, "--format", "jpg"):
        assert "was made from another source, format" in sentence(run(main, *argv))
    (out / "ped2/prepared.json").write_text("[" * 9999)                             # damaged
    assert "was made from another source, format" in sentence(run(main, *command))
    assert "https://svip-lab" in sentence(run(main, "shanghaitech", "--download", "--out", out))


def avenue_source(folder: Path, lengths: dict[str, int], masks: dict[int, int]) -> Path:
    """Videos as in Avenue_Dataset.zip, masks as in ground_truth_demo.zip: the last third of each video is abnormal."""
    for i, (name, length) in enumerate(lengths.items()):
        write_avi(folder / "Avenue Dataset" / name, length, seed=i)
    for number, count in masks.items():
        cells = np.empty((1, count), object)
        for t in range(count):
            cells[0, t] = mask(t >= 2 * count // 3) // 255
        path = folder / "ground_truth_demo" / "testing_label_mask" / f"{number}_label.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, {"volLabel": cells}, do_compression=True)
    return folder


AVENUE = {"training_videos/01.avi": 7, "testing_videos/01.avi": 6, "testing_videos/02.avi": 9}
VIDEO = "Avenue Dataset/training_videos/01.avi"


def test_avenue_archives(tmp_path):
    """Where a video stops early, the others are written and stay."""
    source, out = avenue_source(tmp_path / "s", AVENUE, {1: 6, 2: 9, 3: 4}), tmp_path / "DATA"
    masks = shutil.make_archive(tmp_path / "m", "zip", source, "ground_truth_demo")
    whole = (source / VIDEO).read_bytes()
    command = "avenue", "--source", source / "Avenue Dataset", masks, "--out", out, "--format", "jpg"
    (source / VIDEO).write_bytes(whole[:len(whole) * 2 // 3])
    assert re.search("01.avi stops early, decoded [1-6] of 7 .*; all other videos are", sentence(run(main, *command)))
    before = written(out / "avenue/testing/frames")
    (source / VIDEO).write_bytes(whole)
    result = run(main, *command)
    assert result.status == 0 and "testing:  2 videos, 15 frames\nlabels:   the source's own, 5" in result.out
    assert "the source's own labels are used" in result.err  # these are not the published videos
    assert labels_of(out, "avenue") == [[0] * 4 + [1] * 2, [0] * 6 + [1] * 3]
    assert len(before) == 6 + 9 and before == written(out / "avenue/testing/frames")
    for name in AVENUE:
        folder = out / "avenue" / name.replace("_videos/", "/frames/").removesuffix(".avi")
        assert {path.suffix for path in folder.iterdir()} == {".jpg"}
        with open_footage(source / "Avenue Dataset" / name) as footage:
            for frame, original in zip(read(folder), footage.frames, strict=True):
                assert np.abs(frame.astype(int) - original.picture).max() <= 6


def test_two_truths_of_avenue(tmp_path):
    source, out = avenue_source(tmp_path / "s", {}, {1: 6}), tmp_path / "DATA"
    assert "no videos; expected files like (training" in sentence(run(main, "avenue", "--source", source, "--out", out))
    avenue_source(source, {"testing_videos/08.avi": 36}, {})
    for truth, abnormal in {"official": 36, "ano_pred": 10}.items():
        result = run(main, "avenue", "--source", source, "--out", out, "--label_source", truth)
        assert f"avenue_{truth}, {abnormal} frames abnormal" in result.out
        assert sum(labels_of(out, "avenue")[0]) == abnormal
    assert "no ano_pred labels of ped2" in sentence(run(main, "ped2", "--out", out, "--label_source", "ano_pred"))


def test_shanghaitech_archive(tmp_path):
    files, out = {"testing/readme.md": b"x", "testing/frames/._01_0014": b"x"}, tmp_path / "DATA"
    for name, length, value in ("01_0014", 5, 1), ("01_0015", 4, 0):                # no mask of the latter has a pixel
        files |= {f"testing/frames/{name}/{t:03d}.jpg": encoded(picture(length, t), ".jpg") for t in range(length)}
        pixels = np.stack([mask(t > 2) * value for t in range(length)])
        for kind, array in {"frame": np.arange(length) > 2, "pixel": pixels}.items():
            np.save(content := io.BytesIO(), array.astype(np.uint8))
            files[f"testing/test_{kind}_mask/{name}.npy"] = content.getvalue()
    for name, length in {"01_001": 6, "13_007": 3}.items():
        files[f"training/videos/{name}.avi"] = write_avi(tmp_path / "x.avi", length).read_bytes()
    files |= {f"training/frames/07_005/{t:03d}.jpg": encoded(picture(2, t), ".jpg") for t in range(2)}    # of a copy
    source = write_tar(tmp_path / "s.tar.gz", {f"shanghaitech/{name}": data for name, data in files.items()})
    result = run(main, "shanghai", "--source", source, "--out", out)
    assert "testing/01_0015: 1 frames are abnormal by their labels, and no mask has a pixel" in result.warnings()[0]
    assert labels_of(out, "shanghaitech") == [[0, 0, 0, 1, 1], [0, 0, 0, 1]]
    training = out / "shanghaitech/training/frames"
    assert {path.name: len(read(path)) for path in training.iterdir()} == {"01_001": 6, "13_007": 3, "07_005": 2}
    for t in range(5):                                                              # published frames: byte for byte
        name = f"testing/frames/01_0014/{t:03d}.jpg"
        assert (out / "shanghaitech" / name).read_bytes() == files[name]
    assert [frame.any() for frame in read(out / "shanghaitech/testing/masks/01_0014")] == [False] * 3 + [True] * 2


def test_own_videos(tmp_path):
    source, out, labels = tmp_path / "videos", tmp_path / "DATA", tmp_path / "labels.csv"
    for path, frames in {"training/monday 1.avi": 4, "testing/a.avi": 3, "testing/b.avi": 6}.items():
        write_avi(source / path, frames)
    own = "custom", "--source", source, "--out", out, "--name"
    labels.write_text("video,start,end\nc,2,3\nb,5,5\n")
    assert "no video is called 'c'" in sentence(run(main, *own, "mine", "--labels", labels))
    assert "give letters" in sentence(run(main, *own, "../x"))
    assert "the folder that holds training/" in sentence(run(main, *own, "x", "--source", source / "testing/a.avi"))
    with locked(out / ".mine.lock"):
        assert "could not be acquired" in sentence(run(main, *own, "mine"))
    labels.write_text("video,start,end\nb,2,3\nb,5,5\n")
    assert run(main, *own, "mine", "--labels", labels).status == 0
    assert labels_of(out, "mine") == [[0, 0, 0], [0, 0, 1, 1, 0, 1]]
    write_avi(source / "testing" / "c.avi", 2)                                      # some days later
    assert "no labels for testing c" in run(main, *own, "mine").err and len(read(out / "mine/testing/frames/c")) == 2


@pytest.mark.parametrize(("files", "videos", "said"), [
    ("Train/a/0.webp Test/01/0.jp2 Test/01_gt/0.bmp Test/masks/0.png", "testing/01 training/a", ""),
    ("training/videos/a.gif training/images/b/0.jpg testing/clips/c.DIVX", "testing/c training/a training/b", ""),
    ("training/normal/a.mp4 training/a.rar testing/x/y/b.mp4", "training/a", r"passed over, .*: b\.mp4, a\.rar"),
    ("a.mp4 clips/b.mp4", "", "put files as .*s/training/NAME.mp4 and .*; found 2 files under .*s$"),
    ("train/a.mp4 train/a/0.jpg", "", "two videos are called training/a;")])
def test_layouts_of_own_videos(tmp_path, files, videos, said):
    for path in (tmp_path / "s" / name for name in files.split()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    result = run(main, "custom", "--source", tmp_path / "s", "--out", tmp_path / "DATA")
    assert re.search(said, result.err, re.MULTILINE) and ("passed over" in result.err) == ("passed" in said), result.err
    if videos:
        found = facts_of("mine").find([tmp_path / "s"])
        assert sorted(f"{video.split}/{video.name}" for video in found) == videos.split()


@pytest.mark.parametrize(("kind", "suffix"), [(np.uint16, ".tif"), (np.float32, ".tiff")])
def test_depth_range(tmp_path, kind, suffix):
    """Images of a user's own, 12 bits in 16 or floats: mapped as asked, and named where nothing is asked."""
    source, image = tmp_path / "s", np.linspace(-9, 4095, H * W).reshape(H, W).clip(0).astype(kind)
    for name in ("training/a", "testing/frames/b"):
        (source / name).mkdir(parents=True)
        for t in range(2):
            cv2.imwrite(str(source / name / f"{t}{suffix}"), image)
    own = "custom", "--source", source, "--out", tmp_path / "DATA", "--name", "mine"
    assert re.search("(holds float32 pixels|has 16 bits, a JPEG 8).* custom --depth_range LOW HIGH",
                     sentence(run(main, *own, "--format", "jpg")))
    shutil.rmtree(tmp_path / "DATA")
    assert run(main, *own, "--depth_range", 95, 4095).status == 0
    for folder in ("training/frames/a", "testing/frames/b"):
        frames = read(tmp_path / "DATA/mine" / folder)
        mapped = np.round((image.astype(float) - 95).clip(0) / 4000 * 255).astype(np.uint8)
        assert len(frames) == 2 and np.array_equal(frames[0][..., 0], mapped)
    assert "delete" in sentence(run(main, *own))


def test_a_fifth_benchmark_takes_one_file(tmp_path, monkeypatch):
    """The example of docs/data.md: names of six digits, labels per video."""
    assert set(BENCHMARKS) == {"ped1", "ped2", "avenue", "shanghaitech"}                   # by the files in the folder
    example: dict = {}
    exec(re.search(r"```python\n(\"{3}.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)[1], example)
    monkeypatch.setitem(BENCHMARKS, "corridor", example["BENCHMARKS"]["corridor"])
    source = tmp_path / "published"
    for name, frames in {"Train/000001": 4, "Train/000002": 5, "Test/000209": 5, "Test/000210": 6}.items():
        write_avi(source / name / f"{name[-6:]}.avi", frames)
        if name.startswith("Test"):
            (source / "Test_Annotation" / name[-6:]).mkdir(parents=True)
            np.save(source / "Test_Annotation" / name[-6:] / f"{name[-6:]}.npy", np.arange(frames) > 3)
    archive, command = shutil.make_archive(tmp_path / "c", "zip", source), load_script("scripts/prepare_data.py").main
    made = run(command, "corridor", "--source", archive, "--out", tmp_path)
    assert "testing:  2 videos, 11 frames\nlabels:   the source's own, 3 frames abnormal" in made.out, made
    assert labels_of(tmp_path, "corridor") == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1]]
    (tmp_path / "corridor/training/frames/000002/004.png").unlink()
    report = run(load_script("scripts/check_data.py").main, tmp_path, "--dataset", "corridor").out
    assert "problem: training/000002: 4 of 5 frames; " in report
    assert "problem: corridor training: 2 videos with 8 frames here" in report


class Handler(BaseHTTPRequestHandler):
    """Sends the server's `content` from where it is asked, but only `cut` bytes."""

    def do_GET(self):
        server = self.server
        server.asked.append(int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")))
        start = server.asked[-1] * server.ranges
        body = server.content[start:]
        self.send_response(server.status or (206 if start else 200) if body else 416)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:server.cut])


@pytest.mark.parametrize(("have", "server_with", "asked", "said"), [
    (0, {"cut": 9999}, [0, 9999], ""), (None, {}, [None], ""), (500, {"ranges": False}, [500], ""),
    (500, {"cut": 0}, 5 * [500], "the connection was cut; what has arrived is kept"),
    (500, {"status": 404}, 5 * [500], "404.* give it with --source"),
    (0, {"content": b"?"}, [0], "x.tgz is not the published file .* give it with --source")])
def test_download(tmp_path, monkeypatch, have, server_with, asked, said):
    """Whole or resumed, and only once; what arrived is kept, except with another checksum."""
    content, out = write_tar(tmp_path / "x.tgz", ped2_files()).read_bytes(), tmp_path / "DATA"
    archives, part = {"http://a/x.tgz": hashlib.sha256(content).hexdigest()}, out / "archives/x.tgz.part"
    monkeypatch.setitem(BENCHMARKS, "ped2", dataclasses.replace(BENCHMARKS["ped2"], archives=archives))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:have])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        vars(server).update(asked=[], **{"content": content, "ranges": True, "cut": None, "status": None} | server_with)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        result = run(main, "ped2", "--download", f"http://127.0.0.1:{server.server_port}/", "--out", out)
        server.shutdown()
    assert server.asked == [len(content) if start is None else start for start in asked]
    if said:
        assert re.search(said, sentence(result)) and (part.stat().st_size if part.exists() else 0) == have
    else:
        for source in ("--download",), ("--source", part.with_suffix("")):
            assert run(main, "ped2", *source, "--out", out).status == 0
        assert os.listdir(part.parent) == ["x.tgz"] and labels_of(out, "ped2")[1] == [0, 1, 1, 0]


@pytest.mark.parametrize(("name", "content", "match"), [
    ("Test/Test001_gt/006.bmp", encoded(mask(True), ".bmp"), "testing/01: 6 masks, 5 labels, 5 frames do not fit"),
    ("Train/Train001/002.tif", b"II*\0 and no more", r"002\.tif is damaged or truncated")])
def test_unusable_source(tmp_path, name, content, match):
    out, home = tmp_path / "DATA", "UCSD_Anomaly_Dataset.v1p2/UCSDped2"
    source = write_tar(tmp_path / "s.tgz", ped2_files() | {f"{home}/{name}": content})
    assert re.search(match, sentence(run(main, "ped2", "--source", source, "--out", out)))
    assert not list(out.rglob("*.part")) and not list(out.rglob("frame_labels*"))


CONTENT = np.random.default_rng(0).bytes(210_000)
FILES = {"data/a.avi": CONTENT[:70_000], "data/b.AVI": CONTENT[:80_000], "data/readme.txt": CONTENT[:60_000],
         "__MACOSX/data/._a.avi": b"x", "data/.c.avi": b"x"}


@pytest.mark.parametrize("pack", [write_zip, write_tar])
def test_unpack_what_is_wanted(pack, tmp_path):
    unpack(pack(tmp_path / "wrongly_named", FILES), tmp_path / "to", [r"data/b\.avi", r"[^/]+\.avi"])
    assert {p.name: p.read_bytes() for p in (tmp_path / "to").rglob("*.*")} == {
        "a.avi": FILES["data/a.avi"], "b.AVI": FILES["data/b.AVI"]}


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    return data


def without_end(path):
    """A tar that was cut off between two files."""
    content = gzip.decompress(write_tar(path, FILES).read_bytes()).rstrip(b"\0")
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


@pytest.mark.parametrize(("make", "match"), [
    (without_end, "no end mark"),
    (lambda path: write_tar(path, {"data/a.avi": b""}, link="/etc/passwd").read_bytes(), "data/a.avi"),
    (lambda path: flipped(write_zip(path, FILES)), "is damaged"),
    (lambda path: flipped(write_tar(path, FILES)), "is damaged"),
    (lambda path: b"\n<!DOCTYPE html><html>Sign in", "no zip or tar archive"), (lambda path: b"", "no zip or tar"),
    (lambda path: write_zip(path, {"readme.txt": b"x"}).read_bytes(), "holds nothing of this data set"),
    (lambda path: write_zip(path, FILES).read_bytes()[:-9], "truncated"),
    *((lambda path, size=size: write_tar(path, FILES).read_bytes()[:size], "truncated") for size in (9000, -9))])
def test_damaged(make, match, tmp_path):
    """Unpacking ends with a sentence, and leaves nothing behind."""
    (tmp_path / "x.zip").write_bytes(make(tmp_path / "made"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=match):
        unpack(tmp_path / "x.zip", tmp_path / "unpacked", [r"[^/]+\.avi"])
    assert sorted(tmp_path.rglob("*")) == before
