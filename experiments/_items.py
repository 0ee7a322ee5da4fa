"""Files that scripts are given: by themselves, in folders, or in a table's column."""

from __future__ import annotations

from pathlib import Path

from mmjax.config import DataError

ENDINGS = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".opus"),
}


def kind_of(path: str | Path) -> str | None:
    """ "image" or "audio" by a file's ending, None for any other."""
    return next((kind for kind, endings in ENDINGS.items() if str(path).lower().endswith(endings)), None)


def files(places: list[str], kind: str, column: str = "") -> list[Path]:
    """All files of a kind that these are or hold, sorted within a folder.

    Raises:
        DataError: a place is not there, or none of them has such a file.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found += sorted(p for p in place.rglob("*") if p.is_file() and kind_of(p) == kind)
        elif place.is_file() and place.suffix in (".csv", ".jsonl", ".parquet"):
            found += _of_table(place, column)
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(f"There is no {place}.")
    if not found:
        raise DataError(f"There is no {kind} ({', '.join(ENDINGS[kind])}) in {', '.join(places)}.")
    return found


def _of_table(path: Path, column: str) -> list[Path]:
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    readers = {".csv": pyarrow.csv.read_csv, ".jsonl": pyarrow.json.read_json, ".parquet": pyarrow.parquet.read_table}
    table = readers[path.suffix](path)
    if column not in table.column_names:
        raise DataError(f"{path} has no column {column!r}, but {', '.join(table.column_names)}: name that of the paths by --column.")
    return [path.parent / str(value) for value in table[column].to_pylist() if value is not None]
