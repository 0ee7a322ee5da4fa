"""Checkpoints with orbax: asynchronous, atomic, the newest and the best."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax.config import CheckpointError, ConfigError, nearest
from mmjax.contract import State
from mmjax.ops.processes import gathered, placed, seen

SHARED_FROM = 2**20  # bytes a device
ITEMS = ("params", "stats", "aux", "opt", "ema", "fitted")


class Checkpoints:
    """The checkpoints of a run: every `every` steps, of which the newest `keep` stay, and the best by the metric `best`.

    A checkpoint is written beside its final name and renamed when it is whole, so whatever is listed can be read.
    """

    def __init__(
        self,
        directory: Path,
        every: int = 1_000,
        keep: int = 2,
        best: str | None = None,
        best_mode: str = "max",
        *,
        read_only: bool = False,
    ):
        if best_mode not in ("max", "min"):
            raise ConfigError(f"checkpoint.best_mode={best_mode!r} is unknown (max, min).")
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

        self.directory, self.every, self.best = Path(directory).absolute(), every, best
        policies: list[Any] = [policy.LatestN(keep)]
        if best:
            policies.append(
                policy.BestN(get_metric_fn=lambda m: m["best"], reverse=best_mode == "min", n=1, keep_checkpoints_without_metrics=False)
            )
        # Of arrays that every device has whole each device writes a part, which takes a program to cut it out: only of large ones.
        handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED_FROM)
        told = logging.getLogger("absl")
        level = told.level
        told.setLevel(logging.ERROR)  # it warns of what is wanted here
        ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
        told.setLevel(level)
        self._sign = 1 if best_mode == "max" else -1
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={**{name: ocp.StandardCheckpointHandler() for name in ITEMS}, "meta": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy.AnyPreservationPolicy(policies),
                best_fn=(lambda m: m["best"]) if best else None,  # without it orbax does not store the metric
                best_mode=best_mode,
                cleanup_tmp_directories=not read_only,  # what looks like a leftover may be another process's save under way
                read_only=read_only,
                create=not read_only,
                step_prefix="step",
            ),
        )
        # The loop asks the preemption service of every step. A thread of orbax's would ask of older ones, and confuse it.
        self._manager.reached_preemption = lambda step: False

    @property
    def steps(self) -> list[int]:
        """The steps that can be restored."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The newest step."""
        return max(self.steps, default=None)

    def shared(self, step: int | None) -> int | None:
        """The step that process 0 means, which this process then sees, too."""
        step = gathered("step", step)[0]
        if step is not None and step not in self.steps and jax.process_count() > 1:
            seen(lambda: self._manager.reload() or step in self.steps, f"step {step} in {self.directory}")
        return step

    @property
    def best_step(self) -> int | None:
        """The step with the best metric; the newest where none has one."""
        found = {step: metrics["best"] for step in self.steps if (metrics := self._manager.metrics(step)) and "best" in metrics}
        return max(found, key=lambda step: (self._sign * found[step], -step)) if found else self.latest

    def save(self, state: State, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts to write the state; the devices go on. A step that is there already stays as it is.

        Raises:
            CheckpointError: this or the save before it could not be written.
        """
        step = int(state.step)
        if step in self.steps:
            return
        best = metrics.get(self.best) if metrics and self.best else None
        if best is None and any(name.split("/")[:2] == (self.best or "").split("/")[:2] for name in metrics or {}):
            raise ConfigError(f"checkpoint.best={self.best!r} is not measured.{nearest(self.best or '', metrics or {})}")
        save = self._ocp.args.StandardSave
        items: dict[str, Any] = {name: save(getattr(state, name)) for name in ITEMS if jax.tree.leaves(getattr(state, name))}
        meta = {**meta, "step": step, "key": jax.random.key_data(state.key).tolist()}
        items["meta"] = self._ocp.args.JsonSave(meta)
        with _disk(self, step):
            self._manager.save(step, args=self._ocp.args.Composite(**items), metrics=None if best is None else {"best": float(best)})

    def wait(self) -> None:
        """Until everything is written."""
        with _disk(self, None):
            self._manager.wait_until_finished()

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given beside the state."""
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(meta=self._ocp.args.JsonRestore()))["meta"]
        except Exception as error:
            raise self._unreadable(step, error) from error

    def restore(self, step: int, shapes: State) -> State:
        """The state at `step`, laid out as `shapes` says, on however many devices.

        Raises:
            CheckpointError: there is no such step, or it is of another architecture (missing, unexpected and mis-shaped
                arrays are named).
        """
        if step not in self.steps:
            raise CheckpointError(f"{self.directory} has no step {step}. It has: {', '.join(map(str, self.steps)) or 'none'}.")
        wanted = {name: getattr(shapes, name) for name in ITEMS if jax.tree.leaves(getattr(shapes, name))}
        restore = self._ocp.args.StandardRestore
        try:
            self._compare(step, wanted, whole=True)
            items = self._manager.restore(step, args=self._ocp.args.Composite(**{name: restore(tree) for name, tree in wanted.items()}))
        except CheckpointError:
            raise
        except Exception as error:
            raise self._unreadable(step, error) from error
        meta = self.meta(step)
        key = jax.random.wrap_key_data(placed(np.array(meta["key"], np.uint32), shapes.key.sharding))
        at = placed(np.array(step, np.int32), shapes.step.sharding)
        return shapes._replace(step=at, key=key, **{name: items[name] for name in wanted})

    def items(self, step: int) -> set[str]:
        """Which parts of the state are stored at `step`."""
        return set(self._manager.item_metadata(step).keys()) & set(ITEMS)

    def restore_some(self, step: int, item: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
        """Those arrays of `item` ('params', 'ema', ...) that the nested dict `shapes` has, laid out as it says.

        Raises:
            CheckpointError: the step has them not, or in other shapes; they are named.
        """
        ocp = self._ocp
        try:
            self._compare(step, {item: shapes}, whole=False)
            args = ocp.args.PyTreeRestore(shapes, ocp.checkpoint_utils.construct_restore_args(shapes), partial_restore=True)
            return ocp.PyTreeCheckpointer().restore(self.directory / f"step_{step}" / item, args=args)
        except CheckpointError:
            raise
        except Exception as error:
            raise self._unreadable(step, error) from error

    def stored(self, step: int, item: str) -> dict[str, tuple[int, ...]]:
        """{path: shape} of the arrays of an item."""
        found = self._manager.item_metadata(step)[item]
        return _shapes(getattr(found, "tree", found))

    def _compare(self, step: int, wanted: Mapping[str, Any], *, whole: bool) -> None:
        """Names what differs between the stored arrays and the wanted ones; unless `whole`, there may be more of them."""
        found = self._manager.item_metadata(step)
        problems = []
        for name, tree in wanted.items():
            item = found[name] if name in found.keys() else {}  # noqa: SIM118 - it has keys but is no dict
            if item is None:  # not even what it holds can be read: restoring will say so
                continue
            problems += mismatches(name, _shapes(getattr(item, "tree", item)), _shapes(tree), whole=whole)
        refuse(problems, f"Step {step} in {self.directory} is of another architecture than the config")

    def _unreadable(self, step: int, error: Exception) -> CheckpointError:
        others = ", ".join(str(s) for s in self.steps if s != step)
        rest = f"Other steps there: {others}." if others else "It is the only step there."
        return CheckpointError(f"Step {step} in {self.directory} cannot be read: {_first_line(error)}. {rest}")

    def close(self) -> None:
        """Waits and lets go of the directory."""
        self.wait()
        self._manager.close()


class _disk:
    """Turns what goes wrong in writing into one line that says what is still good."""

    def __init__(self, checkpoints: Checkpoints, step: int | None):
        self.checkpoints, self.step = checkpoints, step

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, traceback) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, ConfigError):
            return
        self.checkpoints._manager.reload()
        good = self.checkpoints.latest
        raise CheckpointError(
            f"A checkpoint could not be written to {self.checkpoints.directory}: {_first_line(error)}. Is the disk full? "
            + (f"The last good one is step {good}; the same command resumes from it." if good is not None else "There is none yet.")
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """{'a/b': shape}, the same for dicts, lists and named tuples."""
    out = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
        if hasattr(leaf, "shape"):
            out[name] = tuple(leaf.shape)
    return out


def mismatches(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any], *, whole: bool = True) -> list[str]:
    """In what the shapes of arrays, by path, differ from the wanted ones; unless `whole`, there may be more of them."""
    return [
        *(f"missing {name}/{k}" for k in wanted if k not in found),
        *(f"unexpected {name}/{k}" for k in found if whole and k not in wanted),
        *(f"{name}/{k} is {found[k]}, not {wanted[k]}" for k in wanted if k in found and found[k] != wanted[k]),
    ]


def refuse(problems: Sequence[str], what: str) -> None:
    """Raises `CheckpointError` with the first eight problems, if there are any."""
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"{what}: {'; '.join(problems[:8])}{more}.")
