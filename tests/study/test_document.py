"""Tables and the places in documents where they go."""

import pytest

from mmjax.config import UserError
from mmjax.study.document import about, fill, table

ENVIRONMENT = {"git_commit": "abc", "git_changes": True, "cpu_cores": 2, "cpu": "CPU", "devices": "1 x cpu"}


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    path = tmp_path / "x.md"
    path.write_text("a\n<!-- read -->\nold\n<!-- end of read -->\nb\n<!-- wait -->\nkept\n<!-- end of wait -->\n")
    for _ in range(2):  # again gives the same
        fill(path, table(["x", "y"], [["one \\1", 2]]), "read")
        text = path.read_text()
        assert text.startswith("a\n<!-- read -->\n| x | y |\n|---|--:|\n| one \\1 | 2 |\n<!-- end of read -->\nb\n") and "kept" in text
    with pytest.raises(UserError, match=r"no place for the table: a line '<!-- decode -->' and a line '<!-- end of decode -->'"):
        fill(path, "x", "decode")
    with pytest.raises(UserError, match=r"nowhere.md cannot be read: No such file"):
        fill(tmp_path / "nowhere.md", "x")


def test_what_made_a_table_is_said_once(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x.py", "--metrics", "a|b"])
    versions = {"jax": "1.2", "torch": "not installed", "six": "3"}
    text = about([{**ENVIRONMENT, "versions": versions}] * 2, ("jax", "torch"), seconds=5)
    expected = [
        "command: `python x.py --metrics 'a|b'`",
        "commit: abc with changes",
        "hardware: 2 cores of CPU, 1 x cpu",
        "versions: jax 1.2",
        "seconds: 5",
    ]
    assert text == "".join(f"- {line}\n" for line in expected)
