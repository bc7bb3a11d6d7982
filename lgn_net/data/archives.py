"""Published archives: fetched with resume and checksum, unpacked so that nothing leaves its folder."""

import hashlib
import http.client
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from lgn_net.datasets.common import fits
from lgn_net.errors import UserError
from lgn_net.files import replacing_folder
from lgn_net.terminal import progress


def download(url: str, sha256: str, folder: Path, base: str = "") -> Path:
    """Fetch an archive into `folder` where it is not there, also from another address `base`, and check its sha256.

    It goes on where an earlier try ended. UserError when the connection is lost again and again, or the checksum is
    another one. What arrived is kept for the next try, as `<name>.part`, except with a wrong checksum.
    """
    path = folder / Path(url).name
    url, part = f"{base.rstrip('/')}/{path.name}" if base else url, path.with_name(f"{path.name}.part")
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    reason = "the connection was cut"
    for _ in range(5):                                     # each goes on where the one before ended
        have = part.stat().st_size if part.exists() else 0
        try:
            request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})
            with urllib.request.urlopen(request, timeout=30) as response:
                have *= response.status == 206             # else the server sends the whole file
                total = have + int(response.headers.get("Content-Length", 0))
                with part.open("ab" if have else "wb") as file, \
                        progress(f"download {path.name}", total, "B", have) as bar:
                    bar.unit_scale = True
                    while data := response.read(1 << 16):
                        bar.update(file.write(data))
            if part.stat().st_size >= total:
                break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            if getattr(error, "code", None) == 416:        # nothing comes after these bytes; the checksum decides
                break
            reason = str(error)
        time.sleep(1)
    else:
        raise UserError(f"{url}: {reason}; what has arrived is kept: run the same command again to go on, or get the "
                        f"archive elsewhere and give it with --source")
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        part.unlink()
        raise UserError(f"{url} is not the published file (sha256 {digest}, expected {sha256}); try again, "
                        f"or get the archive elsewhere and give it with --source")
    return part.rename(path)


def unpack(archive: Path, folder: Path, patterns: Sequence[str]) -> None:
    """Unpack the files of a zip or tar archive that fit one of the patterns, completely or not at all.

    Only plain files are written, and never outside of `folder`: `tarfile` with filter "data", and `zipfile`, see to it.
    UserError for what is no archive, damaged, truncated or encrypted, and for one without a single wanted file.
    """
    print(f"unpacking {archive}")
    try:
        with replacing_folder(folder) as part:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(part, [name for name in packed.namelist() if fits(name, *patterns)])
            else:
                with tarfile.open(archive) as file:
                    for member in file:
                        if not member.isdir() and fits(member.name, *patterns):
                            file.extract(member, part, filter="data")
                    # `tarfile` accepts an end between two files, and does not read the checksum at the end.
                    content = cast(IO[bytes], file.fileobj)
                    content.seek(file.offset)
                    if content.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                        raise EOFError("no end mark")
                    while content.read(1 << 20):
                        pass
            if not any(part.iterdir()):
                raise ValueError("it holds nothing of this data set")
    except Exception as error:                             # both libraries raise many kinds for a damaged file
        raise UserError(f"{archive} is damaged or truncated, no zip or tar archive, or too large for the disk "
                        f"({' '.join(str(error).split())}); get it again, or give the unpacked folder") from None
