"""Make a virtual environment with pip, also where Python has no ensurepip (Debian's python3 without python3-venv).

    python3 scripts/make_venv.py .venv

Standard library only: it runs before anything is installed.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path

INDEX = "https://pypi.org/simple/pip/"


def main(folder: str) -> None:
    """Create the environment, then pip in it: from Python itself, else from the package index."""
    if sys.version_info < (3, 11):  # noqa: UP036   the old Python that is asked for says so here
        sys.exit(f"error: Python 3.11 or later is needed, this is {sys.version.split()[0]}; name another with "
                 f"make PYTHON=python3.x")
    venv.create(folder, symlinks=True)
    python = str(Path(folder) / "bin" / "python")
    if subprocess.run([python, "-m", "ensurepip", "--upgrade"], capture_output=True).returncode:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = fetch_pip(Path(scratch))
            subprocess.run([python, wheel / "pip", "install", "--no-index", wheel], check=True)


def fetch_pip(folder: Path) -> Path:
    """Download pip's newest wheel from the package index, its sha256 checked."""
    request = urllib.request.Request(INDEX, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    files = json.load(urllib.request.urlopen(request, timeout=60))["files"]
    wheels = [f for f in files if f["filename"].endswith("-py3-none-any.whl") and not f.get("yanked")]
    newest = max(wheels, key=lambda f: f["upload-time"])
    data = urllib.request.urlopen(newest["url"], timeout=60).read()
    if hashlib.sha256(data).hexdigest() != newest["hashes"]["sha256"]:
        sys.exit(f"error: {newest['url']} arrived damaged; try again")
    path = folder / newest["filename"]
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    main(sys.argv[1])
