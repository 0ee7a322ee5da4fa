"""Products in 8 bits: against flax's, whose scales are set to the same; error bounds; in blocks."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import checks
from mmjax.encoders.vit import ViT
from mmjax.nn import fp8
from mmjax.nn.transformer import Transformer
from mmjax.train.optim import Optimizer

RNG = np.random.default_rng(0)
X, KERNEL, G = (
    jnp.asarray(scale * RNG.normal(size=size), jnp.float32) for scale, size in ((3.0, (2, 5, 16)), (0.1, (16, 8)), (1e-4, (2, 5, 8)))
)


def dense(dots):
    return nn.Dense(KERNEL.shape[1], use_bias=False, dot_general=dots)


def test_product_and_gradients_are_those_of_flax_with_the_scales_of_now():
    theirs = partial(nn.Fp8DirectDotGeneralOp, amax_history_length=1)
    module = nn.Dense(KERNEL.shape[1], use_bias=False, dot_general_cls=theirs)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        variables = module.init(jax.random.key(0), X)
        (name, meta) = next(iter(variables["_overwrite_with_gradient"].items()))
        most = {"input": X, "kernel": KERNEL, "output_grad": G}
        meta = {**meta, **{f"{of}_amax_history": jnp.abs(x).max()[None] for of, x in most.items()}}
        other = lambda x, kernel: module.apply({"params": {"kernel": kernel}, "_overwrite_with_gradient": {name: meta}}, x)  # noqa: E731
        wanted, pull = jax.vjp(other, X, KERNEL)
        wanted_gradients = pull(G)
    got, pull = jax.vjp(lambda x, kernel: dense(fp8.dot_general).apply({"params": {"kernel": kernel}}, x), X, KERNEL)
    for a, b in zip((got, *pull(G)), (wanted, *wanted_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_numbers_are_rounded_by_at_most_half_a_step_of_the_format():
    x = jnp.asarray(10.0 ** RNG.uniform(-2, 3, 4_000) * RNG.choice([-1, 1], 4_000), jnp.float32)
    for dtype, fraction in ((fp8.FORWARD, 3), (fp8.BACKWARD, 2)):
        small, scale = fp8.rounded(x, dtype)
        error = np.abs(small.astype(jnp.float32) * scale - x)
        tiny = float(jnp.finfo(dtype).smallest_normal) * 2.0**-fraction / 2 * scale
        assert small.dtype == dtype and (error <= np.abs(x) * 2.0 ** -(fraction + 1) * 1.0001 + tiny).all()
    zeros, scale = fp8.rounded(jnp.zeros(3), fp8.FORWARD)
    assert scale == 1 and not zeros.any()


def test_blocks_have_the_same_parameters_and_nearly_the_same_outputs_scanned_or_not():
    x = jnp.asarray(RNG.normal(size=(2, 6, 32)), jnp.float32)
    plain = Transformer(depth=2, heads=2)
    variables = checks.drawn(plain, x, train=False)
    run = lambda module: checks.quick(lambda v: module.apply(v, x, train=False)[0])(variables)  # noqa: E731
    wanted, eight, scanned = run(plain), run(plain.clone(fp8=True)), run(plain.clone(fp8=True, scan=True, remat="dots"))
    np.testing.assert_allclose(eight, scanned, atol=1e-5)
    assert 1e-4 < np.abs(eight - wanted).mean() < 0.1 * np.abs(wanted).mean()
    shapes = jax.eval_shape(lambda: plain.clone(fp8=True).init(jax.random.key(0), x, train=False))
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)


def test_handwritten_digits_are_learnt_as_in_float32():
    digits = load_digits()
    x, y = jnp.asarray(digits.images[..., None] / 8 - 1, jnp.float32), jnp.asarray(digits.target)
    losses = {}
    for eight in (False, True):
        module = ViT(patch=4, width=32, depth=2, heads=2, fp8=eight)
        params = checks.quick(lambda m=module: m.init(jax.random.key(0), x[:2], train=False))()["params"]
        optimizer = Optimizer(steps=150, lr=3e-3, warmup=10)

        def loss(params, x, y, module=module):
            logits = module.apply({"params": params}, x, train=True).pooled[:, :10]
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()

        def step(carry, i, loss=loss, optimizer=optimizer):
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(jax.random.key(1), i), (64,), 0, len(x))
            value, grads = jax.value_and_grad(loss)(params, x[rows], y[rows])
            return optimizer.update(grads, state, params, i), value

        run = checks.quick(lambda p, step=step, optimizer=optimizer: jax.lax.scan(step, (p, optimizer.init(p)), jnp.arange(150))[1])
        losses[eight] = float(run(params)[-30:].mean())
    assert losses[False] < 0.5 and abs(losses[True] - losses[False]) < 0.1 * losses[False]


class Eight:
    """The tiny one in 8 bits."""

    @staticmethod
    def tiny():
        module, batch = ViT.tiny()
        return module.clone(fp8=True), batch


def test_an_encoder_in_8_bits_passes_checks_too():
    subject = checks.of_encoder(Eight)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_gradients, checks.check_bfloat16):
        check(subject)
