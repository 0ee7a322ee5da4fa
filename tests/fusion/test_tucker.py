"""Tucker, MUTAN, BLOCK and block-Tucker against published code; all of them are one full core, structured."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from products import bilinear, dense, drawn, encodings, is_published

import checks
from made import fused
from mmjax import config
from mmjax.config import ConfigError
from mmjax.fusion.tucker import Tucker
from mmjax.testing import fusion

OPTIONS = {
    "Tucker": dict(chunks=1, rank=None, normalize=False),
    "Mutan": dict(chunks=1, rank=2, normalize=False),
    "Block": dict(chunks=2, rank=3),
    "BlockTucker": dict(chunks=2, rank=None),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_published_values_and_gradients(case):
    w, options = bilinear(case), OPTIONS[case]
    chunks, rank, size = options["chunks"], options["rank"], 6 // options["chunks"]
    params = {f"{m}_in": dense(w[f"linear{i}.weight"].T, w[f"linear{i}.bias"]) for i, m in enumerate("ab")}
    for i, m in enumerate("ab") if rank else ():
        names = [f"merge_linears{i}.{c}" for c in range(chunks)] if chunks > 1 else [f"merge_linear{i}"]
        kernels, biases = (np.stack([w[f"{name}.{part}"] for name in names]) for part in ("weight", "bias"))
        params[f"{m}_core"] = kernels.reshape(chunks, rank, size, size).transpose(0, 3, 1, 2)
        params[f"{m}_core_bias"] = biases.reshape(1, chunks, rank, size)
    if not rank:
        names = [f"bilinears.{c}" for c in range(chunks)] if chunks > 1 else ["bilinear"]
        params["core"] = np.stack([w[f"{name}.weight"].transpose(1, 2, 0) for name in names])
        params["core_bias"] = np.stack([w[f"{name}.bias"] for name in names])[None]
    is_published(case, Tucker(6, **options), jax.tree.map(jnp.asarray, params))


def three(absent=()):
    return encodings(absent, a=drawn(4, 3), b=drawn(4, 5, seed=1), c=drawn(4, 2, seed=2))


@pytest.mark.parametrize("chunks", [1, 3], ids=["mutan", "block"])
def test_cores_of_low_rank_are_full_cores_of_sums_of_products(chunks):
    """Of three modalities, some absent: T_ijko = sum_r A_iro B_jro C_kro in every block on the diagonal, and 0 elsewhere."""
    x, size = three([("a", 1), ("a", 2), ("b", 2), ("c", 3)]), 6 // chunks
    module = Tucker(6, chunks, rank=2, normalize=False)
    params = dict(checks.drawn(module, x, train=False)["params"])
    for m in "abc":
        params[f"{m}_core_bias"] = params[f"{m}_core_bias"] * 0
    got = fused(module, {"params": params}, x).pooled

    blocks = jnp.einsum("ciro,cjro,ckro->cijko", *(params[f"{m}_core"] for m in "abc"))
    core = np.zeros((1, 6, 6, 6, 6), np.float32)
    for c, block in enumerate(blocks):
        core[(0, *(slice(c * size, (c + 1) * size),) * 4)] = block
    full = {**{f"{m}_in": params[f"{m}_in"] for m in "abc"}, "core": jnp.asarray(core), "core_bias": jnp.zeros((1, 1, 6))}
    wanted = fused(Tucker(6, 1, None, False), {"params": full}, x).pooled
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)

    halved = {**full, "core": jnp.asarray(blocks), "core_bias": jnp.zeros((1, chunks, size))}
    np.testing.assert_allclose(fused(Tucker(6, chunks, None, False), {"params": halved}, x).pooled, wanted, rtol=1e-4, atol=1e-5)


def test_a_full_core_takes_one_vector_a_mode():
    """What is absent is its projection's bias; every chunk is normalised for itself."""
    x = three([("b", 1)])
    module = Tucker(6, 2, None)
    params = checks.drawn(module, x, train=False)["params"]
    y = np.asarray(fused(module, {"params": params}, x).pooled).reshape(4, 2, 3)
    np.testing.assert_allclose(np.square(y).sum(axis=2), 1, atol=1e-5)
    parts = [(np.nan_to_num(x[m].pooled) @ params[f"{m}_in"]["kernel"] + params[f"{m}_in"]["bias"][None]).reshape(4, 2, 3) for m in "abc"]
    z = np.asarray(jnp.einsum("cijko,bci,bcj,bck->bco", params["core"], *parts) + params["core_bias"])
    np.testing.assert_allclose(np.square(y) * np.sign(y), z / np.abs(z).sum(axis=2, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("variant", ["mutan", "block_tucker"])  # BLOCK is the default, and Tucker a block-Tucker of one chunk
def test_the_variants_pass_the_checks_on_absence(variant):
    chunks = min(Tucker.variants[variant]["chunks"], 2)
    module = config.build("fusion", {"name": "tucker", "variant": variant, "width": 8, "chunks": chunks}, "fusion")
    subject = fusion.FusionSubject(module, Tucker.tiny()[1])
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_it_starts_with_a_variance_of_one_and_nothing_silenced():
    x = {m: drawn(64, 32, seed=i) for i, m in enumerate("abc")}
    complete, lacking = encodings(**x), encodings([("b", row) for row in range(64)], **x)
    for rank, width in ((4, 64), (None, 12)):
        module = Tucker(width, 1, rank, normalize=False)
        variables = checks.quick(partial(module.init, train=False))(jax.random.key(0), complete)
        spreads = [fused(module, variables, e).pooled.std() for e in (complete, lacking)]
        np.testing.assert_allclose(spreads, [1, 0.5**0.5], atol=0.35)


def test_what_cannot_be():
    def shapes(module):
        jax.eval_shape(lambda: module.init(jax.random.key(0), three(), train=False))

    with pytest.raises(ConfigError, match="chunks=8 do not divide width=12"):
        shapes(Tucker(12))
    message = r"core for 3 modalities with width=235 and chunks=1 has 3,049,800,625 entries, more than largest=100,000,000.*or a rank"
    with pytest.raises(ConfigError, match=message):
        shapes(Tucker(**Tucker.variants["tucker"]))
