"""Downloads over a real server on this machine, which cuts, lies and refuses; archives that are damaged or hostile."""

import gzip
import hashlib
import io
import os
import re
import struct
import subprocess
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lgn_net.datasets import Archive
from lgn_net.errors import UserError
from lgn_net.preparation import archives
from lgn_net.preparation.archives import download, unpack

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every address; what goes wrong is set by the attributes. `requests` has the Range headers."""

    ranges, length, cut, status, html, content = True, True, None, 200, False, CONTENT

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []

    @property
    def archive(self) -> Archive:
        return Archive(f"http://127.0.0.1:{self.server_port}/folder/data.zip", hashlib.sha256(CONTENT).hexdigest())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        if server.status != 200:
            return self.send_error(server.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return None
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if server.html else "application/zip")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        self.wfile.write(body if server.cut is None else body[:server.cut])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(archives.time, "sleep", lambda seconds: None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, and a function that gives it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_download_and_again_without_asking(server, tmp_path):
    path = download(server.archive, tmp_path / "new")
    assert path == tmp_path / "new" / "data.zip" and path.read_bytes() == CONTENT
    assert download(server.archive, tmp_path / "new") == path and server.requests == [None]
    assert os.listdir(path.parent) == ["data.zip"]
    mirror = f"http://127.0.0.1:{server.server_port}/elsewhere/"
    moved = Archive("http://gone.invalid/data.zip", server.archive.sha256)
    assert download(moved, tmp_path / "mirror", mirror).read_bytes() == CONTENT


def test_cut_connections_are_resumed(server, tmp_path):
    server.cut = 1_300_000
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1300000-", "bytes=2600000-"]


def test_a_part_of_an_earlier_run_is_resumed(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:2_000_000])
    assert download(server.archive, tmp_path).read_bytes() == CONTENT and server.requests == ["bytes=2000000-"]
    (tmp_path / "data.zip").rename(tmp_path / "data.zip.part")                      # nothing is missing but the check
    assert download(server.archive, tmp_path).read_bytes() == CONTENT and server.requests[1:] == ["bytes=3000000-"]


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT + b"of another file")
    assert download(server.archive, tmp_path).read_bytes() == CONTENT and server.requests == ["bytes=3000015-", None]


def test_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:2_000_000])
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_connection_that_never_comes_back(server, tmp_path):
    server.cut = 0
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:500_000])
    with pytest.raises(UserError, match=r"cut after 0\.5 MB of 3\.0 MB; run the same command again to go on"):
        download(server.archive, tmp_path)
    assert len(server.requests) == archives.ATTEMPTS and (tmp_path / "data.zip.part").stat().st_size == 500_000
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"no connection .*refused.*, 0\.5 MB have arrived; run the same command again"):
        download(server.archive, tmp_path)


def test_wrong_checksum(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(UserError, match=r"sha256 .*, the published file .*; it was removed, so run the same command"):
        download(server.archive, tmp_path)
    assert os.listdir(tmp_path) == []
    (tmp_path / "data.zip").write_bytes(b"the user's own")
    with pytest.raises(UserError, match="data.zip is not the published file"):
        download(server.archive, tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == b"the user's own"


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (503, archives.ATTEMPTS)])
def test_server_refuses(server, tmp_path, status, requests):
    server.status = status
    with pytest.raises(UserError, match=rf"data.zip: the server answers {status} .*give it with --source"):
        download(server.archive, tmp_path)
    assert len(server.requests) == requests and os.listdir(tmp_path) == []


def test_web_page_instead_of_an_archive(server, tmp_path):
    server.html = True
    with pytest.raises(UserError, match="gives a web page, not an archive; get the archive in a browser"):
        download(server.archive, tmp_path)


def test_full_disk(server, small_disk):
    disk, resize = small_disk
    with pytest.raises(UserError, match=r"downloading http.*zip needs 3\.0 MB, and 1\.0 MB are free in .*disk"):
        download(server.archive, disk)
    server.length = False  # the server does not say how much comes
    with pytest.raises(UserError, match=r"No space left on device; 1\.0 MB have arrived and are kept"):
        download(server.archive, disk)
    resize("8m")
    assert download(server.archive, disk).read_bytes() == CONTENT and server.requests[2].startswith("bytes=1")


# --------------------------------------------------------------------------------------------------------- unpacking

def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w:gz", **options) as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_tar], ids=["zip", "tar.gz"])
FILES = {"data/a.avi": CONTENT[:70_000], "data/b.avi": CONTENT[:80_000], "data/readme.txt": CONTENT[:60_000]}


def is_video(path):
    return path.suffix == ".avi"


def refused(archive: Path, match: str, **options) -> None:
    """Unpacking ends with a sentence, and leaves nothing behind."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(UserError, match=match):
        unpack(archive, archive.parent / "unpacked", is_video, **options)
    assert sorted(archive.parent.rglob("*")) == before


