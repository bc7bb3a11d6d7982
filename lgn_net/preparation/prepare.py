"""From what publishers hand out to folders of frames that train.py and evaluate.py read.

    <out>/<dataset>/{training,testing}/frames/<video>/000.png     every frame, in order, from 0
    <out>/<dataset>/testing/masks/<video>/000.png                 0 normal, 255 abnormal, where there are masks
    <out>/<dataset>/testing/labels/<video>.npy                    uint8 (T,), 1 abnormal
    <out>/<dataset>/frame_labels_<dataset>.npy                    the same of all test videos in order
    <out>/<dataset>/prepared.json                                 from what, in which format, how many frames

What is complete stays, and is not made again.
"""

import contextlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from lgn_net.data.labels import find_labels, load_labels
from lgn_net.data.videos import index_videos
from lgn_net.datasets import BENCHMARKS, Layout, SourceVideo, layout_of, truths_of
from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic
from lgn_net.preparation.archives import check_free, fingerprint, some, unpack
from lgn_net.preparation.extract import count_files, probe, save_array, write_video
from lgn_net.preparation.sources import read_source
from lgn_net.terminal import progress

MARGIN = 1.1                   # of free disk over the size that the first frames of the videos promise


class Settings(NamedTuple):
    """What to make of a source."""

    dataset: str
    name: str                                  # of the folder in `out`: that of the data set, or the user's own
    format: Literal["png", "jpg"] = "png"
    label_source: Literal["auto", "official", "ano_pred"] = "auto"
    labels: Path | None = None                 # a label file, for own videos


class Stopped(Exception):
    """Another video met a full disk, or the user pressed Ctrl-C."""


def prepare(sources: list[Path], out: Path, settings: Settings) -> dict[str, Any]:
    """Make `<out>/<name>` from archives or folders.

    Returns:
        The content of its prepared.json. "videos" says for "training/01" how many bytes of source it was made from,
        how many frames it has (None: not written yet), and whether masks and labels belong to it.

    Raises:
        UserError: a source is damaged or does not fit on the disk, `<out>/<name>` was made from another one, or another
            run makes it now. Complete videos stay in any case; the same command goes on from there.
    """
    root = out / settings.name
    if settings.label_source == "ano_pred":
        find_labels(out, settings.dataset, root, "ano_pred")                     # UserError where there are none
    manifest: dict[str, Any] = {"dataset": settings.dataset, "format": settings.format, "source": identify(sources)}
    try:
        with locked(root):
            before = read_manifest(root, manifest)
            manifest |= {"videos": before.get("videos", {}), "labels": before.get("labels")}
            is_complete = before and identities(before) == identities(manifest) and all(
                has_all(root, key, video) for key, video in manifest["videos"].items())
            if not is_complete or any(path.is_dir() for path in sources):        # folders may have grown
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
    """Keep other runs from preparing `root`. Raise UserError when another run does so now."""
    lock = FileLock(root.parent / f".{root.name}.lock", timeout=0)
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock:
            try:
                yield
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"another run is preparing {root}; wait for it") from None


def identify(sources: list[Path]) -> list[dict[str, str]]:
    """Describe the sources by what tells one from another: an archive's content, a folder's place."""
    for path in sources:
        if not path.exists():
            raise UserError(f"--source {path}: no such file or folder")
    return [{"path": str(path.resolve())} | ({} if path.is_dir() else {"fingerprint": fingerprint(path)})
            for path in sources]


def identities(manifest: dict[str, Any]) -> set[str]:
    """Return one string per source."""
    return {source.get("fingerprint", source["path"]) for source in manifest["source"]}


