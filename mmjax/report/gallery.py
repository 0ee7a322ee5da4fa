"""Writes a page of queries and what was found for each, that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmjax.contract import Gallery, write_atomic
from mmjax.report import html


def write_gallery(path: Path, name: str, facts: Mapping[str, str], found: Gallery) -> Path:
    """Writes the page to `path` and returns it."""
    page = html.templates().get_template("gallery.html.jinja")
    write_atomic(path, page.render(name=name, facts=list(facts.items()), found=html.drawn(found, "nearest first")))
    return path
