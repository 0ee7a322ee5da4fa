"""Writes a comparison's folder: `comparison.html`, one page that needs no network, beside the same in Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmjax.contract import Artifact, Table, save_artifact, write_atomic
from mmjax.report import html


def write_comparison(
    folder: Path, name: str, facts: Mapping[str, str], tables: Mapping[str, Table], pictures: Mapping[str, Artifact], notes: list[str]
) -> Path:
    """Writes the page to `folder/comparison.html` and returns its path; the pictures' numbers go to `artifacts/`."""
    for title, artifact in pictures.items():
        save_artifact(folder / "artifacts" / f"{title.replace(' ', '_').replace('/', '_')}.json", artifact)
    drawn = {
        "tables": [html.drawn(table, title) for title, table in tables.items()],
        "pictures": [html.drawn(artifact, title) for title, artifact in pictures.items()],
    }
    page = html.templates().get_template("comparison.html.jinja")
    path = folder / "comparison.html"
    write_atomic(path, page.render(name=name, facts=list(facts.items()), notes=notes, **drawn))
    return path
