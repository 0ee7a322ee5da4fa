"""Tables in Markdown, and where they stand in a document: between two marks, `<!-- results -->` and `<!-- end of results -->`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.config import UserError


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table; columns after the first `left` are numbers, at the right."""
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * left + "|--:" * (len(head) - left) + "|", *lines[1:], ""])


def about(environments: Sequence[Mapping[str, Any]], packages: Sequence[str], **more: Any) -> str:
    """A list of what made some figures: this process's command, as a shell takes it, and the runs' commit, machine and versions."""
    last = environments[-1]
    lines = {
        "command": f"`{shlex.join(['python', *sys.argv])}`",
        "commit": ", ".join(dict.fromkeys(f"{e['git_commit']}{' with changes' if e['git_changes'] else ''}" for e in environments)),
        "hardware": f"{last['cpu_cores']} cores of {last['cpu']}, {last['devices']}",
        "versions": ", ".join(f"{k} {v}" for k, v in last["versions"].items() if k in packages and v != "not installed"),
        **more,
    }
    return "\n".join(f"- {key}: {value}" for key, value in lines.items()) + "\n"


def fill(document: str | Path, text: str, name: str = "results") -> None:
    """Puts `text` between the two marks of a name; what stood there goes.

    Raises:
        UserError: the document is not there, or has no such marks.
    """
    path, begin, end = Path(document), f"<!-- {name} -->", f"<!-- end of {name} -->"
    try:
        old = path.read_text()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    mark = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    if not mark.search(old):
        raise UserError(f"{path} has no place for the table: a line '{begin}' and a line '{end}'.")
    path.write_text(mark.sub(lambda m: m[1] + text + m[2], old))
