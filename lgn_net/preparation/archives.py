"""Published archives: fetched with resume and checksum, recognised, unpacked so that nothing leaves its folder."""

import errno
import gzip
import hashlib
import http.client
import lzma
import re
import shutil
import stat
import struct
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from lgn_net.datasets import Archive
from lgn_net.errors import UserError
from lgn_net.terminal import progress

CHUNK = 1 << 20
ATTEMPTS = 5                     # in a row without a single new byte, before a download is given up
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
TIMEOUT = 30                     # seconds of silence after which a connection counts as lost
LARGEST = 300 * 10**9            # bytes an archive may unpack to: the largest benchmark is a third of it
LARGEST_OF = {"ped1": 5 * 10**9, "ped2": 5 * 10**9, "avenue": 30 * 10**9}
MOST_FILES = 2_000_000
LARGEST_IMAGE = 50 * 10**6
IMAGE_SUFFIXES = (".tif", ".bmp", ".jpg", ".png")

Wanted = Callable[[PurePosixPath], bool]
# A file in an archive: its path, declared size, content, and how much of the archive is read once it is written.
Member = tuple[PurePosixPath, int, BinaryIO, int]


def megabytes(size: float) -> str:
    """12345678 -> "12.3 MB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def check_free(folder: Path, needed: float, what: str, advice: str = "") -> None:
    """Raise UserError unless `folder` (or the nearest one above it that exists) has `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{what} needs {megabytes(needed)}, and {megabytes(free)} are free in {folder}; free some, or "
                        f"give another --out{advice}")


# ------------------------------------------------------------------------------------------------------- downloading

def download(archive: Archive, folder: Path, base: str = "") -> Path:
    """Fetch an archive into `folder`, going on where an earlier try ended, and check its sha256.

    Args:
        archive: address and checksum.
        folder: gets `<name>`; `<name>.part` until it is complete.
        base: where to fetch it from instead, an address that the file name is appended to.

    Raises:
        UserError: the address gives no archive, the connection is lost again and again, the disk is full, or the
            checksum is another one. What arrived is kept for the next try, except with a wrong checksum of a file
            that is surely complete.
    """
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.exists():
        if (digest := sha256(path)) != archive.sha256:
            raise UserError(f"{path} is not the published file (sha256 {digest[:12]}..., expected "
                            f"{archive.sha256[:12]}...); remove it to download it again, or give it with --source and "
                            f"without --download")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    length_known = fetch(f"{base.rstrip('/')}/{archive.name}" if base else archive.url, part)
    if (digest := sha256(part)) != archive.sha256:
        if not length_known:
            raise UserError(f"{part} has the sha256 {digest[:12]}..., the published file {archive.sha256[:12]}...; the "
                            f"server does not say how long the file is, so these {megabytes(arrived(part))} may be "
                            f"its beginning and are kept: run the same command again to go on, or remove them to "
                            f"start over")
        part.unlink()
        raise UserError(f"{part} has the sha256 {digest[:12]}..., the published file {archive.sha256[:12]}...; it was "
                        f"removed, so run the same command again, or get the archive elsewhere and give it with "
                        f"--source")
    part.rename(path)
    return path


def fetch(url: str, part: Path) -> bool:
    """Download `url` to `part`, appending to what is there; again and again, as long as something new arrives.

    Returns False where the server does not say how long the file is, so that it may have been cut.
    """
    if not re.match("https?://", url):
        raise UserError(f"{url} is no address to download from; it must begin with http:// or https://")
    failures = 0
    while True:
        before = arrived(part)
        try:
            total = fetch_rest(url, part, before)
            if total is None or arrived(part) >= total:
                return total is not None
            reason = f"the connection was cut after {megabytes(arrived(part))} of {megabytes(total)}"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(f"{url}: the server answers {error.code} {error.reason}; get the archive elsewhere and "
                                f"give it with --source") from None
            reason = f"the server answers {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise UserError(f"{part}: {error.strerror}; {megabytes(arrived(part))} have arrived and are kept, so "
                                f"free some space and run the same command again to go on") from None
            reason = f"no connection ({getattr(error, 'reason', error)}), {megabytes(arrived(part))} have arrived"
        except ValueError as error:
            raise UserError(f"{url} is no address to download from ({error})") from None
        failures = 0 if arrived(part) > before else failures + 1
        if failures == ATTEMPTS:
            raise UserError(f"{url}: {reason}; run the same command again to go on, or get the archive elsewhere and "
                            f"give it with --source")
        time.sleep(0.2 * 2**failures)


def arrived(part: Path) -> int:
    """Bytes there so far."""
    return part.stat().st_size if part.exists() else 0


def fetch_rest(url: str, part: Path, have: int) -> int | None:
    """One connection: ask for what is missing and write it until the connection ends.

    Returns the size of the file, None where the server does not say.
    """
    resume = {"Range": f"bytes={have}-"} if have else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "lgn_net"} | resume),
                                          timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if whole and have == int(whole[1]):                # nothing is missing
            return have
        part.unlink()                                      # the beginning of some other file
        return fetch_rest(url, part, 0)
    with response:
        if response.headers.get_content_type() == "text/html":
            raise UserError(f"{url} gives a web page, not an archive; get the archive in a browser and give it with "
                            f"--source")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not span or int(span[1]) != have:
            have = 0                                       # the server sends all of it, whatever was asked for
        length = span[2] if span else response.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch("[0-9]+", length) else None
        check_free(part.parent, (total or 0) - have, f"downloading {url}")
        with part.open("ab" if have else "wb") as file, progress(f"download {part.stem}", total or 0, "B", have) as bar:
            bar.unit_scale = True
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------------------- unpacking

def fingerprint(path: Path) -> str:
    """A short name for an archive's content: hash of its size and of its first and last megabyte."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(CHUNK)
        file.seek(max(0, size - CHUNK))
        return hashlib.sha256(str(size).encode() + head + file.read(CHUNK)).hexdigest()[:16]


def unpack(archive: Path, folder: Path, wanted: Wanted, largest: int = LARGEST) -> None:
    """Unpack the wanted files of a zip or tar archive into `folder`, completely or not at all.

    Only plain files are written, never links, and never outside of `folder`.

    Args:
        archive: .zip, .tar, or a compressed .tar; recognised by content, not by name.
        folder: does not exist yet; `<folder>.part` while it is unfinished.
        wanted: given the path of a file inside the archive.
        largest: bytes it may unpack to in all.

    Raises:
        UserError: no archive, a damaged, truncated or encrypted one, one that leads out of its folder or unpacks to
            more than `largest` or than the disk holds, or one without a single wanted file.
    """
    members = zip_members if is_zip(archive) else tar_members
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    written = files = 0
    try:
        with progress(f"unpack {archive.name}", archive.stat().st_size, "B") as bar:
            bar.unit_scale = True
            for path, declared, stream, position in members(archive, wanted, part):
                files += 1
                check_name(path, archive)
                if written + declared > largest or files > MOST_FILES:
                    raise UserError(f"{archive} unpacks to more than {megabytes(largest)} or {MOST_FILES:,} files, "
                                    f"which no published data set does; not unpacked")
                if declared > LARGEST_IMAGE and path.suffix.lower() in IMAGE_SUFFIXES:
                    raise UserError(f"{archive}: the image {path} has {megabytes(declared)}, which no frame or mask "
                                    f"has; not unpacked")
                check_free(part, declared, f"unpacking {path} from {archive}")
                (part / path).parent.mkdir(parents=True, exist_ok=True)
                with (part / path).open("wb") as file:
                    written += copy(stream, file, declared, archive, path)
                bar.update(position - bar.n)
        if not files:
            raise UserError(f"{archive} holds nothing of this data set; is it the archive of another one?")
        part.rename(folder)
    except (EOFError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, struct.error,
            ValueError) as error:
        raise UserError(f"{archive} is damaged or truncated ({' '.join(str(error).split())}, after {files} files); "
                        f"download it again") from None
    except NotImplementedError as error:
        raise UserError(f"{archive}: {error}; unpack it yourself and give the folder with --source") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy(stream: BinaryIO, file: BinaryIO, declared: int, archive: Path, path: PurePosixPath) -> int:
    """Write at most the declared number of bytes; UserError when there are more or fewer."""
    written = 0
    while chunk := stream.read(CHUNK):
        written += len(chunk)
        if written > declared:
            break
        file.write(chunk)
    if written != declared:
        there = "more" if written > declared else written
        raise UserError(f"{archive} is damaged or truncated: of {path} there are {there} bytes, {declared} declared; "
                        f"download it again")
    return written


def is_zip(archive: Path) -> bool:
    """Zip or not; UserError for what is neither zip nor tar."""
    with archive.open("rb") as file:
        head = file.read(1024)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        if not zipfile.is_zipfile(archive):                # its table of contents is at the end
            raise UserError(f"{archive} is truncated: {megabytes(archive.stat().st_size)} are there and its end is "
                            f"missing; download it again")
        return True
    if re.search(rb"<(!doctype|html|head|body|\?xml)", head.lower()):
        raise UserError(f"{archive} is a web page, no archive: the address it came from shows a page first; get it in "
                        f"a browser")
    if not (head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")) or head[257:262] == b"ustar"):
        raise UserError(f"{archive} is no zip or tar archive: {archive.stat().st_size} bytes that begin with "
                        f"{head[:8]!r}")
    return False


def zip_members(archive: Path, wanted: Wanted, folder: Path) -> Iterator[Member]:
    """The wanted files of a zip archive."""
    with zipfile.ZipFile(archive) as file:
        paths = [(info, safe_path(archive, info.filename)) for info in file.infolist()]
        chosen = [(info, path) for info, path in paths if not info.is_dir() and wanted(path)]
        check_free(folder, sum(info.file_size for info, _ in chosen), f"unpacking {archive}")
        for info, path in chosen:
            if info.flag_bits & 1:
                raise UserError(f"{archive} is protected by a password; unpack it yourself and give the folder with "
                                f"--source")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(f"{archive}: {path} is a link, not a file; unpack it yourself and give the folder with "
                                f"--source")
            with file.open(info) as stream:
                yield path, info.file_size, stream, info.header_offset + info.compress_size


def tar_members(archive: Path, wanted: Wanted, folder: Path) -> Iterator[Member]:
    """The wanted files of a tar archive, in the order in which they lie in it."""
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as file:
        check_free(folder, archive.stat().st_size, f"unpacking {archive}")        # at least; the rest shows
        while member := file.next():
            path = safe_path(archive, member.name)
            if member.isdir() or not wanted(path):
                continue
            if not member.isreg():
                raise UserError(f"{archive}: {path} is a link or device, not a file; unpack it yourself and give the "
                                f"folder with --source")
            yield path, member.size, file.extractfile(member), raw.tell()
        file.fileobj.seek(file.offset)                     # tarfile takes an archive that ends anywhere
        if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("no end mark")
        while file.fileobj.read(CHUNK):                    # the checksum is at the end
            pass


def safe_path(archive: Path, name: str) -> PurePosixPath:
    """The path of a member below the folder it is unpacked to; UserError for one that leads out of it."""
    if "\0" in name:
        raise UserError(f"{archive} holds {name!r}, which is no name of a file; not unpacked")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise UserError(f"{archive} holds {name!r}, which leads out of the folder it is unpacked to; not unpacked")
    return path


def check_name(path: PurePath, where: Path) -> None:
    """Raise UserError for a name that no screen can show: file names are bytes, and these are not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} holds a file whose name is not UTF-8, {path.name!a}; rename it (unpack the archive "
                        f"yourself first if it is in one) and give the folder with --source") from None
