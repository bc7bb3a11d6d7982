"""The documents name what exists, and what they say to type works."""

import argparse
import operator
import re
import shlex
import shutil

import jsonargparse
import pytest
from helpers import ROOT, load_script

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
    """The command lines in the code blocks of a page, each as its words."""
    text = re.sub(r"\\\n\s*", " ", "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)))
    for line in text.splitlines():
        words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)
        if "torchrun" in words or words[:1] in (["python"], ["OMP_NUM_THREADS=1"]):
            start = next((k for k, word in enumerate(words) if word.endswith(".py")), None)
            if start is not None and not any(word == "..." or word[0] == "$" for word in words):
                yield words[start:[*words, "|"].index("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_take_the_arguments_that_are_documented(page, monkeypatch):
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        def parse_args(self, *args, parse=parser.parse_args, **kwargs):
            parse(self, *args, **kwargs)
            raise SystemExit("parsed")
        monkeypatch.setattr(parser, "parse_args", parse_args)
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda _: (Config(), {}))
    monkeypatch.setattr(official, "official_system", lambda _: "lgn_net")
    for words in commands(page):
        with pytest.raises(SystemExit, match="parsed"):
            load_script(words[0]).main(words[1:])


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
