"""From what publishers hand out to folders of frames that train.py and evaluate.py read.

    <out>/<dataset>/{training,testing}/frames/<video>/000.png     every frame, in order, from 0
    <out>/<dataset>/testing/masks/<video>/000.png                 0 normal, 255 abnormal, where there are masks
    <out>/<dataset>/testing/labels/<video>.npy                    uint8 (T,), 1 abnormal
    <out>/<dataset>/frame_labels_<dataset>.npy                    the same of all test videos in order
    <out>/<dataset>/prepared.json                                 from what, in which format, how many frames

What is complete stays, and is not made again. prepared.json says for each video how many bytes of source it was made
from, how many frames it has (null: not complete), and whether masks and labels belong to it.
"""

import json
import os
import shutil
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import filelock
import numpy as np

from lgn_net.data.labels import find_labels, load_labels
from lgn_net.data.videos import image_names, index_videos
from lgn_net.datasets import difference_from_published, facts_of
from lgn_net.datasets.common import Layout, SourceVideo
from lgn_net.errors import UserError
from lgn_net.files import locked, to_json, write_atomic
from lgn_net.preparation.archives import check_free, fingerprint, some, unpack
from lgn_net.preparation.extract import probe, save_array, write_video
from lgn_net.terminal import progress

MARGIN = 1.1                   # of free disk over the size that the first frames of the videos promise


class Settings(NamedTuple):
    """What to make of a source."""

    dataset: str
    name: str                                  # of the folder in `out`: that of the data set, or the user's own
    format: Literal["png", "jpg"] = "png"
    label_source: Literal["auto", "official", "ano_pred"] = "auto"
    labels: Path | None = None                 # a label file, for own videos


def prepare(sources: list[Path], out: Path, settings: Settings) -> dict[str, Any]:
    """Make `<out>/<name>` from archives or folders, and return the content of its prepared.json.

    UserError when a source is damaged or does not fit on the disk, when `<out>/<name>` was made from another one, or
    when another run makes it now. Complete videos stay in any case; the same command goes on from there.
    """
    root, archives = out / settings.name, out / f".{settings.name}.unpacked"
    if settings.label_source == "ano_pred":
        find_labels(out, settings.dataset, root, "ano_pred")                     # UserError where there are none
    # What tells one source from another: an archive's content, a folder's place.
    manifest: dict[str, Any] = {"dataset": settings.dataset, "format": settings.format, "source": [
        {"path": str(path.resolve())} | ({} if path.is_dir() else {"fingerprint": fingerprint(path)})
        for path in sources], "videos": {}, "labels": None}
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / f".{settings.name}.lock", timeout=0):
            before = read_manifest(root, manifest)
            manifest |= {"videos": before["videos"], "labels": before["labels"]}
            if identities(before) != identities(manifest) or any(path.is_dir() for path in sources) or \
                    not all(has_all(root, key, video) for key, video in manifest["videos"].items()):
                layout = facts_of(settings.dataset).layout
                write_videos(read_source(layout, [unpacked(path, archives, layout) for path in sources]), root,
                             manifest, settings)
                shutil.rmtree(archives, ignore_errors=True)
            manifest["labels"] = write_labels(root, settings, manifest["labels"])
            write_atomic(root / "prepared.json", to_json(manifest))
    except filelock.Timeout:
        raise UserError(f"another run is preparing {root}; wait for it") from None
    for split in ("training", "testing"):
        lengths = [video["frames"] for key, video in manifest["videos"].items() if key.startswith(split)]
        if note := difference_from_published(settings.dataset, split, lengths):
            warnings.warn(note)
    return manifest


def identities(manifest: dict[str, Any]) -> set[str]:
    """Return one string per source."""
    return {source.get("fingerprint", source["path"]) for source in manifest["source"]}


