"""From what publishers hand out to folders of frames that train.py and evaluate.py read.

    <out>/<dataset>/{training,testing}/frames/<video>/000.png     every frame, in order, from 0
    <out>/<dataset>/testing/masks/<video>/000.png                 0 normal, 255 abnormal, where there are masks
    <out>/<dataset>/testing/labels/<video>.npy                    uint8 (T,), 1 abnormal
    <out>/<dataset>/frame_labels_<dataset>.npy                    the same of all test videos in order
    <out>/<dataset>/prepared.json                                 from what, in which format, how many frames

What is complete stays, and is not made again.
"""

import contextlib
import fcntl
import json
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lgn_net.data.labels import find_labels, load_labels
from lgn_net.data.videos import Video, index_videos
from lgn_net.datasets import BENCHMARKS, known_lengths
from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic
from lgn_net.preparation.archives import LARGEST, LARGEST_OF, check_free, fingerprint, unpack
from lgn_net.preparation.extract import Header, count_files, probe, save_array, write_video
from lgn_net.preparation.sources import SourceVideo, read_source, wanted
from lgn_net.terminal import progress

MARGIN = 1.1                   # asked of the disk over what the first frames of the videos promise


class Settings(NamedTuple):
    """What to make of a source."""

    dataset: str
    name: str                                  # of the folder in `out`: that of the data set, or the user's own
    format: Literal["png", "jpg"] = "png"
    label_source: Literal["auto", "official", "ano_pred"] = "auto"
    labels: Path | None = None                 # a label file, for own videos
    workers: int = os.cpu_count() or 1


class Stopped(Exception):
    """Another video met a full disk, or the user pressed Ctrl-C."""


def prepare(sources: list[Path], out: Path, settings: Settings) -> dict:
    """Make `<out>/<name>` from archives or folders; returns the content of its prepared.json.

    Raises UserError when a source is damaged or does not fit on the disk, when `<out>/<name>` was made from another
    one, or when another run makes it now. Complete videos stay in any case; the same command goes on from there.
    """
    root = out / settings.name
    if settings.label_source == "ano_pred":
        find_labels(out, settings.dataset, root, "ano_pred")                     # UserError where there are none
    manifest = {"dataset": settings.dataset, "format": settings.format, "source": identify(sources)}
    try:
        with locked(root):
            before = read_manifest(root, manifest)
            manifest |= {"videos": before.get("videos", {}), "labels": before.get("labels")}
            folders_may_grow = any(path.is_dir() for path in sources)
            if folders_may_grow or not before or identities(before) != identities(manifest) or not all(
                    video["frames"] and is_complete(root, key, video) for key, video in manifest["videos"].items()):
                with unpacked(sources, out, settings) as folders:
                    write_videos(read_source(settings.dataset, folders), root, manifest, settings)
            manifest["labels"] = write_labels(root, settings, manifest["labels"])
            write_atomic(root / "prepared.json", to_json(manifest))
    except OSError as error:
        there = len(list(root.glob("*/frames/[!.]*")))
        raise UserError(f"{error.filename or root}: {error.strerror or error}; {there} videos are complete and stay, "
                        f"so mend that and run the same command again to go on") from None
    return manifest


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """`root` belongs to this run; UserError when it belongs to another. The lock of a run that was killed is none."""
    path, is_new = root.parent / f".{root.name}.lock", not root.parent.exists()
    root.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is preparing {root}; wait for it") from None
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue                                   # the other run ended, and took its file away, in between
            try:
                yield
            finally:
                path.unlink()
                if is_new:
                    with contextlib.suppress(OSError):     # not empty, as it should be
                        root.parent.rmdir()
            return


# ------------------------------------------------------------------------------------------------ what was made before

def identify(sources: list[Path]) -> list[dict]:
    """What tells one source from another: an archive's content wherever it lies, a folder's place."""
    for path in sources:
        if not path.exists():
            raise UserError(f"--source {path}: no such file or folder")
    return [{"path": str(path.resolve())} | ({} if path.is_dir() else {"fingerprint": fingerprint(path)})
            for path in sources]


def identities(manifest: dict) -> set[str]:
    """One string per source."""
    return {source.get("fingerprint", source["path"]) for source in manifest["source"]}


