"""Writes `inspect.html`: what a run would read, on one page that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.contract import Artifact, write_atomic
from mmjax.report import html


def write_inspection(
    path: Path,
    name: str,
    *,
    facts: Mapping[str, str],
    verdicts: Sequence[tuple[str, bool, str]],
    sections: Mapping[str, Mapping[str, Artifact]],
    config: Mapping[str, Any],
) -> Path:
    """Writes the page to `path` and returns it. A verdict is (check, whether all is fine, what was found)."""
    shown = {title: [html.drawn(artifact, name) for name, artifact in found.items()] for title, found in sections.items()}
    page = html.templates().get_template("inspect.html.jinja")
    write_atomic(path, page.render(name=name, facts=list(facts.items()), verdicts=verdicts, sections=shown, config=html.as_yaml(config)))
    return path
