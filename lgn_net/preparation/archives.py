"""Published archives: fetched with resume and checksum, unpacked so that nothing leaves its folder."""

import gzip
import hashlib
import http.client
import lzma
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from tqdm.utils import CallbackIOWrapper

from lgn_net.datasets.common import Archive
from lgn_net.errors import UserError
from lgn_net.files import replacing_folder
from lgn_net.terminal import progress

CHUNK = 1 << 20
ATTEMPTS = 5                     # to get a file, each going on where the one before ended
TIMEOUT = 30                     # seconds of silence after which a connection counts as lost
LOST = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
DAMAGE = (EOFError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
          ValueError, RuntimeError)                        # the last one: a password, or a rare compression


def megabytes(size: float) -> str:
    """Turn 12345678 into "12.3 MB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def some(items: list[str], limit: int = 6) -> str:
    """Name the first few, and count the others."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit:,} more" if len(items) > limit else "")


def check_free(folder: Path, needed: float, what: str) -> None:
    """Raise UserError unless `folder` (or the nearest one above it that exists) has `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{what} needs {megabytes(needed)}, and {megabytes(free)} are free in {folder}; free some, or "
                        f"give another --out")


def download(archive: Archive, folder: Path, base: str = "") -> Path:
    """Fetch an archive into `folder`, going on where an earlier try ended, and check its sha256.

    `base` is another address to which the file name is appended. UserError when the address gives no archive, the
    connection is lost again and again, or the checksum is another one. What arrived is kept for the next try, as
    `<name>.part`, except with a wrong checksum.
    """
    path = folder / Path(archive.url).name
    part = path.with_name(f"{path.name}.part")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part.touch()
        fetch(f"{base.rstrip('/')}/{path.name}" if base else archive.url, part)
    done = path if path.exists() else part                 # the former may be the user's own
    with done.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        part.unlink(missing_ok=True)
        raise UserError(f"{done} is not the published file (sha256 {digest}, expected {archive.sha256}); remove it and "
                        f"run the same command again, or get the archive elsewhere and give it with --source")
    return done.rename(path)


def fetch(url: str, part: Path) -> None:
    """Download `url` to `part`, going on behind what is there. UserError when the connection is lost too often."""
    reason = "the connection was cut"
    for _ in range(ATTEMPTS):
        try:
            if fetch_rest(url, part, part.stat().st_size):
                return
        except LOST as error:
            if getattr(error, "code", None) == 416:        # nothing comes after these bytes; the checksum decides
                return
            reason = str(error)
        time.sleep(1)
    raise UserError(f"{url}: {reason}, {megabytes(part.stat().st_size)} have arrived and are kept; run the same "
                    f"command again to go on, or get the archive elsewhere and give it with --source")


def fetch_rest(url: str, part: Path, have: int) -> bool:
    """Ask once for the bytes after the first `have`; return whether all arrived, as far as the server says."""
    headers = {"User-Agent": "lgn_net"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.headers.get_content_type() == "text/html":
            raise UserError(f"{url} gives a web page, not an archive; get the archive in a browser and give it with "
                            f"--source")
        if response.status != 206:                         # the server sends the whole file, whatever was asked for
            have = 0
        total = have + int(response.headers.get("Content-Length", 0))
        check_free(part.parent, total - have, f"downloading {url}")
        with part.open("ab" if have else "wb") as file, progress(f"download {part.stem}", total, "B", have) as bar:
            bar.unit_scale = True
            shutil.copyfileobj(CallbackIOWrapper(bar.update, response), file, CHUNK)
    return part.stat().st_size >= total


def fingerprint(path: Path) -> str:
    """Return a short name for an archive's content: the hash of its size and of its first and last megabyte."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(CHUNK)
        file.seek(max(0, size - CHUNK))
        return hashlib.sha256(str(size).encode() + head + file.read(CHUNK)).hexdigest()[:16]


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the wanted files of a zip or tar archive into `folder`, completely or not at all.

    Only plain files are written, and never outside of `folder`: `tarfile` with filter "data", and `zipfile`, see to it.

    Args:
        archive: .zip, .tar, or a compressed .tar; recognised by content, not by name.
        folder: does not exist yet.
        wanted: given the path of a file inside the archive.

    Raises:
        UserError: no archive, a damaged, truncated or encrypted one, one that leads out of its folder or unpacks to
            more than the disk holds, or one without a single wanted file.
    """
    size = archive.stat().st_size
    try:
        with replacing_folder(folder) as part, archive.open("rb") as raw, \
                progress(f"unpack {archive.name}", size, "B") as bar:
            bar.unit_scale = True
            (unpack_zip if zipfile.is_zipfile(archive) else unpack_tar)(
                cast(IO[bytes], CallbackIOWrapper(bar.update, raw)), part, wanted)
            if not any(part.iterdir()):
                raise UserError(f"{archive} holds nothing of this data set; is it the archive of another one?")
    except DAMAGE as error:
        raise UserError(f"{archive} is damaged or truncated, or no zip or tar archive ({' '.join(str(error).split())}; "
                        f"{megabytes(size)} are there); download it again, or unpack it yourself and give the folder "
                        f"with --source") from None


def unpack_zip(raw: IO[bytes], folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack a zip."""
    with zipfile.ZipFile(raw) as file:
        chosen = [member for member in file.infolist() if not member.is_dir() and wanted(member.filename)]
        check_free(folder, sum(member.file_size for member in chosen), "unpacking")
        file.extractall(folder, chosen)


def unpack_tar(raw: IO[bytes], folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack a tar, compressed or not."""
    with tarfile.open(fileobj=raw, mode="r:*") as file:
        for member in file:
            if not member.isdir() and wanted(member.name):
                check_free(folder, member.size, f"unpacking {member.name}")
                file.extract(member, folder, filter="data")
        # `tarfile` accepts an archive that ends between two files, and does not read the checksum at the end.
        content = cast(IO[bytes], file.fileobj)
        content.seek(file.offset)
        if content.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("no end mark")
        while content.read(CHUNK):
            pass