def read_manifest(root: Path, manifest: dict) -> dict:
    """The prepared.json of an earlier run, {} for a new folder.

    Its "videos" say for "training/01" how many bytes of source it was made from, how many frames it has, and which of
    masks and labels. Raises UserError when `root` is somebody else's, made in another format, or from other sources;
    sources may be added.
    """
    path = root / "prepared.json"
    if not path.exists():
        if root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir()):
            raise UserError(f"{root} exists and was not made by this command; give another --out, or move it away")
        return {}
    try:
        before = json.loads(path.read_text())
        if not identities(before) <= identities(manifest):
            how = f"from {', '.join(source['path'] for source in before['source'])}"
        elif before["format"] != manifest["format"]:
            how = f"with --format {before['format']}"
        else:
            return before
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); delete {root} and prepare it again") from None
    raise UserError(f"{root} was prepared {how}; give that again, or another --out, or delete {root} first")


def is_complete(root: Path, key: str, video: dict) -> bool:
    """Whether a video is there with all its frames, and with what is known of its truth."""
    split, name = key.split("/")
    frames, truth = root / split / "frames" / name, {"masks": f"masks/{name}", "labels": f"labels/{name}.npy"}
    return frames.is_dir() and video["frames"] in (None, count_files(frames)) and \
        all((root / split / truth[kind]).exists() for kind in video["truth"])


@contextlib.contextmanager
def unpacked(sources: list[Path], out: Path, settings: Settings) -> Iterator[list[Path]]:
    """The sources as folders; archives are unpacked into `<out>/.unpacked` until the videos are written.

    After an interruption or with a full disk they stay there, to go on with.
    """
    dataset, name = settings.dataset, settings.name
    folders = [path if path.is_dir() else out / ".unpacked" / f"{name}-{fingerprint(path)}" for path in sources]
    going_on = False
    try:
        for path, folder in zip(sources, folders):
            if not folder.exists():
                unpack(path, folder, lambda member: wanted(dataset, member), LARGEST_OF.get(dataset, LARGEST))
        yield folders
    except (OSError, KeyboardInterrupt):
        going_on = True
        raise
    finally:
        for path, folder in zip(sources, folders):
            if path != folder and not going_on:
                shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (out / ".unpacked").rmdir()


# ---------------------------------------------------------------------------------------------------------- all videos

def write_videos(videos: list[SourceVideo], root: Path, manifest: dict, settings: Settings) -> None:
    """Write the videos that are not there yet, on all cores; keeps `manifest["videos"]` and prepared.json up to date.

    A video that fails does not keep the others from being written; one UserError comes at the end.
    """
    if parts := missing(settings.dataset, videos):
        warnings.warn(f"{settings.dataset} is incomplete: {'; '.join(parts)}; what is there is prepared, but results "
                      f"will not compare with published ones", stacklevel=2)
    if not (pending := to_do(videos, root, manifest["videos"])):
        return
    failures, stop, lock = [], threading.Event(), threading.Lock()
    with ThreadPoolExecutor(settings.workers) as pool:     # OpenCV gives Python's lock away while it works
        headers = list(pool.map(lambda video: probe(video, settings.format), pending))
        if len(pending) == len(videos):
            check_own_labels(videos, headers, settings)
        check_free(root, MARGIN * sum(header.bytes for header in headers), f"preparing {settings.name}",
                   ", or --format jpg, which needs less" if settings.format == "png" else "")
        write_atomic(root / "prepared.json", to_json(manifest))
        with progress(f"prepare {settings.name}", sum(header.frames for header in headers), "frames") as bar:

            def tick() -> None:
                if stop.is_set():
                    raise Stopped
                with lock:
                    bar.update()

            try:
                futures = {pool.submit(write_video, video, header, root, settings.format, tick): video
                           for video, header in zip(pending, headers)}
                for future in as_completed(futures):
                    video = futures[future]
                    try:
                        manifest["videos"][key_of(video)]["frames"], remark = future.result()
                    except UserError as error:
                        failures.append(f"{video.split} {video.name}: {error}")
                    else:
                        if remark:
                            warnings.warn(f"{video.split} {video.name}: {remark}", stacklevel=2)
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
                write_atomic(root / "prepared.json", to_json(manifest))
    for failure in failures[1:]:
        warnings.warn(failure, stacklevel=2)
    if failures:
        raise UserError(f"{failures[0]}{f' ({len(failures)} videos failed in all)' * (len(failures) > 1)}; "
                        f"{len(videos) - len(failures)} videos are complete and stay, so mend that and run the same "
                        f"command again")


def key_of(video: SourceVideo) -> str:
    """Its name in prepared.json."""
    return f"{video.split}/{video.name}"


