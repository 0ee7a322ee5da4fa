"""LMF, MLB, MFB and MFH against published code; each is a special case of another, or of an explicit bilinear form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from products import bilinear, dense, drawn, encodings, golden, identity, inputs, is_published

import checks
from made import fused
from mmjax import config
from mmjax.config import ConfigError
from mmjax.fusion.low_rank import LowRank
from mmjax.fusion.tensor import Tensor
from mmjax.testing import fusion


def layer(factor):
    """A published factor [rank, 1 + D, width] as a dense layer."""
    bias, kernel = factor[:, 0].ravel(), factor[:, 1:].swapaxes(0, 1)
    return dense(kernel.reshape(len(kernel), -1), bias)


@pytest.mark.parametrize("name", ["low_rank", "low_rank_original"])
def test_published_values_and_gradients(name):
    case, x = golden(name), inputs(0, 1, 2)
    weights = case["weights"].reshape(2, 1, 1)  # of the ranks: the first factor takes them
    factors = [case["factor_0"] * weights, case["factor_1"], case["factor_2"]]
    params = {f"{m}_factor": layer(factor) for m, factor in zip("abc", factors, strict=True)} | {"bias": jnp.asarray(case["bias"])}

    def loss(params):
        pooled = LowRank(7, rank=2).apply({"params": params}, x, train=False).pooled
        return (pooled * case["weight"]).sum(), pooled

    (_, y), grads = checks.quick(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(y, case["y"], atol=1e-5)
    np.testing.assert_allclose(grads["bias"], case["grad_bias"], atol=1e-5)
    published = [case["grad_0"] / weights, case["grad_1"], case["grad_2"]]
    for m, grad in zip("abc", published, strict=True):  # none is hidden from an optimizer
        for part, wanted in layer(grad).items():
            np.testing.assert_allclose(grads[f"{m}_factor"][part], wanted, atol=2e-5)


def test_with_full_rank_it_is_tensor_fusion():
    """Any weight tensor is a sum of outer products: two factors choose an entry each, the third is the rest of the tensor there."""
    weight = drawn(3, 4, 5, 6)  # [1 + 2, 1 + 3, 1 + 4] to 6 features
    chosen = np.stack(np.meshgrid(np.arange(3), np.arange(4), indexing="ij"), axis=-1).reshape(12, 2)
    factors = {
        "a_factor": np.eye(3)[chosen[:, 0], :, None] * np.ones(6),
        "b_factor": np.eye(4)[chosen[:, 1], :, None] * np.ones(6),
        "c_factor": weight[chosen[:, 0], chosen[:, 1]],
    }
    bias = drawn(6)
    x = encodings([("a", 1), ("a", 2), ("b", 2), ("c", 3)], a=drawn(4, 2), b=drawn(4, 3, seed=1), c=drawn(4, 4, seed=2))
    got = fused(LowRank(6, rank=12), {"params": {m: layer(f) for m, f in factors.items()} | {"bias": bias[None]}}, x)

    full = np.zeros((5, 5, 5, 6), np.float32)
    full[:3, :4, :5] = weight
    params = {f"{m}_in": identity(4, n) for m, n in zip("abc", (2, 3, 4), strict=True)} | {"out": dense(full.reshape(-1, 6), bias)}
    wanted = fused(Tensor(6, inner=4), {"params": params}, x)
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-5)


def test_it_starts_with_a_variance_of_one_and_nothing_silenced():
    x = {m: drawn(64, 32, seed=i) for i, m in enumerate("abc")}
    complete, lacking = encodings(**x), encodings([("b", row) for row in range(64)], **x)
    variables = LowRank(64).init(jax.random.key(0), complete, train=False)
    spreads = [fused(LowRank(64), variables, e).pooled.std() for e in (complete, lacking)]
    np.testing.assert_allclose(spreads, [1, 0.5**0.5], atol=0.25)


def pooled_in_order(weight, bias, width=6):
    """A published layer to features that are pooled over neighbours, as a factor's: the products of a rank stand together."""
    return dense(*(np.moveaxis(x.reshape(width, -1, *x.shape[1:]), 1, 0).reshape(x.shape).T for x in (weight, bias)))


