"""A large file in parts with checksums, for ways that carry small files only."""

import hashlib
import json
from pathlib import Path

from lgn_net.errors import UserError
from lgn_net.files import replacing, to_json, write_atomic


def split_file(path: str | Path, folder: str | Path, bytes: int = 15 * 2**20) -> list[Path]:
    """Split a file into `<name>.part00`, `<name>.part01`, ... and `<name>.parts.json`, which lists their checksums.

    Returns the written files, the list last. No part is larger than `bytes`.
    """
    path, folder = Path(path), Path(folder)
    parts: list[dict] = []
    with path.open("rb") as source:
        while block := source.read(bytes):
            parts.append({"name": f"{path.name}.part{len(parts):02d}", "sha256": hashlib.sha256(block).hexdigest()})
            with replacing(folder / parts[-1]["name"]) as file:
                file.write(block)
    index = folder / f"{path.name}.parts.json"
    write_atomic(index, to_json({"name": path.name, "bytes": path.stat().st_size, "parts": parts}))
    return [*(folder / part["name"] for part in parts), index]


def join_parts(folder: str | Path, out: str | Path) -> None:
    """Join the parts in a folder to the file `out`, completely or not at all. UserError for missing or damaged ones."""
    found = sorted(Path(folder).glob("*.parts.json"))
    if len(found) != 1:
        raise UserError(f"{folder} should hold one file *.parts.json, with the parts beside it; found {len(found)}")
    with replacing(out) as file:
        for part in json.loads(found[0].read_text())["parts"]:
            path = found[0].with_name(part["name"])
            block = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(block).hexdigest() != part["sha256"]:
                raise UserError(f"{path} is missing or damaged: its SHA-256 is not the one in {found[0].name}; copy "
                                f"it once more")
            file.write(block)
