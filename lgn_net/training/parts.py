"""A large file in parts with checksums, for ways that carry small files only."""

import hashlib
import json
from pathlib import Path

from lgn_net.errors import UserError
from lgn_net.files import replacing, to_json, write_atomic

INDEX = ".parts.json"


def split_file(path: str | Path, folder: str | Path, bytes: int = 15 * 2**20) -> list[Path]:
    """Split a file into `<name>.part00`, `<name>.part01`, ... and `<name>.parts.json`, which lists their checksums.

    Args:
        path: file to split.
        folder: where the parts go; made if missing.
        bytes: largest size of a part.

    Returns:
        The written files, the list last.
    """
    path, folder = Path(path), Path(folder)
    parts: list[dict] = []
    with path.open("rb") as source:
        while block := source.read(bytes):
            parts.append({"name": f"{path.name}.part{len(parts):02d}", "sha256": hashlib.sha256(block).hexdigest()})
            with replacing(folder / parts[-1]["name"]) as file:
                file.write(block)
    index = folder / f"{path.name}{INDEX}"
    write_atomic(index, to_json({"name": path.name, "bytes": path.stat().st_size, "parts": parts}))
    return [*(folder / part["name"] for part in parts), index]


def join_parts(source: str | Path, out: str | Path) -> None:
    """Join the parts that `split_file` wrote; `out` is written completely or not at all.

    Args:
        source: their folder, the first part, or the list.
        out: file to write.

    Raises:
        UserError: no list or several, a part is missing, or one is damaged.
    """
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    found = sorted(folder.glob(f"*{INDEX}")) if source.is_dir() else \
        [source if source.name.endswith(INDEX) else source.with_name(source.stem + INDEX)]
    if len(found) != 1 or not found[0].is_file():
        names = ", ".join(path.name for path in found) or f"none of *{INDEX}"
        raise UserError(f"{source} should have one list of parts, there is {names}; give the first part of one file")
    with replacing(out) as file:
        for part in json.loads(found[0].read_text())["parts"]:
            path = folder / part["name"]
            if not path.is_file():
                raise UserError(f"{path} is missing; {found[0].name} lists it: copy it once more")
            block = path.read_bytes()
            if (checksum := hashlib.sha256(block).hexdigest()) != part["sha256"]:
                raise UserError(f"{path} is damaged: its SHA-256 is {checksum[:12]}..., {found[0].name} says "
                                f"{part['sha256'][:12]}...; copy it once more")
            file.write(block)
