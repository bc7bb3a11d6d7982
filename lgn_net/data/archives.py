"""Published archives: fetched with resume and checksum, unpacked so that nothing leaves its folder."""

import hashlib
import http.client
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from tqdm.utils import CallbackIOWrapper

from lgn_net.datasets.common import Archive, fits
from lgn_net.errors import UserError
from lgn_net.files import replacing_folder
from lgn_net.terminal import progress

CHUNK = 1 << 20
ATTEMPTS = 5                     # to get a file, each going on where the one before ended
TIMEOUT = 30                     # seconds of silence after which a connection counts as lost


def download(archive: Archive, folder: Path, base: str = "") -> Path:
    """Fetch an archive into `folder`, also from another address `base`, and check its sha256.

    It goes on where an earlier try ended. UserError when the connection is lost again and again, or the checksum is
    another one. What arrived is kept for the next try, as `<name>.part`, except with a wrong checksum.
    """
    path = folder / Path(archive.url).name
    if path.exists():
        return path
    part = path.with_name(f"{path.name}.part")
    folder.mkdir(parents=True, exist_ok=True)
    part.touch()
    fetch(f"{base.rstrip('/')}/{path.name}" if base else archive.url, part)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        part.unlink()
        raise UserError(f"{archive.url} is not the published file any more (sha256 {digest}, expected "
                        f"{archive.sha256}); get the archive elsewhere and give it with --source")
    return part.rename(path)


def fetch(url: str, part: Path) -> None:
    """Download `url` to `part`, going on behind what is there. UserError when the connection is lost too often."""
    reason = "the connection was cut"
    for _ in range(ATTEMPTS):
        have = part.stat().st_size
        headers = {"User-Agent": "lgn_net"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
                have *= response.status == 206             # else the server sends the whole file
                total = have + int(response.headers.get("Content-Length", 0))
                with part.open("ab" if have else "wb") as file, \
                        progress(f"download {part.stem}", total, "B", have) as bar:
                    bar.unit_scale = True
                    shutil.copyfileobj(CallbackIOWrapper(bar.update, response), file, CHUNK)
            if part.stat().st_size >= total:
                return
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if getattr(error, "code", None) == 416:        # nothing comes after these bytes; the checksum decides
                return
            reason = str(error)
        time.sleep(1)
    raise UserError(f"{url}: {reason}; what has arrived is kept: run the same command again to go on, or get the "
                    f"archive elsewhere and give it with --source")


def unpack(archive: Path, folder: Path, patterns: Sequence[str]) -> None:
    """Unpack the files of a zip or tar archive that fit one of the patterns, completely or not at all.

    Only plain files are written, and never outside of `folder`: `tarfile` with filter "data", and `zipfile`, see to it.
    UserError for what is no archive, damaged, truncated or encrypted, and for one without a single wanted file.
    """
    try:
        with replacing_folder(folder) as part, archive.open("rb") as raw, \
                progress(f"unpack {archive.name}", archive.stat().st_size, "B") as bar:
            bar.unit_scale = True
            stream = cast(IO[bytes], CallbackIOWrapper(bar.update, raw))
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(stream) as packed:
                    packed.extractall(part, [name for name in packed.namelist() if fits(name, *patterns)])
            else:
                with tarfile.open(fileobj=stream, mode="r:*") as file:
                    for member in file:
                        if not member.isdir() and fits(member.name, *patterns):
                            file.extract(member, part, filter="data")
                    content = cast(IO[bytes], file.fileobj)
                    while content.read(CHUNK):             # to the checksum at the end, which `tarfile` leaves out
                        pass
            if not any(part.iterdir()):
                raise UserError(f"{archive} holds nothing of this data set; is it the archive of another one?")
    except UserError:
        raise
    except Exception as error:                             # both libraries raise many kinds for a damaged file
        raise UserError(f"{archive} is damaged or truncated, no zip or tar archive, or too large for the disk "
                        f"({' '.join(str(error).split())}); download it again, or unpack it yourself and give the "
                        f"folder with --source") from None
