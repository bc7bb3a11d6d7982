"""Downloads over a real server on this machine, which cuts and refuses; archives that are damaged or hostile."""

import hashlib
import io
import os
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lgn_net.data import archives
from lgn_net.data.archives import download, unpack
from lgn_net.datasets.common import Archive
from lgn_net.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every address; what goes wrong is set by the attributes. `requests` has the Range headers."""

    ranges, cut, status, content = True, None, 200, CONTENT

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.address = [], f"http://127.0.0.1:{self.server_port}/folder"
        self.archive = Archive(f"{self.address}/data.zip", hashlib.sha256(CONTENT).hexdigest())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        body = server.content[start:]
        self.send_response(416 if not body else 206 if start and server.status == 200 else server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:server.cut] if server.status == 200 else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(archives.time, "sleep", lambda seconds: None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("have", "cut", "ranges", "requests"), [
    (0, None, True, [None]),
    (0, 1_300_000, True, [None, "bytes=1300000-", "bytes=2600000-"]),
    (3_000_000, None, True, ["bytes=3000000-"]),                                  # nothing is missing but the check
    (2_000_000, None, False, ["bytes=2000000-"]),                                 # the server starts again
])
def test_download(server, tmp_path, have, cut, ranges, requests):
    """Whole or resumed, also from a mirror; asked for only once."""
    server.cut, server.ranges = cut, ranges
    if have:
        (tmp_path / "data.zip.part").write_bytes(CONTENT[:have])
    path = download(server.archive, tmp_path)
    assert path == tmp_path / "data.zip" and path.read_bytes() == CONTENT and os.listdir(tmp_path) == ["data.zip"]
    assert download(server.archive, tmp_path) == path and server.requests == requests
    moved = Archive("http://gone.invalid/data.zip", server.archive.sha256)
    assert download(moved, tmp_path / "mirror", f"{server.address}/").read_bytes() == CONTENT


@pytest.mark.parametrize(("attributes", "match", "kept"), [
    ({"cut": 0}, "the connection was cut; what has arrived is kept: run the same command again", 500_000),
    ({"status": 404}, "404.*give it with --source", 500_000),
    ({"content": CONTENT[:-1] + b"?"}, "data.zip is not the published file", None)])
def test_server_that_fails(server, tmp_path, attributes, match, kept):
    """What arrived is kept, unless the checksum is another one."""
    vars(server).update(attributes)
    part = tmp_path / "data.zip.part"
    part.write_bytes(CONTENT[:500_000])
    with pytest.raises(UserError, match=match):
        download(server.archive, tmp_path)
    assert (part.stat().st_size if part.exists() else None) == kept and not (tmp_path / "data.zip").exists()


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
