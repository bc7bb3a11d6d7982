"""Published archives: downloaded with their checksum, unpacked so that nothing leaves its folder."""

import http.client
import socket
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from torch.hub import download_url_to_file

from lgn_net.datasets.common import Archive, fits
from lgn_net.errors import UserError
from lgn_net.files import replacing_folder


def download(archive: Archive, folder: Path, base: str = "") -> Path:
    """Fetch an archive into `folder` where it is not there, also from another address `base`, and check its sha256.

    UserError when nothing answers, the connection is lost, or the checksum is another one.
    """
    path = folder / Path(archive.url).name
    url = f"{base.rstrip('/')}/{path.name}" if base else archive.url
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(30)
        try:
            download_url_to_file(url, str(path), archive.sha256)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise UserError(f"{url} did not give the published file ({error}); try again, or get the archive elsewhere "
                            f"and give it with --source") from None
    return path


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
                    while cast(IO[bytes], file.fileobj).read(1 << 20):     # to the checksum, which `tarfile` leaves out
                        pass
            if not any(part.iterdir()):
                raise ValueError("it holds nothing of this data set")
    except Exception as error:                             # both libraries raise many kinds for a damaged file
        raise UserError(f"{archive} is damaged or truncated, no zip or tar archive, or too large for the disk "
                        f"({' '.join(str(error).split())}); get it again, or give the unpacked folder") from None
