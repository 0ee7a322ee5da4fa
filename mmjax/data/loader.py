"""source -> pp -> batches on the mesh: deterministic, split between hosts, resumable at any step.

The order is a seeded global permutation an epoch (of every part of its own, where the source has strata: `order.py`);
step s takes rows s * B to (s + 1) * B of it and every process loads those that its devices hold, so the global batches are
the same whatever the number of processes and the position is s alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import ChainMap, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax import config
from mmjax.config import ConfigError, DataError, UserError
from mmjax.contract import BATCH_AXES, MASK, kind
from mmjax.data import stored
from mmjax.data.batch_pp import BatchPP
from mmjax.data.examples import Examples, Source, Spec, Unreadable, field, has, strata_of
from mmjax.data.order import Order, balanced
from mmjax.data.pp.builder import Pipeline, parse
from mmjax.data.tokenizers import Tokenizer, make_tokenizer
from mmjax.ops.processes import gathered, seen

ENDLESS = 2**40  # steps
FITTED_ON = 10_000  # examples, where there are more


class Data:
    """All that a run reads: `source` and how its examples become batches.

    Args:
        source: the source's config, `dict(name="openmoji", ...)`.
        pp: the operations of each stream, as `pp/builder.py` reads them; a field of the source is chosen by the
            stream's name, or by its kind (`image_view2` reads `image` where there is no field of that name).
        batch_size: global, for training and evaluation.
        batch_pp, modality_dropout: what is done on the device, as `batch_pp/__init__.py` reads it.
        tokenizer: `dict(name="byte")`; `dict(name="file", path=...)`, a pretrained encoder's; or `dict(name="bpe", vocab=...)`,
            trained on the training split, or with `sample=1_000_000` on the texts of so many of its examples, drawn by the seed.
        balance: the least share of training rows that have a stream, dict(audio_sound=0.25): examples with a stream that few
            have are drawn more often, the others less. An example has a stream if it has a field for it.
        cache: whether what the operations before the first that draws give stays in memory.
        encoded: streams of frozen encoders, which batches carry as their encodings: each example goes through the encoder once,
            as in evaluation. They stay in the host's memory, 4 bytes a number of a token.
        encoded_in: a folder where these are stored for other runs, each under a fingerprint of the data, operations and weights.
        threads, prefetch: threads that load batches, and batches kept ready on the devices.
        max_unreadable: the share of unreadable items above which reading stops.
        seed, workdir: provided by the run; the tokenizer is stored in `workdir`.
        path: where in the config all this stands, for the errors.
    """

    def __init__(
        self,
        source: Mapping[str, Any],
        pp: Mapping[str, str],
        batch_size: int,
        *,
        batch_pp: Any = None,
        modality_dropout: Any = None,
        tokenizer: Mapping[str, Any] | None = None,
        balance: Mapping[str, float] | None = None,
        cache: bool = False,
        encoded: Sequence[str] = (),
        encoded_in: str | None = None,
        threads: int = 2,
        prefetch: int = 2,
        max_unreadable: float = 0.01,
        seed: int = 0,
        workdir: Path | None = None,
        path: str = "data",
    ):
        self.source_config, self.pp, self.batch_size = source, dict(pp), batch_size
        self.tokenizer_config = dict(tokenizer or {"name": "byte"})
        self.balance = dict(balance or {})
        self.cache, self.threads, self.prefetch, self.max_unreadable = cache, threads, prefetch, max_unreadable
        self.seed, self.workdir, self.path = seed, workdir, path
        self.encoded, self._encoded_in = tuple(encoded), encoded_in
        self._run: Data | None = None
        self._encode: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] | None = None
        self._made_of: Callable[[str], str] = str
        self._encoded: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        self._fitted: dict[Mesh, dict[str, Any]] = {}
        self._sources: dict[str, Source] = {}
        self._tokenizer: Tokenizer | None = None
        self._examples: dict[Any, Examples] = {}
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ConfigError(f"config.seed={seed!r} should be a whole number from 0 to 2^32 - 1.")
        if not self.pp:
            raise ConfigError(f"{path}.pp names no stream.")
        for stream, share in self.balance.items():
            if stream not in self.pp:
                raise ConfigError(f"{path}.balance.{stream}: {path}.pp reads no such stream.{config.nearest(stream, self.pp)}")
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
                raise ConfigError(f"{path}.balance.{stream}={share!r} should be a share of the rows, between 0 and 1.")
        config.check_part("data.sources", source, f"{path}.source", provided=("split",))
        config.check_call(make_tokenizer, self.tokenizer_config, "data.tokenizer", provided=("texts",), common=("sample",))
        self._sample = self.tokenizer_config.pop("sample", None)
        if self._sample is not None and (not isinstance(self._sample, int) or self._sample < 1):
            raise ConfigError(f"data.tokenizer.sample={self._sample!r} should be a number of examples, or None for all.")
        if not self._stored_tokenizer:  # a run that has begun keeps its own, and the file may be gone by now
            make_tokenizer([], **self.tokenizer_config)
        pipelines = self._parse(self.pp, tokenizer=None)
        for stream in self.encoded:
            if stream not in pipelines:
                raise ConfigError(f"{path}.encoded: {path}.pp reads no {stream!r}.{config.nearest(stream, self.pp)}")
            drawn = [name for name, draws in zip(pipelines[stream].names, pipelines[stream].draws, strict=True) if draws]
            if drawn:
                raise ConfigError(f"{path}.encoded: {stream!r} is encoded once, but {path}.pp.{stream} draws anew, by {drawn[0]}.")
        self.batch_pp = BatchPP(batch_pp, modality_dropout, known=self.pp, path=path)

    def reseeded(self, seed: int) -> Data:
        """The same data in the order, and with the augmentation, of another seed; what is fitted or encoded stays."""
        other = copy.copy(self)
        other.seed = seed
        other._examples = {name: examples for name, examples in self._examples.items() if not name[2]}
        return other

    def elsewhere(self, path: str, *, source: Mapping[str, Any], pp: Mapping[str, str] | None = None) -> Data:
        """Other data for the same run, with its batch size, seed and tokenizer, and its operations for what `pp` leaves out."""
        found = Data(
            source,
            {**self.pp, **(pp or {})},
            self.batch_size,
            tokenizer=self.tokenizer_config,
            cache=self.cache,
            threads=self.threads,
            prefetch=self.prefetch,
            max_unreadable=self.max_unreadable,
            seed=self.seed,
            path=path,
        )
        found._run = self
        return found

    def _parse(self, pp: Mapping[str, str], tokenizer: Tokenizer | None, split: str | None = None) -> dict[str, Pipeline]:
        """The pipelines of some streams; without a tokenizer and a split they are checked and can run up to `tokens` or `index`."""
        provided = {stream: {"tokenizer": tokenizer, "classes": self.classes(split, stream) if split else None} for stream in pp}
        return {stream: parse(text, stream, provided[stream], f"{self.path}.pp") for stream, text in pp.items()}

    def source(self, split: str) -> Source:
        """One split of the source, opened once."""
        if split not in self._sources:
            self._sources[split] = config.build("data.sources", self.source_config, f"{self.path}.source", split=split)
        return self._sources[split]

    def open(self, splits: Iterable[str]) -> None:
        """Opens splits, so that what is wrong with one is said early.

        Raises:
            DataError: also where the train split is smaller than a batch.
        """
        for split in splits:
            n = len(self.source(split))
            if split == "train" and n < self.batch_size:
                raise DataError(f"The train split has {n} examples, fewer than data.batch_size={self.batch_size}: lower it to {n} or less.")

    def classes(self, split: str, stream: str) -> Sequence[str] | None:
        """The names of a label's classes, where the source has them."""
        known = getattr(self.source(split), "classes", None) or {}
        return known.get(stream, known.get(kind(stream)))

    @property
    def fingerprint(self) -> str:
        """Identity of what training reads, the source's and the tokenizer's, in words that show what changed."""
        return f"{self.source('train').fingerprint}; tokenizer {self.tokenizer.fingerprint[:16]}"

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer: read from the run folder, or made and stored there."""
        if self._run is not None:
            return self._run.tokenizer
        if self._tokenizer is None:
            if stored := self._stored_tokenizer:
                self._tokenizer = Tokenizer.load(stored)
            else:
                self._tokenizer = make_tokenizer(self._training_texts(), **self.tokenizer_config)
                if self.workdir and jax.process_index() == 0:
                    self._tokenizer.save(self.workdir / "tokenizer.json")
        return self._tokenizer

    def open_tokenizer(self) -> None:
        """Makes the tokenizer or reads it; of several processes the first makes it, and the others read what it has stored."""
        if jax.process_index() == 0:
            _ = self.tokenizer
        gathered("tokenizer")
        if self.workdir:
            seen(lambda: self._stored_tokenizer is not None, self.workdir / "tokenizer.json")
        _ = self.tokenizer

    @property
    def fingerprints(self) -> dict[str, str]:
        """What each split that is open is, by its source."""
        return {split: source.fingerprint for split, source in self._sources.items()}

    @property
    def _stored_tokenizer(self) -> Path | None:
        """The run folder's, if it has one."""
        stored = self.workdir and self.workdir / "tokenizer.json"
        return stored if stored and stored.exists() else None

    def _training_texts(self, draws: int = 4) -> Iterator[str]:
        """What the model will read: the training texts as the operations before `tokens` give them, several draws each."""
        source = self.source("train")
        for stream, pipeline in self._parse(self.pp, tokenizer=None).items():
            if "tokens" not in pipeline.names:
                continue
            for i in _sampled(len(source), self._sample, self.seed):
                try:
                    texts = field(source[i], stream)
                    rngs = (np.random.default_rng((self.seed, draw, i)) for draw in range(draws))
                    drawn = [] if texts is None else [pipeline(texts, rng, stop=pipeline.readable) for rng in rngs]
                except Exception:  # unreadable: counted when training meets it
                    continue
                yield from (text for text in drawn if isinstance(text, str))

    def examples(
        self, split: str, pp: Mapping[str, str] | None = None, *, train: bool = False, items: str | None = None, kept: bool = True
    ) -> Examples:
        """A split behind its pipelines (the run's, or `pp`). Every item that an example has of the stream `items` is a row.

        With `kept=False` neither these examples nor what their operations give stays in memory.
        """
        pp = dict(self.pp if pp is None else pp)
        name = (split, tuple(sorted(pp.items())), train, items)
        if name in self._examples:
            return self._examples[name]
        found = Examples(
            self.source(split),
            self._parse(pp, self.tokenizer, split),
            split=split,
            seed=self.seed if train else None,
            cache=self.cache and kept,
            max_unreadable=self.max_unreadable,
            items=items,
            path=self.path,
        )
        if kept:
            self._examples[name] = found
        return found

    @property
    def spec(self) -> dict[str, Spec]:
        """Shapes and types of the training examples' streams."""
        return self.examples("train", train=True).spec

    @property
    def unreadable(self) -> dict[str, int]:
        """How many items of each split could not be read so far, by this process."""
        return {split: len(items) for split, items in self.unreadable_items.items()}

    @property
    def unreadable_items(self) -> dict[str, list[int]]:
        """The items of each split that could not be read so far, by this process."""
        found: dict[str, set[int]] = {}
        for examples in self._examples.values():
            found.setdefault(examples.split, set()).update(examples.unreadable)
        return {split: sorted(items) for split, items in found.items()}

    def fitted(self, mesh: Mesh) -> dict[str, Any]:
        """What the operations on the device fit: on the training examples without augmentation, or 10,000 drawn by the seed.

        Raises:
            DataError: what is fitted is not finite.
        """
        if mesh not in self._fitted:
            self._fitted[mesh] = self._fit(mesh)
        return self._fitted[mesh]

    def _fit(self, mesh: Mesh) -> dict[str, Any]:
        pp = {stream: self.pp[stream] for stream in self.batch_pp.fits}
        if not pp:
            return {}
        rows = _sampled(len(self.source("train")), FITTED_ON, self.seed)
        found = self.batch_pp.fit(lambda: self.eval_batches(mesh, "train", pp, rows=rows))
        for place, leaf in jax.tree_util.tree_leaves_with_path(found):
            if not np.isfinite(leaf).all():
                stream, name = (entry.key for entry in place[:2])
                what = f"{self.path}.batch_pp.{stream}: what {name.partition('_')[2]} fits is not finite"
                raise DataError(f"{what}: values of the training examples are NaN or infinite, or none of them is valid.")
        return found

    def encode(self, encode: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] | None, made_of: Callable[[str], str] = str) -> None:
        """From here on batches carry the `encoded` streams as their encodings, wherever they are read by the run's operations.

        `encode(stream, batch)` gives what stands for the stream in a batch, and `made_of(stream)` a fingerprint of what does so;
        what was encoded before stays. With None they are as they were.
        """
        self._encode, self._made_of = encode, made_of

    def _read(self, mesh: Mesh, split: str, pp: Mapping[str, str], *, items: str | None = None, **more: Any) -> Examples:
        """The examples that batches are made of: of `encoded` streams, where `pp` is the run's, their encodings."""
        ready = [m for m in self.encoded if self._encode and items is None and pp.get(m) == self.pp[m]]
        examples = self.examples(split, {m: text for m, text in pp.items() if m not in ready}, items=items, **more)
        if not ready:
            return examples
        unreadable = [self.examples(split, {m: self.pp[m]}).unreadable for m in ready]
        return examples.with_encodings({m: self._encodings(mesh, split, m) for m in ready}, dict(ChainMap(*unreadable)))

    def _encodings(self, mesh: Mesh, split: str, stream: str) -> dict[str, np.ndarray]:
        """What stands for an encoded stream in a batch, of all rows of a split; made the first time."""
        if (split, stream) not in self._encoded:
            assert self._encode is not None
            examples = self.examples(split, {stream: self.pp[stream]})
            place = self._place(split, stream)
            found = stored.load(place) if place else None
            if all(gathered("encoded", found is not None)) and found:  # what one process reads and another makes, none would
                self._encoded[split, stream] = found.arrays
                examples.unreadable.update(found.unreadable)
                return found.arrays
            parts: dict[str, list[Any]] = {}
            for batch in self._once(mesh, examples, range(len(examples))):
                for name, value in self._encode(stream, batch).items():
                    parts.setdefault(name, []).append(value)
            self._encoded[split, stream] = {n: np.concatenate(jax.device_get(values))[: len(examples)] for n, values in parts.items()}
            for told in gathered("unreadable", examples.unreadable):  # each process has read its own rows
                examples.unreadable.update({int(item): why for item, why in told.items()})
            if place and jax.process_index() == 0:
                stored.save(place, self._encoded[split, stream], examples.unreadable)
        return self._encoded[split, stream]

    def _place(self, split: str, stream: str) -> Path | None:
        """Where the encodings of a stream are stored."""
        if not self._encoded_in:
            return None
        made = [self._made_of(stream), self.source(split).fingerprint, self.pp[stream], self.tokenizer.fingerprint]
        return Path(self._encoded_in) / f"{stream}_{split}_{hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]}.safetensors"

    def train_batches(self, mesh: Mesh, start: int = 0) -> Iterator[dict[str, jax.Array]]:
        """Endless batches from step `start` on, placed on the mesh ahead of time."""
        import grain

        self.open(["train"])
        examples = self._read(mesh, "train", self.pp, train=True)
        size = self.batch_size
        mine = _process_rows(mesh, size)

        arranged, strata = self._balanced(examples.source)
        order = Order(strata, self.seed)

        def load(step: int) -> dict[str, np.ndarray]:
            rows, epochs = order(step * size + mine)
            rows = rows if arranged is None else arranged[rows]
            return examples.collate([examples.read_next(int(row), int(epoch)) for row, epoch in zip(rows, epochs, strict=True)])

        return self._placed(self._threaded(grain.MapDataset.range(ENDLESS).map(load), start), mesh)

    def _balanced(self, source: Source) -> tuple[np.ndarray | None, list[tuple[int, int, float]]]:
        """The arrangement of the examples that the strata of training are of, None for the source's own; and the strata."""
        strata = strata_of(source)
        if not self.balance:
            return None, strata
        having = {stream: np.array([has(source, i, stream) for i in range(len(source))]) for stream in self.balance}
        try:
            return balanced(strata, having, self.balance)
        except ValueError as error:
            raise ConfigError(f"{self.path}.balance={self.balance}: {error}.") from error

    def eval_batches(
        self,
        mesh: Mesh,
        split: str,
        pp: Mapping[str, str] | None = None,
        *,
        items: str | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
        kept: bool = True,
    ) -> Iterator[dict[str, jax.Array]]:
        """A split (or some `rows` of it) once, in order, without augmentation; `_mask` is False on padding and the unreadable."""
        examples = self._read(mesh, split, self.pp if pp is None else pp, items=items, kept=kept)
        return self._once(mesh, examples, range(len(examples)) if rows is None else rows)

    def given(self, mesh: Mesh, stream: str, values: Sequence[Any]) -> Iterator[dict[str, jax.Array]]:
        """Batches of `values` as if they were the source's `stream`; what its operations leave nothing of is absent."""
        pipelines = self._parse({stream: self.pp[stream]}, self.tokenizer)
        examples = Examples(_Given(stream, values), pipelines, split="given", seed=None, max_unreadable=1.0, path=self.path)
        return self._once(mesh, examples, range(len(examples)))

    def _once(self, mesh: Mesh, examples: Examples, order: Sequence[int] | np.ndarray) -> Iterator[dict[str, jax.Array]]:
        import grain

        size = self.batch_size
        mine = _process_rows(mesh, size)

        def read(place: int) -> dict[str, Any] | None:
            try:
                return examples.read(int(order[place])) if place < len(order) else None
            except Unreadable:
                return None

        def load(step: int) -> dict[str, np.ndarray]:
            rows = [read(step * size + int(row)) for row in mine]
            return {**examples.collate(rows), MASK: np.array([r is not None for r in rows])}

        steps = -(-len(order) // size)
        return self._placed(self._threaded(grain.MapDataset.range(steps).map(load), 0), mesh)

    def _threaded(self, dataset: Any, start: int) -> Iterator[dict[str, np.ndarray]]:
        import grain

        iterator = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * self.threads)))
        iterator.set_state({"next_index": start})
        return iterator

    def _placed(self, batches: Iterator[dict[str, np.ndarray]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
        sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        alone = jax.process_count() == 1  # a third of the time, where there is nothing to put together
        ahead: deque = deque()

        def place(x: np.ndarray) -> jax.Array:
            return jax.make_array_from_process_local_data(sharding, x, (self.batch_size, *x.shape[1:]))

        try:
            for batch in batches:
                ahead.append(jax.device_put(batch, sharding) if alone else jax.tree.map(place, batch))
                if len(ahead) > self.prefetch:
                    yield ahead.popleft()
        except UserError as error:  # grain adds lines about itself to what is raised in its threads
            raise type(error)(str(error).partition("\n---")[0]) from error
        yield from ahead


class _Given:
    """Values in memory as a source of one stream."""

    fingerprint = "given"

    def __init__(self, stream: str, values: Sequence[Any]):
        self.stream, self.values = stream, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {self.stream: self.values[index]}

    def describe(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}


def _sampled(count: int, sample: int | None, seed: int) -> Sequence[int]:
    """So many of `count` examples, drawn by the seed, in the order in which they lie; all of them with None."""
    if sample is None or sample >= count:
        return range(count)
    return np.sort(np.random.default_rng(seed).choice(count, sample, replace=False)).tolist()


def _process_rows(mesh: Mesh, size: int) -> np.ndarray:
    """The rows of a batch that lie on this process's devices, whatever the order of devices in the mesh."""
    if jax.process_count() == 1:
        return np.arange(size)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    here = {index[0].indices(size)[:2] for index in sharding.addressable_devices_indices_map((size,)).values() if index}
    return np.concatenate([np.arange(*rows) for rows in sorted(here)])
