"""What the tests of fusions by products share: golden values, and encodings and parameters from plain arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import checks
from mmjax.contract import Encoding

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN, BILINEAR = (np.load(FOLDER / f"fusion_{name}.npz") for name in ("products", "bilinear"))


def golden(case, file=GOLDEN):
    """{name: array} of one case."""
    return {name.removeprefix(f"{case}/"): file[name] for name in file.files if name.startswith(f"{case}/")}


def bilinear(case):
    """The weights of a published bilinear fusion as `torch` names them: kernels [out, in], biases."""
    return {name.removeprefix("weights/"): value for name, value in golden(case, BILINEAR).items() if name.startswith("weights/")}


def is_published(case, module, params):
    """Whether a fusion of modalities a and b gives what the published one does; then its last layer and the gradients of the inputs."""
    wanted, given, weights = golden(case, BILINEAR), golden("inputs", BILINEAR), bilinear(case)

    def loss(xs):
        here = jnp.ones(3, bool)
        x = {m: Encoding.from_pooled(x, here) for m, x in zip("ab", xs, strict=True)}
        z = module.apply({"params": params}, x, train=False).pooled
        y = z @ weights["linear_out.weight"].T + weights["linear_out.bias"][None]
        return (y * given["weight"]).sum(), (z, y)

    (_, (z, y)), grads = checks.quick(jax.value_and_grad(loss, has_aux=True))([given["0"], given["1"]])
    np.testing.assert_allclose(z, wanted["z"], atol=1e-5)
    np.testing.assert_allclose(y, wanted["y"], atol=1e-5)
    for i, grad in enumerate(grads):
        np.testing.assert_allclose(grad, wanted[f"grad_{i}"], rtol=1e-4, atol=1e-5)


def inputs(*numbers):
    """The golden inputs of these numbers, [3, 4], [3, 5] and [3, 6], as modalities a, b, c."""
    return encodings(**{name: GOLDEN[f"inputs/{i}"] for name, i in zip("abc", numbers, strict=False)})


def encodings(absent=(), **pooled):
    """{modality: its encoding}; `absent` are pairs of modality and row, which hold NaN."""
    found = {}
    for m, x in pooled.items():
        present = np.array([(m, row) not in absent for row in range(len(x))])
        found[m] = Encoding.from_pooled(jnp.asarray(np.where(present[:, None], x, np.nan), jnp.float32), jnp.asarray(present))
    return found


def dense(kernel, bias=None):
    """A dense layer's parameters."""
    kernel = jnp.asarray(kernel, jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1]) if bias is None else jnp.asarray(bias, jnp.float32)}


def identity(width, inputs=None):
    """A dense layer that passes its inputs on, or the first `width` of them."""
    return dense(np.eye(inputs or width, width))


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
