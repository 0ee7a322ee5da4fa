"""Makes hlo/*.txt: two small programs as the compiler for TPUs writes them, for a v5e slice of 2 x 4 chips that need not be there.

`fsdp`: the training step of three layers whose weights are split over four chips: all-gathers, one of them beside computation, and
reduce-scatters in the form of fusions. `ring`: eight chips pass their rows round in a loop. To run it again, with the extra `tpu`:

    python tests/golden/make_hlo.py
"""

import os
import re
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

WIDTH, ROWS = 1_024, 4_096
BOTH = PartitionSpec(("data", "fsdp"))


def step(layers, x):
    def loss(layers):
        y = x
        for w in layers:
            y = jnp.tanh(y @ w)
        return (y**2).mean()

    return [w - 0.1 * g for w, g in zip(layers, jax.grad(loss)(layers), strict=True)]


def ring(x):
    def one(carry, _):
        x, total = carry
        there = jax.lax.ppermute(x, ("data", "fsdp"), [(i, (i + 1) % 8) for i in range(8)])
        return (there, total + x @ x.T), None

    return jax.lax.scan(one, (x, jnp.zeros((len(x), len(x)))), None, length=8)[0][1]


def write(name, fn, *arguments, **kwargs):
    text = jax.jit(fn, **kwargs).lower(*arguments).compile().as_text()
    text = re.sub(r",? *metadata=\{[^}]*\}", "", text)
    text = re.sub(r",? *backend_config=[^\n]*", "", text)
    head, _, rest = text.partition("\n")
    body = rest[rest.index("\n%") :]  # behind the tables of files and functions
    (Path(__file__).parent / "hlo" / f"{name}.txt").write_text(f"{head.split(',')[0]}, jax {jax.__version__}\n{body}")


if __name__ == "__main__":
    devices = topologies.get_topology_desc("v5e:2x4", "tpu").devices
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=devices)
    split = NamedSharding(mesh, PartitionSpec("fsdp", None))
    layers = [jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32, sharding=split)] * 3
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, BOTH))
    with jax.set_mesh(mesh):
        write("fsdp", step, layers, x, out_shardings=[split] * 3)
        write("ring", jax.shard_map(ring, in_specs=BOTH, out_specs=BOTH, check_vma=False), x)