def read_manifest(root: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Read the prepared.json of an earlier run; that of a new folder has no source. Sources may be added.

    UserError when `root` was made by something else, in another format, or from other sources.
    """
    path = root / "prepared.json"
    if not path.exists():
        if root.exists() and any(root.iterdir()):
            raise UserError(f"{root} exists and was not made by this command; give another --out, or move it away")
        return manifest | {"source": []}
    before = json.loads(path.read_text())
    if before["format"] != manifest["format"] or not identities(before) <= identities(manifest):
        raise UserError(f"{root} was prepared with --format {before['format']} from "
                        f"{', '.join(source['path'] for source in before['source'])}; give that again, or another "
                        f"--out, or delete {root} first")
    return before


def has_all(root: Path, key: str, video: dict[str, Any]) -> bool:
    """Tell whether a video has all its frames, and the masks and labels that belong to it."""
    split, name = key.split("/")
    paths = {kind: root / split / kind / name for kind in ("frames", "masks", "labels")}
    return paths["frames"].is_dir() and len(image_names(paths["frames"])) == video["frames"] and \
        all(paths[kind].exists() or paths[kind].with_name(f"{name}.npy").exists() for kind in video["truth"])


def unpacked(source: Path, archives: Path, layout: Layout) -> Path:
    """Return a source as a folder. An archive's stays below `archives` until all videos are written."""
    if source.is_dir():
        return source

    def is_wanted(member: str) -> bool:
        path = PurePosixPath("/", member.lower())
        return not any(part.startswith((".", "__macosx")) for part in path.parts) and \
            any(fnmatchcase(str(path), pattern) for pattern in layout.files)

    folder = archives / fingerprint(source)
    if not folder.exists():
        unpack(source, folder, is_wanted)
    return folder


def read_source(layout: Layout, roots: list[Path]) -> list[SourceVideo]:
    """List the videos in the given folders. UserError when there is none, or when two have one name."""
    videos = list(layout.videos(roots))
    double = [key for key, number in Counter(video.key for video in videos).items() if number > 1]
    if double or not videos:
        raise UserError(f"{len(videos)} videos in {', '.join(map(str, roots))}, of one name: {some(double) or '-'}; "
                        f"expected {layout.expected}")
    return videos


def write_videos(videos: list[SourceVideo], root: Path, manifest: dict[str, Any], settings: Settings) -> None:
    """Write the videos that are not complete or whose source has changed, on all cores; keep `manifest` up to date.

    A video that fails does not keep the others from being written. One UserError is raised at the end.
    """
    pending, entries = [], manifest["videos"]
    for video in videos:
        entry = {"bytes": sum(path.stat().st_size for path in video.files), "frames": None,
                 "truth": ["masks", "labels"] if video.masks else ["labels"] if video.labels is not None else []}
        old = entries.get(video.key, entry)
        if old["bytes"] != entry["bytes"] or not has_all(root, video.key, entry | {"frames": old["frames"]}):
            pending.append(video)
            entries[video.key] = entry
    failures: list[str] = []
    stop = threading.Event()
    with ThreadPoolExecutor(os.cpu_count()) as pool:     # decoders release Python's lock while they work
        # What can be known from the headers is checked before hours are spent.
        headers = list(pool.map(lambda video: probe(video, settings.format), pending))
        check_free(root, MARGIN * sum(size for _, size in headers), f"preparing {settings.name} as {settings.format}")
        write_atomic(root / "prepared.json", to_json(manifest))
        with progress(f"prepare {settings.name}", sum(frames for frames, _ in headers), "frames") as bar:

            def tick() -> None:
                if stop.is_set():                        # another video met a full disk, or the user pressed Ctrl-C
                    raise KeyboardInterrupt
                bar.update()

            try:
                futures = {pool.submit(write_video, video, frames, root, settings.format, tick): video.key
                           for video, (frames, _) in zip(pending, headers)}
                for future in as_completed(futures):
                    try:
                        entries[futures[future]]["frames"] = future.result()
                        write_atomic(root / "prepared.json", to_json(manifest))
                    except UserError as error:
                        failures.append(f"{futures[future]}: {error}")
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
    for failure in failures[1:]:
        warnings.warn(failure)
    if failures:
        raise UserError(f"{failures[0]}; {len(videos) - len(failures)} of {len(videos)} videos are complete and stay, "
                        f"so mend that and run the same command again")


def write_labels(root: Path, settings: Settings, before: str | None) -> str | None:
    """Write the labels of the test videos that are there; return whose they are, None when there are none.

    The user's file comes first, then the labels that ship, then those that came with the source. `before` is what an
    earlier run returned.
    """
    folder, together = root / "testing" / "frames", root / f"frame_labels_{settings.name}.npy"
    if not folder.is_dir():
        return None
    lengths = {video.name: len(video.frames) for video in index_videos(folder)}
    own = {name: root / "testing" / "labels" / f"{name}.npy" for name in lengths}
    truths = facts_of(settings.dataset).truths
    source = next(iter(truths), "") if settings.label_source == "auto" else settings.label_source
    try:
        labels = load_labels(settings.labels or truths[source], lengths)
        source = str(settings.labels or source)
    except (UserError, KeyError) as error:                 # not the published videos, or no labels of them
        if settings.labels or source == "ano_pred" == settings.label_source:
            raise
        if source == "ano_pred":
            warnings.warn(f"{error}; the source's own labels are used")
        if lost := [name for name, path in own.items() if not path.exists()]:
            together.unlink(missing_ok=True)               # those of fewer or other videos
            warnings.warn(f"no labels for testing {some(lost)}; evaluate.py will need --labels FILE")
            return None
        labels = {name: np.load(path) for name, path in own.items()}
        source = before or "your own" if settings.dataset == "custom" else "official"
    for name, array in labels.items():
        save_array(own[name], array)
    save_array(together, np.concatenate(list(labels.values())))
    return source
