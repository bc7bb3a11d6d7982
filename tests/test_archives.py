"""Downloads with their checksum; archives that are damaged or hostile."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lgn_net.data.archives import download, unpack
from lgn_net.datasets.common import Archive
from lgn_net.errors import UserError

CONTENT = np.random.default_rng(0).bytes(210_000)


def test_download(tmp_path):
    """From a mirror, only once; nothing stays of what is another file or does not come."""
    (mirror := tmp_path / "mirror").mkdir()
    (mirror / "data.zip").write_bytes(CONTENT)
    archive = Archive("http://127.0.0.1:9/data.zip", hashlib.sha256(CONTENT).hexdigest())
    path = download(archive, tmp_path / "to", f"{mirror.as_uri()}/")
    assert path == tmp_path / "to/data.zip" and path.read_bytes() == CONTENT and download(archive, path.parent) == path
    (mirror / "data.zip").write_bytes(CONTENT[:-1] + b"?")
    for base, said in (mirror.as_uri(), "hash"), ("", "refused"):
        with pytest.raises(UserError, match=f"data.zip did not give the published file .*{said}"):
            download(archive, tmp_path / "no", base)
        assert not list((tmp_path / "no").iterdir())


# --------------------------------------------------------------------------------------------------------- unpacking

def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz", link: str = "") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), tarfile.SYMTYPE if link else b"0", link
            file.addfile(member, io.BytesIO(content))
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_tar], ids=["zip", "tar.gz"])
FILES = {"data/a.avi": CONTENT[:70_000], "data/b.AVI": CONTENT[:80_000], "data/readme.txt": CONTENT[:60_000],
         "__MACOSX/data/._a.avi": b"x", "data/.c.avi": b"x"}


@WRITERS
def test_unpack_what_is_wanted(write, tmp_path):
    unpack(write(tmp_path / "wrongly_named", FILES), tmp_path / "to", [r"data/b\.avi", r"[^/]+\.avi"])
    assert {p.name: p.read_bytes() for p in (tmp_path / "to").rglob("*.*")} == {
        "a.avi": FILES["data/a.avi"], "b.AVI": FILES["data/b.AVI"]}
    assert not list(tmp_path.glob("*.part"))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    return data


@pytest.mark.parametrize(("make", "match"), [
    (lambda path: write_tar(path, {"data/a.avi": b""}, link="/etc/passwd").read_bytes(), "data/a.avi"),
    (lambda path: flipped(write_zip(path, FILES)), "is damaged"),
    (lambda path: flipped(write_tar(path, FILES)), "is damaged"),
    (lambda path: b"\n<!DOCTYPE html><html>Sign in", "no zip or tar archive"), (lambda path: b"", "no zip or tar"),
    (lambda path: write_zip(path, {"readme.txt": b"x"}).read_bytes(), "holds nothing of this data set"),
    (lambda path: write_zip(path, FILES).read_bytes()[:-9], "truncated"),
    *((lambda path, ninth=n: write_tar(path, FILES).read_bytes()[:ninth * 23_000], "truncated") for n in range(1, 9))])
def test_damaged(make, match, tmp_path):
    """Unpacking ends with a sentence, and leaves nothing behind."""
    (tmp_path / "x.zip").write_bytes(make(tmp_path / "made"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=match):
        unpack(tmp_path / "x.zip", tmp_path / "unpacked", [r"[^/]+\.avi"])
    assert sorted(tmp_path.rglob("*")) == before