def read_manifest(root: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Read the prepared.json of an earlier run; {} for a new folder. Sources may be added.

    Raises:
        UserError: `root` was made by something else, in another format, or from other sources.
    """
    path = root / "prepared.json"
    if not path.exists():
        if root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir()):
            raise UserError(f"{root} exists and was not made by this command; give another --out, or move it away")
        return {}
    before = json.loads(path.read_text())
    if not identities(before) <= identities(manifest):
        how = f"from {', '.join(source['path'] for source in before['source'])}"
    elif before["format"] != manifest["format"]:
        how = f"with --format {before['format']}"
    else:
        return before
    raise UserError(f"{root} was prepared {how}; give that again, or another --out, or delete {root} first")


def has_all(root: Path, key: str, video: dict[str, Any]) -> bool:
    """Tell whether a video has all its frames, and the masks and labels that belong to it."""
    split, name = key.split("/")
    frames, truth = root / split / "frames" / name, {"masks": f"masks/{name}", "labels": f"labels/{name}.npy"}
    return video["frames"] is not None and frames.is_dir() and video["frames"] == count_files(frames) and \
        all((root / split / truth[kind]).exists() for kind in video["truth"])


@contextlib.contextmanager
def unpacked(sources: list[Path], out: Path, settings: Settings) -> Iterator[list[Path]]:
    """Offer the sources as folders; archives are unpacked into `<out>/.unpacked` until the videos are written.

    After an interruption or with a full disk they stay there, to go on with.
    """
    layout = layout_of(settings.dataset)
    archives = {path: out / ".unpacked" / f"{settings.name}-{fingerprint(path)}"
                for path in sources if not path.is_dir()}
    going_on = False
    try:
        for path, folder in archives.items():
            if not folder.exists():
                unpack(path, folder, lambda member: is_wanted(layout, member))
        yield [archives.get(path, path) for path in sources]
    except (OSError, KeyboardInterrupt):
        going_on = True
        raise
    finally:
        for folder in () if going_on else archives.values():
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (out / ".unpacked").rmdir()


def is_wanted(layout: Layout, member: str) -> bool:
    """Tell whether a file of an archive belongs to the data set, by its path in the archive."""
    path = PurePosixPath("/", member.lower())
    if any(part.startswith((".", "__macosx")) for part in path.parts) or fnmatch(str(path), layout.skip):
        return False
    return any(fnmatch(str(path), pattern) for pattern in layout.files)


def write_videos(videos: list[SourceVideo], root: Path, manifest: dict[str, Any], settings: Settings) -> None:
    """Write the videos that are not there yet, on all cores; keep `manifest["videos"]` and prepared.json up to date.

    A video that fails does not keep the others from being written. One UserError is raised at the end.
    """
    if parts := missing(settings.dataset, videos):
        warnings.warn(f"{settings.dataset} is incomplete: {'; '.join(parts)}; what is there is prepared, but results "
                      f"will not compare with published ones")
    if not (pending := to_do(videos, root, manifest["videos"])):
        return
    failures: list[str] = []
    stop, lock = threading.Event(), threading.Lock()
    with ThreadPoolExecutor(os.cpu_count()) as pool:     # decoders release Python's lock while they work
        # What can be known from the headers is checked before hours are spent.
        headers = list(pool.map(lambda video: probe(video, settings.format), pending))
        lengths = {video.name: header.frames for video, header in zip(pending, headers) if video.split == "testing"}
        if settings.labels and len(pending) == len(videos) and lengths and all(lengths.values()):
            load_labels(settings.labels, lengths)
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
                        manifest["videos"][video.key]["frames"], remark = future.result()
                    except UserError as error:
                        failures.append(f"{video.split} {video.name}: {error}")
                    else:
                        if remark:
                            warnings.warn(f"{video.split} {video.name}: {remark}")
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
                write_atomic(root / "prepared.json", to_json(manifest))
    for failure in failures[1:]:
        warnings.warn(failure)
    if failures:
        raise UserError(f"{failures[0]}{f' ({len(failures)} videos failed in all)' * (len(failures) > 1)}; "
                        f"{len(videos) - len(failures)} videos are complete and stay, so mend that and run the same "
                        f"command again")


def to_do(videos: list[SourceVideo], root: Path, entries: dict[str, dict[str, Any]]) -> list[SourceVideo]:
    """List the videos that are not complete yet, and enter all of them in `entries`.

    Raise UserError when a complete one was made from another file.
    """
    pending = []
    for video in videos:
        size, folder = sum(path.stat().st_size for path in video.files()), root / video.split / "frames" / video.name
        truth = ["masks", "labels"] if video.masks else ["labels"] if video.labels is not None else []
        old = entries.get(video.key)
        # A run that was killed could not say how many frames a complete video has.
        frames = count_files(folder) if old and old["frames"] is None and folder.is_dir() else old and old["frames"]
        entries[video.key] = {"bytes": size, "frames": frames, "truth": truth}
        if not old or not has_all(root, video.key, entries[video.key]):
            pending.append(video)
            entries[video.key]["frames"] = None
        elif old["bytes"] != size:
            raise UserError(f"{folder} was prepared from {old['bytes']} bytes, and {video.files()[0]} and its like now "
                            f"hold {size}; delete that folder to prepare it again, or give another --out")
    return pending


def missing(dataset: str, videos: list[SourceVideo]) -> list[str]:
    """Say in words what a published data set has and this source lacks."""
    if dataset not in BENCHMARKS:
        return []
    benchmark, parts = BENCHMARKS[dataset], []
    for split in ("training", "testing"):
        here = {video.name: video for video in videos if video.split == split}
        (count, _), lengths = benchmark.split(split)
        if not lengths and len(here) != count:
            parts.append(f"{len(here)} of {count} {split} videos")
        if lost := [name for name in lengths if name not in here]:
            parts.append(f"no {split} videos {some(lost)}")
        parts += [f"{split} {name} has {here[name].length} of {length} frames" for name, length in lengths.items()
                  if length and name in here and here[name].length not in (None, length)]
        if split == "testing" and benchmark.layout.every_mask and \
                (bare := [video.name for video in here.values() if video.masks is None]):
            parts.append(f"no masks for testing {some(bare)}")
    return parts


def write_labels(root: Path, settings: Settings, before: str | None) -> str | None:
    """Write the labels of the test videos that are there.

    Args:
        root: folder of the data set.
        settings: whose labels are wanted.
        before: what an earlier run returned.

    Returns:
        Whose labels these are; None when there are none.
    """
    folder = root / "testing" / "frames"
    if not folder.is_dir():
        return None
    lengths = {video.name: len(video.frames) for video in index_videos(folder)}
    own = {name: root / "testing" / "labels" / f"{name}.npy" for name in lengths}
    together, labels = root / f"frame_labels_{settings.name}.npy", None
    truths = truths_of(settings.dataset)
    source = next(iter(truths), "official") if settings.label_source == "auto" else settings.label_source
    if settings.dataset not in BENCHMARKS:                 # nobody publishes any
        source = before or "your own"

    # The user's file comes first, then the labels that ship, then those that came with the source.
    if settings.labels:
        labels, source = load_labels(settings.labels, lengths), str(settings.labels)
    elif source in truths:
        try:
            labels = load_labels(truths[source], lengths)
        except UserError as error:                         # not the published videos
            if settings.label_source == "ano_pred":
                raise
            if source != "official":
                warnings.warn(f"{error}; the source's own labels are used")
            source = "official"
    if labels is None and all(path.exists() for path in own.values()):
        labels = {name: np.load(path) for name, path in own.items()}
    if labels is None:
        together.unlink(missing_ok=True)                   # those of fewer or other videos
        lost = [name for name, path in own.items() if not path.exists()]
        warnings.warn(f"no labels for testing {some(lost)}; evaluate.py will need --labels FILE")
        return None
    for name, array in labels.items():
        save_array(own[name], array)
    save_array(together, np.concatenate(list(labels.values())))
    return source
