"""What a finished model makes of anything that it is given: a run of one's own, or public weights.

embedder = Embedder("runs/clip_vit_b16")        # or a folder, a file or a hub's name of CLIP, CoCa, SigLIP or CLAP
z, here = embedder.embed("image", [Path("dog.jpg").read_bytes()])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float

from mmjax.config import CheckpointError, ConfigError, DataError, build, nearest
from mmjax.contract import State, kind, present
from mmjax.data.loader import Data
from mmjax.data.split import SplitView
from mmjax.train.build import parts_of
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.optim import paths
from mmjax.train.pretrained import from_weights
from mmjax.train.run import read_config
from mmjax.train.sharding import make_mesh
from mmjax.train.step import make_functions
from mmjax.weights._files import folder_of, read

# By family the arrays that tell it, the first that fits: CoCa has a CLIP inside.
FAMILIES = {
    "coca": ("visual.attn_pool.query",),
    "clip": ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    "siglip": ("vision_model.head.probe",),
    "clap": ("audio_model.audio_encoder.batch_norm.weight",),
}


class Embedder:
    """A model's unit vectors of streams.

    `streams` are those that it embeds, `scale` what its similarities are multiplied with before a softmax, `name` what it is.

    Args:
        path: the folder of a run that aligns, whose best checkpoint is taken; or weights of a family that has both towers.
        tokenizer: the file of the weights' tokenizer, where it does not lie beside them.
        batch_size: how many are embedded at once, over all devices.

    Raises:
        ConfigError, DataError, CheckpointError: it is none of these, or cannot be read.
    """

    def __init__(self, path: str, tokenizer: str | None = None, batch_size: int = 64):
        self.name = str(path)
        if (Path(path) / "config.json").exists() and (Path(path) / "checkpoints").exists():
            self._of_run(Path(path), batch_size)
        else:
            self._of_weights(str(path), tokenizer, batch_size)
        self._functions = make_functions(self._model, {}, self.data.batch_pp)

    def _of_run(self, run: Path, batch_size: int) -> None:
        config = read_config(run)
        config["data"] |= {"batch_size": batch_size, "cache": False, "encoded": []}
        config["mesh"], config["optimizer"] = {}, {**config["optimizer"], "accumulate": 1, "cache": 1}
        parts = parts_of(config, run)
        self.data, self._mesh, self._model = parts.data, parts.mesh, parts.model
        self.streams = sorted(config["model"].get("encoders", {}))
        with closing(Checkpoints(run / "checkpoints", **config["checkpoint"], read_only=True)) as checkpoints:
            step = checkpoints.best_step
            if step is None:
                raise CheckpointError(f"{run} has no checkpoint yet.")
            place = NamedSharding(self._mesh, PartitionSpec())

            def restored(item: str) -> dict[str, Any]:
                if item not in checkpoints.items(step):
                    return {}
                shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32, sharding=place) for k, s in checkpoints.stored(step, item).items()}
                return checkpoints.restore_some(step, item, unflatten_dict(shapes, sep="/")) if shapes else {}

            params = restored("ema") or restored("params")
            log_scale = next((float(x) for name, x in paths(params).items() if name.endswith("/log_scale")), None)
            self.scale = 100.0 if log_scale is None else float(np.exp(log_scale))
            self._state = _state(params, restored("stats"), restored("fitted"))

    def _of_weights(self, path: str, tokenizer: str | None, batch_size: int) -> None:
        arrays = read(path)
        family = next((name for name, keys in FAMILIES.items() if any(key in arrays for key in keys)), None)
        if family is None:
            raise DataError(f"{path} is neither a run nor the weights of {' or '.join(FAMILIES)}.")
        weights: Any = build("weights", {"name": family, "path": path}, "weights")
        del arrays
        config = weights.config()
        words = {"name": "file", "path": tokenizer or str(folder_of(path))}
        self.data = Data({"name": "given"}, config["pp"], batch_size, batch_pp=config["batch_pp"], tokenizer=words)
        self._mesh, self.scale, self.streams = make_mesh(), config["scale"], sorted(config["pp"])
        self._model = build("models", config["model"], "model")
        table = config["model"]["encoders"]["text"]["vocab"]
        if table < self.data.tokenizer.vocab:
            raise ConfigError(
                f"{words['path']} has {self.data.tokenizer.vocab} tokens, and {path} embeds {table}: it is another's tokenizer."
            )
        batch = {m: jnp.zeros((1, *size), jnp.int32 if kind(m) == "text" else jnp.float32) for m, size in config["sizes"].items()}
        place = NamedSharding(self._mesh, PartitionSpec())
        shapes = jax.eval_shape(self._model.init, jax.random.key(0), batch)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
        params, stats = {}, {collection: {} for collection in shapes if collection != "params"}
        for part, tree in shapes["params"].items():
            own = {collection: shapes[collection][part] for collection in stats if part in shapes[collection]}
            params[part], own = from_weights(weights, part, path, tree, own)
            for collection, arrays in own.items():
                stats[collection][part] = arrays
        self._state = jax.device_put(_state({"model": params}, stats, {}), place)

    def stream(self, wanted: str) -> str:
        """The stream of this name or kind.

        Raises:
            ConfigError: the model embeds none.
        """
        found = [m for m in self.streams if wanted in (m, kind(m))]
        if not found:
            raise ConfigError(f"{self.name} embeds no {wanted!r}.{nearest(wanted, self.streams)}")
        return found[0]

    def embed(self, stream: str, values: Sequence[Any]) -> tuple[Float[np.ndarray, "N D"], Bool[np.ndarray, " N"]]:
        """Unit vectors of encoded images or clips (bytes) or of texts, and which of them could be read; the others are 0."""
        stream, z, here = self.stream(stream), [], []
        with jax.set_mesh(self._mesh):
            for batch in self._batches(stream, values):
                z.append(self._functions.outputs(self._state, batch, (f"{stream}/z",))[f"{stream}/z"])
                here.append(self._functions.replicated(present(batch, stream)))
            z, here = (np.concatenate(jax.device_get(a))[: len(values)] for a in (z, here))
        return z, here

    def _batches(self, stream: str, values: Sequence[Any]) -> Iterable[Any]:
        return SplitView(self.data, self._mesh, "given").given(stream, values)


def _state(params: Any, stats: Any, fitted: Any) -> State:
    return State(jnp.int32(0), params, stats, {}, {}, (), fitted, jax.random.key(0))