@pytest.mark.parametrize("case", ["MLB", "MFB", "MFH"])
def test_published_bilinear_fusions(case):
    """The published MLB has tanh here, MFB no activation and MFH relu, which is both packages' default."""
    w, blocks = bilinear(case), ("_0", "_1") if case == "MFH" else ("",)
    params = {"bias": jnp.zeros((1, 6 * len(blocks)))}
    for i, block in enumerate(blocks):
        for k, m in enumerate("ab"):
            name = f"linear{k}{block}"
            params[f"{m}_factor{i or ''}"] = pooled_in_order(w[f"{name}.weight"], w[f"{name}.bias"])
    options = {
        "MLB": dict(rank=1, activation="tanh"),
        "MFB": dict(rank=2, normalize=True),
        "MFH": dict(rank=2, order=2, activation="relu", normalize=True),
    }
    is_published(case, LowRank(6, **options[case]), params)


def unbiased(params):
    return {name: dense(layer["kernel"]) if name != "bias" else layer * 0 for name, layer in params.items()}


def test_an_mfb_is_a_bilinear_form_of_low_rank_whose_roots_are_of_length_one():
    """x'(U V')y, feature by feature: the squares of what comes out, with their signs, are it but for one length a row."""
    x = {"a": drawn(4, 3), "b": drawn(4, 5, seed=1)}
    module = LowRank(6, rank=2, normalize=True)
    params = unbiased(checks.drawn(module, encodings(**x), train=False)["params"])
    u, v = (params[f"{m}_factor"]["kernel"].reshape(-1, 2, 6) for m in "ab")
    form = np.einsum("bi,iro,jro,bj->bo", x["a"], u, v, x["b"])
    got = np.asarray(fused(module, {"params": params}, encodings(**x)).pooled)
    np.testing.assert_allclose(np.square(got) * np.sign(got), form / np.abs(form).sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(np.square(got).sum(axis=1), 1, atol=1e-6)


def test_an_mfh_is_its_mfbs_multiplied():
    """Block i is what LMF makes of its own products times those of all blocks before: of degree i + 1 in every modality."""
    x = {"a": drawn(4, 3), "b": drawn(4, 5, seed=1), "c": drawn(4, 2, seed=2)}
    module = LowRank(6, rank=2, order=3)
    params = unbiased(checks.drawn(module, encodings(**x), train=False)["params"])
    y = fused(module, {"params": params}, encodings(**x)).pooled.reshape(4, 3, 6)
    first = fused(LowRank(6, rank=2), {"params": {**params, "bias": params["bias"][:, :6]}}, encodings(**x))
    np.testing.assert_allclose(y[:, 0], first.pooled, atol=1e-6)
    products = [np.prod([x[m] @ params[f"{m}_factor{i or ''}"]["kernel"] for m in "abc"], axis=0) for i in range(3)]
    np.testing.assert_allclose(y[:, 2], np.prod(products, axis=0).reshape(4, 2, 6).sum(axis=1), rtol=1e-4, atol=1e-5)
    longer = fused(module, {"params": params}, encodings(**{**x, "b": 2 * x["b"]})).pooled.reshape(4, 3, 6)
    np.testing.assert_allclose(longer / y, np.broadcast_to(np.array([2, 4, 8])[None, :, None], y.shape), rtol=1e-4)


@pytest.mark.parametrize("variant", ["mlb", "mfh"])  # MFB is MFH's first block
def test_the_variants_pass_the_checks_on_absence(variant):
    module = config.build("fusion", {"name": "low_rank", "variant": variant, "width": 8, "dropout": 0.0}, "fusion")
    subject = fusion.FusionSubject(module, LowRank.tiny()[1])
    for check in (checks.check_absent_content, checks.check_all_absent, fusion.check_every_subset, checks.check_gradients):
        check(subject)


def test_an_unknown_activation():
    with pytest.raises(ConfigError, match="fusion.activation='tan' is unknown. Did you mean 'tanh'?"):
        LowRank(activation="tan").init({}, encodings(a=drawn(2, 3)), train=False)