def to_do(videos: list[SourceVideo], root: Path, before: dict[str, dict]) -> list[SourceVideo]:
    """The videos that are not complete yet; `before` then lists all. UserError when one was made from another file."""
    pending = []
    for video in videos:
        key, size = key_of(video), sum(path.stat().st_size for path in video.files())
        old = before.get(key)
        truth = ["masks", "labels"] if video.masks else ["labels"] if video.labels is not None else []
        entry = {"bytes": size, "frames": old["frames"] if old else None, "truth": truth}
        if old is None or not is_complete(root, key, entry):
            pending.append(video)
            entry["frames"] = None                         # not known before all of it is decoded
        elif old["bytes"] == size:
            entry["frames"] = count_files(root / video.split / "frames" / video.name)
        else:
            raise UserError(f"{root / video.split / 'frames' / video.name} was prepared from {old['bytes']} bytes, and "
                            f"{video.files()[0]} and its like now hold {size}; delete that folder to prepare it again, "
                            f"or give another --out")
        before[key] = entry
    return pending


def missing(dataset: str, videos: list[SourceVideo]) -> list[str]:
    """What a published data set has and this source has not, in words."""
    benchmark, parts = BENCHMARKS.get(dataset), []
    for split in ("training", "testing") if benchmark else ():
        here = {video.name: video for video in videos if video.split == split}
        count = (benchmark.train if split == "training" else benchmark.test)[0]
        if not all(name.isdigit() for name in here):                       # names that do not follow from their number
            if len(here) != count:
                parts.append(f"{len(here)} of {count} {split} videos")
        elif lost := [number for number in range(1, count + 1) if f"{number:02d}" not in here]:
            parts.append(f"no {split} videos {in_words(lost)}")
        parts += [f"{split} {name} has {here[name].length} of {length} frames"
                  for name, length in known_lengths(dataset, split).items()
                  if name in here and here[name].length not in (None, length)]
        if split == "testing" and dataset != "ped1" and \
                (bare := [video.name for video in here.values() if video.masks is None]):  # of Ped1 only ten have masks
            parts.append(f"no masks for testing {', '.join(bare[:5])}{' ...' * (len(bare) > 5)}")
    return parts


def in_words(numbers: list[int]) -> str:
    """[1, 2, 3, 7] -> "01-03, 07"."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first:02d}-{last:02d}" if last > first else f"{first:02d}" for first, last in runs)


# -------------------------------------------------------------------------------------------------------------- labels

def check_own_labels(videos: list[SourceVideo], headers: list[Header], settings: Settings) -> None:
    """Read the label file of own videos before hours are spent, as far as the headers tell how long the videos are."""
    tests = [Video(video.name, header.frames * ("",)) for video, header in zip(videos, headers)
             if video.split == "testing"]
    if settings.labels and tests and all(video.frames for video in tests):
        load_labels(settings.labels, tests)


def write_labels(root: Path, settings: Settings, before: str | None) -> str | None:
    """Write the labels of the test videos that are there; returns whose they are, None when there are none.

    `before`: what an earlier run returned.
    """
    folder = root / "testing" / "frames"
    if not folder.is_dir():
        return None
    videos = index_videos(folder)
    own = [root / "testing" / "labels" / f"{video.name}.npy" for video in videos]
    truths = BENCHMARKS[settings.dataset].truths if settings.dataset in BENCHMARKS else {}
    source = next(iter(truths), "official") if settings.label_source == "auto" else settings.label_source
    if settings.dataset not in BENCHMARKS:                 # nobody publishes any
        source = before or "your own"
    together, labels = root / f"frame_labels_{settings.name}.npy", None
    if settings.labels:
        labels, source = load_labels(settings.labels, videos), str(settings.labels)
    elif source in truths:
        try:
            labels = load_labels(truths[source], videos)
        except UserError as error:                         # not the published videos
            if settings.label_source == "ano_pred":
                raise
            if source != "official":
                warnings.warn(f"{error}; the source's own labels are used", stacklevel=2)
            source = "official"
    if labels is None and all(path.exists() for path in own):
        labels = [np.load(path) for path in own]
    if labels is None:
        together.unlink(missing_ok=True)                   # those of fewer or other videos
        lost = [video.name for video, path in zip(videos, own) if not path.exists()]
        warnings.warn(f"no labels for testing {', '.join(lost[:5])}{' ...' * (len(lost) > 5)}; evaluate.py will need "
                      f"--labels FILE", stacklevel=2)
        return None
    for path, array in zip(own, labels):
        save_array(path, array)
    save_array(together, np.concatenate(labels))
    return source
