"""Tables (.csv, .tsv, .jsonl, .parquet) whose columns stay in Arrow's memory: ten million rows are no Python objects."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmjax.config import ConfigError, DataError, nearest

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
BLOCK = 16 << 20  # bytes that are parsed at once; a row must fit into two


class Tables:
    """The rows of one or several tables, one after another.

    A column is called by its name, a field of a struct `column/field`. `used` says what of each is read: {name of a
    column: where the config names it}; of a .csv those in `strings` are not taken for numbers, whatever they look like.

    Raises:
        ConfigError: a column that is not there.
        DataError: a table that cannot be read, or has no rows.
    """

    unit = "rows"

    def __init__(self, files: Sequence[Path], used: Mapping[str, str], strings: Iterable[str], root: str | None):
        pa = _arrow()
        tables = [_read(file, used, set(strings)) for file in files]
        self.files, self._used = list(files), used
        self._folders = [os.path.abspath(os.path.expanduser(root) if root else file.parent) for file in files]
        self.starts = np.cumsum([0, *(len(table) for table in tables)])
        try:
            self._table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"The tables {files[0]} to {files[-1]} do not go together: {_reason(error)}.") from error
        if not len(self):
            raise DataError(f"{_shown(files)} has no rows.")
        self.digest = _digest(files)  # another one means another content
        self.notes: dict[str, str] = {}  # for the report

    def __len__(self) -> int:
        return len(self._table)

    def cell(self, row: int, column: str) -> Any:
        """A value, None where there is none."""
        return self._table[column][row].as_py()

    def file(self, row: int, column: str) -> bytes | None:
        """What is in the file whose path is in a cell; None where the cell is empty."""
        path = self.path(row, column)
        if path is None:
            return None
        with open(path, "rb") as file:
            return file.read()

    def path(self, row: int, column: str) -> str | None:
        """The whole path that a cell names."""
        cell = self.cell(row, column)
        return os.path.join(self._folder(row), cell) if cell else None

    def _folder(self, row: int) -> str:
        return self._folders[int(np.searchsorted(self.starts, row, side="right")) - 1]

    def name(self, row: int) -> str:
        """What a person finds the row by: the first of its values that is a text, such as a path."""
        return next((c for column in self._used if isinstance(c := self.cell(row, column), str) and c), f"row {row}")

    def groups(self, columns: Sequence[str]) -> tuple[Int[np.ndarray, " N"], Iterator[str]]:
        """For every row the number of its value, the first that it has among the columns, -1 where it has none; the values."""
        pa = _arrow()
        pc = _compute()
        try:
            found = [self._table[column].cast(pa.large_string()) for column in columns]
        except pa.ArrowException:
            at = self._used[columns[0]]
            raise ConfigError(f"{at}: {columns[0]!r} holds lists, which tell no items apart: name a column in data.source.key.") from None
        values = pc.coalesce(*(pc.if_else(pc.equal(column, ""), None, column) for column in found))
        encoded = values.dictionary_encode().unify_dictionaries().chunks
        numbers = np.concatenate([chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in encoded])
        names = encoded[0].dictionary
        return numbers, (name for at in range(0, len(names), 65_536) for name in names[at : at + 65_536].to_pylist())

    def apart(self, numbers: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Other numbers for one relative path in the folders of several tables."""
        folders = sorted(set(self._folders))
        if len(folders) == 1:
            return numbers
        folder = np.repeat([folders.index(f) for f in self._folders], np.diff(self.starts))
        return np.unique(numbers.astype(np.int64) * len(folders) + folder, return_inverse=True)[1]

    def check_files(self, columns: Sequence[str], most: int = 100) -> None:
        """Raises `DataError` if none of the first files is there: the folder is wrong, rather than a file missing."""
        paths = []
        for row in range(len(self)):
            paths += [(self.path(row, c), self.cell(row, c)) for c in columns if self.cell(row, c)][:1]
            if len(paths) == most:
                break
        if paths and not any(os.path.exists(path) for path, _ in paths):
            raise DataError(
                f"None of the first {len(paths)} files that {self._used[columns[0]]} names in {self.files[0]} is there, such as "
                f"{paths[0][1]!r}. Paths are relative to {self._folders[0]}: is it another folder? data.source.root names one."
            )


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError("Tables are read by pyarrow, which is not installed: pip install pyarrow") from error
    return pyarrow


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute


def _shown(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} to {files[-1]} ({len(files)} files)"


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")


def _read(file: Path, used: Mapping[str, str], strings: set[str]) -> Any:
    """The used columns of one table."""
    pa = _arrow()
    try:
        if file.suffix == ".parquet":
            return _selected(file, *_parquet(file, used), used)
        if file.suffix == ".jsonl":
            import pyarrow.json as arrow_json

            whole = arrow_json.read_json(file, read_options=arrow_json.ReadOptions(block_size=BLOCK)) if file.stat().st_size else None
            return _selected(file, whole, whole.schema, used) if whole is not None else pa.table({name: pa.nulls(0) for name in used})
        return _selected(file, *_csv(file, used, strings), used)
    except (pa.ArrowException, OSError, ValueError) as error:
        hint = {
            ".csv": " Texts with commas or line breaks stand between double quotes, and the file is in UTF-8.",
            ".jsonl": " It should have one JSON object a line, and a field the same type in all of them.",
        }
        raise DataError(f"{file} cannot be read as {file.suffix[1:]}: {_reason(error)}.{hint.get(file.suffix, '')}") from error


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _columns(file: Path, known: Iterable[str], used: Mapping[str, str]) -> list[str]:
    """The columns of a table that are used; 'a/b' is the field b of a, unless there is a column of that name."""
    known, columns = list(known), []
    for name, where in used.items():
        column = name if name in known else name.partition("/")[0]
        if column not in known:
            raise ConfigError(f"{where}: {file} has no column {name!r}.{nearest(name, known)}")
        columns.append(column)
    return list(dict.fromkeys(columns))


def _parquet(file: Path, used: Mapping[str, str]) -> tuple[Any, Any]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        return opened.read(columns=_columns(file, schema.names, used)), schema


def _csv(file: Path, used: Mapping[str, str], strings: set[str]) -> tuple[Any, Any]:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    delimiter = "\t" if file.suffix == ".tsv" else ","
    with open(file, newline="", encoding="utf-8-sig") as opened:
        header = next(csv.reader(opened, delimiter=delimiter), [])
    if not header:
        raise DataError(f"{file} has no rows.")
    convert = arrow_csv.ConvertOptions(
        include_columns=_columns(file, header, used), column_types={name: pa.string() for name in strings}, strings_can_be_null=False
    )
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)

    def read(threads: bool) -> Any:
        options = arrow_csv.ReadOptions(block_size=BLOCK, use_threads=threads)
        return arrow_csv.read_csv(file, read_options=options, parse_options=parse, convert_options=convert)

    try:
        table = read(threads=True)
    except pa.ArrowInvalid:
        table = read(threads=False)  # slower, and its message has the number of the row
    return table, table.schema


def _selected(file: Path, table: Any, schema: Any, used: Mapping[str, str]) -> Any:
    """A table with a column for every name that is used."""
    pa, pc = _arrow(), _compute()
    _columns(file, schema.names, used)
    columns = {}
    for name, where in used.items():
        column, _, field = (name, "", "") if name in schema.names else name.partition("/")
        found = table[column]
        for part in field.split("/") if field else ():
            known = [f.name for f in found.type] if pa.types.is_struct(found.type) else []
            if part not in known:
                raise ConfigError(f"{where}: {column!r} in {file} has no field {part!r}.{nearest(part, known)}")
            found = pc.struct_field(found, part)
        columns[name] = found.cast(pa.string()) if pa.types.is_null(found.type) else found
    return pa.table(columns)
