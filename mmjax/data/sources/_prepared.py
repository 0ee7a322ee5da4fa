"""What sources that keep prepared data on disk share: making them once, and saying that they are damaged."""

from __future__ import annotations

import contextlib
import fcntl
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmjax.config import DataError


def prepare_once(folder: Path, prepare: Callable[[], None]) -> None:
    """Has `prepare` make the folder, unless it is there.

    tfds writes to a folder of its own and renames it at the end, so a folder of the final name is complete. The lock
    makes a second process wait for the first; a process that is killed gives it up.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():  # else another process prepared it while we waited
            for leftover in folder.parent.glob(f"*incomplete*{folder.name}*"):
                shutil.rmtree(leftover)
            prepare()


def write_array_record(builder: Any, what: str) -> None:
    """Has a tfds builder write its data as one array_record file a split, with one line of progress instead of tfds' many."""
    import tensorflow_datasets as tfds

    print(f"{what}, once ...", end=" ", file=sys.stderr, flush=True)
    start = time.monotonic()
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as nothing:
            config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP, num_shards=1)
            builder.download_and_prepare(file_format="array_record", download_config=config, download_dir=nothing)
    finally:
        tfds.display_progress_bar(True)
    print(f"done in {time.monotonic() - start:.0f} s", file=sys.stderr)


@contextlib.contextmanager
def reading(folder: str | Path, what: str, again: str) -> Iterator[None]:
    """Whatever goes wrong inside (array_record and tfds raise anything) is damaged data: delete the folder, and `again`."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"The prepared {what} cannot be read ({reason[:200]}). Delete the folder {folder} and {again}.") from error