@WRITERS
def test_unpack_what_is_wanted(write, tmp_path):
    unpack(write(tmp_path / "wrongly_named", FILES), tmp_path / "to", is_video)
    assert {p.name: p.read_bytes() for p in (tmp_path / "to").rglob("*.*")} == {
        "a.avi": FILES["data/a.avi"], "b.avi": FILES["data/b.avi"]}
    assert not list(tmp_path.glob("*.part"))


@WRITERS
@pytest.mark.parametrize("name", ["../evil.avi", "data/../../evil.avi", "/evil.avi", "..\\evil.avi", "C:\\evil.avi",
                                  "../evil"])
def test_no_way_out_of_the_folder(write, name, tmp_path):
    (tmp_path / "inner").mkdir()
    refused(write(tmp_path / "inner" / "x", FILES | {name: b"evil"}), "leads out of the folder it is unpacked to")
    assert not list(tmp_path.glob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_tar_links_and_devices(kind, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        member = tarfile.TarInfo("data/a.avi")
        member.type, member.linkname = kind, "/etc/passwd"
        file.addfile(member)
    refused(tmp_path / "x.tar", "data/a.avi is a link or device, not a file")


def test_zip_link(tmp_path):
    info = zipfile.ZipInfo("data/a.avi")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    refused(tmp_path / "x.zip", "data/a.avi is a link, not a file")


@WRITERS
def test_bomb(write, tmp_path):
    bomb = write(tmp_path / "bomb", {"data/a.avi": bytes(600_000), "data/b.avi": bytes(600_000)})
    assert bomb.stat().st_size < 3000
    refused(bomb, r"unpacks to more than 1\.0 MB", largest=1_000_000)


def test_bomb_that_declares_its_size(tmp_path):
    member = tarfile.TarInfo("data/a.avi")
    member.size = 2**45
    (tmp_path / "x.tar").write_bytes(member.tobuf() + bytes(10240))
    refused(tmp_path / "x.tar", "unpacks to more than 300.0 GB")
    refused(tmp_path / "x.tar", r"unpacking data/a\.avi .*needs 35,184\.4 GB, and .* are free", largest=2**50)


def test_zip_that_understates_its_size(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"data/a.avi": bytes(5_000_000)})
    data = path.read_bytes()
    assert data.count(struct.pack("<I", 5_000_000)) == 2
    path.write_bytes(data.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1000)))
    refused(path, "damaged or truncated")


@WRITERS
def test_truncated_anywhere(write, tmp_path):
    whole = write(tmp_path / "whole", FILES).read_bytes()
    (tmp_path / "cut").mkdir()
    for length in [len(whole) * i // 17 for i in range(1, 17)] + [len(whole) - 1]:
        path = tmp_path / "cut" / "x"
        path.write_bytes(whole[:length])
        refused(path, "truncated")


def test_plain_tar_cut_between_files(tmp_path):
    write_tar(tmp_path / "whole.tar.gz", FILES)
    data = gzip.decompress((tmp_path / "whole.tar.gz").read_bytes())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x.tar").write_bytes(data[:512 + 70_144])               # a header and the blocks of its file
    refused(tmp_path / "inner" / "x.tar", "damaged or truncated")


def test_flipped_bits(tmp_path):
    for write in (write_zip, write_tar):
        path = write(tmp_path / "x", FILES)
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(data)
        refused(path, "damaged or truncated")


@pytest.mark.parametrize(("content", "match"), [
    (b"\n<!DOCTYPE html><html><head><title>Sign in</title>", "is a web page, no archive"),
    (b"", "is no zip or tar archive: 0 bytes"),
    (b"Rar!\x1a\x07\x00 and so on", "is no zip or tar archive: 17 bytes that begin with b'Rar!"),
])
def test_no_archive(content, match, tmp_path):
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", match)


def test_password(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"data/a.avi": b"secret"})
    data = bytearray(path.read_bytes())
    data[6] |= 1                                                                  # flag in the file's header
    data[data.index(b"PK\x01\x02") + 8] |= 1                                      # and in the table of contents
    path.write_bytes(data)
    refused(path, "is protected by a password; unpack it yourself and give the folder with --source")


def test_name_that_is_not_utf8(tmp_path):
    refused(write_tar(tmp_path / "x.tar.gz", {"caf\xe9.avi": b"x"}, encoding="latin-1", format=tarfile.GNU_FORMAT),
            r"name is not UTF-8, 'caf\\udce9.avi'; rename it")


@WRITERS
def test_archive_of_something_else(write, tmp_path):
    refused(write(tmp_path / "x", {"readme.txt": b"x"}), "holds nothing of this data set")
