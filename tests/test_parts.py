"""scripts/export_weights.py: parts, joined, are what was split, and damage is named."""

import pytest
from helpers import load_script, run, sentence

script = load_script("scripts/export_weights.py")


@pytest.mark.parametrize("size, count", [(0, 0), (1000, 1), (1001, 2), (5500, 6)])
def test_joined_as_before(tmp_path, size, count):
    content = bytes(k * k % 251 for k in range(size))
    (tmp_path / "net.pt").write_bytes(content)
    script.split_file(tmp_path / "net.pt", tmp_path / "parts", size=1000)
    parts = sorted((tmp_path / "parts").glob("*.part??"))
    assert [p.name for p in parts] == [f"net.pt.part{k:02d}" for k in range(count)]
    assert all(p.stat().st_size <= 1000 for p in parts)
    out = tmp_path / "out" / "joined.pt"
    assert run(script.main, "--join", tmp_path / "parts", "--out", out).status == 0 and out.read_bytes() == content


@pytest.mark.parametrize("name, content", [("net.pt.part01", b"x" * 1000), ("net.pt.part02", None),
                                           (".parts.json", None), (".parts.json", b'{"parts": [1]}')])
def test_damage_is_named_and_nothing_written(tmp_path, name, content):
    (tmp_path / "net.pt").write_bytes(bytes(2500))
    script.split_file(tmp_path / "net.pt", tmp_path / "parts", size=1000)
    path = next((tmp_path / "parts").glob(f"*{name}"))
    path.write_bytes(content) if content else path.unlink()
    assert name in sentence(run(script.main, "--join", tmp_path / "parts", "--out", tmp_path / "joined.pt"))
    assert not (tmp_path / "joined.pt").exists()
