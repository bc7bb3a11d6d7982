"""The documents name what exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def defined_in(path: Path) -> set[str]:
    """Names at the top of a module, and `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names |= {node.name} | {f"{node.name}.{one.name}" for one in getattr(node, "body", [])
                                    if isinstance(one, ast.FunctionDef)}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_file_and_name_in_the_reading_guide_exists():
    cited = re.findall(r"`([\w/]+\.py)`((?: `[\w.]+`)*)", (ROOT / "docs/reading.md").read_text())
    assert len(cited) > 25
    for file, names in cited:
        missing = set(re.findall(r"`([\w.]+)`", names)) - defined_in(ROOT / file)
        assert not missing, f"{file} lacks {missing}"


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
