"""The documents name what exists, and what they say to type works."""

import argparse
import operator
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonargparse
import pytest
import torch
from helpers import ROOT, load_script, random_official_state, run
from test_footage import pictures, write
from test_prepare import ped2_files, write_tar

from lgn_net import official
from lgn_net.config import Config
from lgn_net.training import checkpoint

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_file_and_name_in_the_reading_guide_exists():
    cited = re.findall(r"`([\w/]+\.py)`((?: `[\w.]+`)*)", (ROOT / "docs/reading.md").read_text())
    assert len(cited) > 25
    for file, names in cited:
        module = load_script(file)
        for name in re.findall(r"`([\w.]+)`", names):
            operator.attrgetter(name)(module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}"


def commands(page):
    """The project's commands in a page, from its top to its bottom: each the path of a script, and its arguments."""
    _, *fixed, end = subprocess.run(["sh", ROOT / "scripts/reproduce_ped2.sh", "end"], env={"PYTHON": "echo"},
                                    capture_output=True, text=True, check=True).stdout.split()
    assert end == "end"                                                 # it passes on what it is given
    pattern = r"```bash\n(.*?)```|`((?:python )?[\w/]+\.(?:py|sh) [^`]+)`"
    for block, inline in re.findall(pattern, page.read_text(), re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block or " ".join(inline.split())).splitlines():
            words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)
            words = words[:[*words, "|"].index("|")]
            start = next((k for k, word in enumerate(words) if word.endswith((".py", ".sh"))), None)
            if start is not None and not any(word == "..." or word[0] == "$" for word in words):
                script, *words = words[start:]
                yield ("scripts/run_plan.py", fixed + words) if script.endswith(".sh") else (script, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_take_the_arguments_that_are_documented(page, monkeypatch):
    """Plans are printed, and what they name is there; other commands end where they have read their arguments."""
    monkeypatch.chdir(ROOT)
    plans = [words for script, words in commands(page) if script == "scripts/run_plan.py"]
    assert all(run(load_script("scripts/run_plan.py").main, *words, "--dry-run").status == 0 for words in plans)
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        def parse_args(self, *args, parse=parser.parse_args, **kwargs):
            parse(self, *args, **kwargs)
            raise SystemExit("parsed")
        monkeypatch.setattr(parser, "parse_args", parse_args)
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda _: (Config(), {}))
    monkeypatch.setattr(official, "load_unwrapped", lambda _: "content of another kind")
    for script, words in commands(page):
        with pytest.raises(SystemExit, match="parsed"):
            load_script(script).main(words)


@pytest.mark.slow
def test_the_readme_from_top_to_bottom(tmp_path, monkeypatch):
    """On small data of the same names and with small networks; the camera is a file, and plans are only printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "plans", "weights"):
        Path(name).symlink_to(ROOT / name)
    for folder in ("DATA/archives", "VIDEOS/training", "VIDEOS/testing"):
        Path(folder).mkdir(parents=True)
    write_tar(Path("DATA/archives/UCSD_Anomaly_Dataset.tar.gz"), ped2_files(tests=(12, 12)))    # as if fetched already
    for path in ("VIDEOS/training/a.mp4", "VIDEOS/testing/b.mp4", "VIDEO.mp4", "NORMAL.mp4"):
        write(path, pictures(80 if path == "VIDEO.mp4" else 30))
    Path("labels.csv").write_text("video,start,end\nb,15,20\n")
    for path, content in zip(("MODEL.pth", "KEYS.pt"), random_official_state(0, width=4, hidden=4, layers=1)):
        torch.save(content, path)
    small = ["--data.image_size=16", "--model.base_width=4", "--model.hidden_width=4", "--train.epochs=1"]
    for script, words in commands(ROOT / "README.md"):
        words = [{"rtsp://CAMERA/stream": "VIDEO.mp4", "60": "6"}.get(word, word) for word in words]
        words += {"train.py": small, "scripts/run_plan.py": ["--dry-run"]}.get(script, [])
        if script == "train.py":                                       # of two ways into one folder, each is tried
            shutil.rmtree(words[words.index("--exp_dir") + 1], ignore_errors=True)
        done = run(load_script(script).main, *words)
        assert done.status == 0, (script, words, done)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    nbclient, nbformat, zmq = map(pytest.importorskip, ("nbclient", "nbformat", "zmq"))
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "data", "runs", "results", "docs"))
    shutil.copytree(ROOT / "lgn_net/data", project / "lgn_net/data")
    notebook = nbformat.read(project / "notebooks/quickstart.ipynb", as_version=4)
    for attempt in (1, 2, 3):                             # a port of the kernel may be taken by another program
        try:
            nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": project / "notebooks"}}) \
                .execute()
            break
        except zmq.ZMQError:
            assert attempt < 3
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "AUC" in said and "frames are in an alarm" in said and "error:" not in said
    assert (project / "runs/notebook/evaluation_last/report.html").is_file()
