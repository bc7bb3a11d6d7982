"""Files in parts: joined they are what was split, and what is missing or damaged is named."""

import pytest

from lgn_net.errors import UserError
from lgn_net.training.parts import join_parts, split_file


@pytest.mark.parametrize("size, count", [(0, 0), (1000, 1), (1001, 2), (5500, 6)])
def test_joined_as_before(tmp_path, size, count):
    content = bytes(k * k % 251 for k in range(size))
    (tmp_path / "net.pt").write_bytes(content)
    *parts, index = split_file(tmp_path / "net.pt", tmp_path / "parts", bytes=1000)
    assert [p.name for p in parts] == [f"net.pt.part{k:02d}" for k in range(count)]
    assert all(p.stat().st_size <= 1000 for p in parts) and len(list(index.parent.iterdir())) == count + 1
    join_parts(tmp_path / "parts", tmp_path / "out" / "joined.pt")
    assert (tmp_path / "out" / "joined.pt").read_bytes() == content


@pytest.mark.parametrize("harm, word", [
    (lambda parts: parts[1].write_bytes(b"x" * 1000), "net.pt.part01"),
    (lambda parts: parts[2].unlink(), "net.pt.part02"),
    (lambda parts: parts[-1].unlink(), "found 0"),
    (lambda parts: (parts[0].parent / "other.parts.json").write_text("{}"), "found 2"),
])
def test_damage_is_named_and_nothing_written(tmp_path, harm, word):
    (tmp_path / "net.pt").write_bytes(bytes(2500))
    parts = split_file(tmp_path / "net.pt", tmp_path / "parts", bytes=1000)
    harm(parts)
    with pytest.raises(UserError, match=word):
        join_parts(tmp_path / "parts", tmp_path / "joined.pt")
    assert not (tmp_path / "joined.pt").exists()
