"""Makes weights/big_vision*.npz and big_vision.npz: checkpoints of big_vision's models, and what its code gives for them.

Its two towers (SigLIP's kind, and LiT's in one scan), made small, with random weights. Of the repository only `models` is needed;
what loads checkpoints from its storage is left out, as it takes TensorFlow.

    git clone https://github.com/google-research/big_vision
    PYTHONPATH=big_vision python tests/golden/make_big_vision.py
"""

import sys
from pathlib import Path
from types import ModuleType

for name in ("big_vision.utils", "big_vision.models.common"):
    sys.modules[name] = ModuleType(name)
import big_vision  # noqa: E402

big_vision.utils = sys.modules["big_vision.utils"]

import big_vision.models as models  # noqa: E402

models.common = sys.modules["big_vision.models.common"]

import flax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from big_vision.models.proj.image_text import two_towers  # noqa: E402

HERE = Path(__file__).parent
TINY = {"width": 16, "depth": 2, "mlp_dim": 32, "num_heads": 2}
RNG = np.random.default_rng(0)
IMAGE, TEXT = RNG.uniform(-1, 1, (2, 12, 12, 3)).astype(np.float32), RNG.integers(1, 50, (2, 6))
KINDS = {
    "siglip": {"image": {"pool_type": "map"}, "text": {}, "out_dim": (None, 16), "bias_init": -10.0},
    "lit": {"image": {"pool_type": "tok", "scan": True}, "text": {"pool_type": "gap"}, "out_dim": (8, 8)},
}


def main():
    out = {"image": IMAGE, "text": TEXT, "versions": np.array([f"jax {jax.__version__}", f"flax {flax.__version__}"])}
    for name, kind in KINDS.items():
        image = {**TINY, "patch_size": (4, 4), **kind.pop("image")}
        text = {**TINY, "vocab_size": 50, **kind.pop("text")}
        model = two_towers.Model(image=image, text=text, **kind)
        shapes = model.init(jax.random.key(0), jnp.asarray(IMAGE), jnp.asarray(TEXT))["params"]
        flat = flax.traverse_util.flatten_dict(shapes, sep="/")
        drawn = {k: (0.3 * RNG.normal(size=x.shape) + k.endswith("scale")).astype(np.float32) for k, x in flat.items()}
        np.savez(HERE / "weights" / f"big_vision_{name}.npz", **{f"params/{k}": x for k, x in drawn.items()})
        z = model.apply({"params": flax.traverse_util.unflatten_dict(drawn, sep="/")}, jnp.asarray(IMAGE), jnp.asarray(TEXT))
        out |= {f"{name}/image": np.asarray(z[0]), f"{name}/text": np.asarray(z[1])}
    np.savez_compressed(HERE / "big_vision.npz", **out)


if __name__ == "__main__":
    main()
