"""What sources that keep prepared data on disk share: making them once, and saying that they are damaged."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

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


@contextlib.contextmanager
def reading(folder: str | Path, what: str, again: str) -> Iterator[None]:
    """Whatever goes wrong inside (array_record and tfds raise anything) is damaged data: delete the folder, and `again`."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"The prepared {what} cannot be read ({reason[:200]}). Delete the folder {folder} and {again}.") from error
