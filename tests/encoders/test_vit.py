"""What is particular to the vision transformer."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax.traverse_util import unflatten_dict

import checks
from mmjax.config import ConfigError
from mmjax.data.pp.image import patches
from mmjax.encoders.vit import ViT, sincos_2d
from mmjax.nn.positions import shares

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "nn.npz")
IMAGE = jnp.asarray(ViT.tiny()[1]["image"])  # 4 x 8 x 12 x 3


def vit(**changes):
    return ViT(**{"patch": 4, "width": 8, "depth": 1, "heads": 2, **changes})


def encode(module, image=IMAGE):
    variables = checks.drawn(module, image, train=False)
    return variables["params"], checks.quick(lambda variables: module.apply(variables, image, train=False))(variables)


def test_sincos_against_the_formula():
    """Each coordinate p gives sin(p / 10000^(i / (d/4 - 1))) and the cosine, x before y."""
    height, width, dim = 3, 5, 16
    table = sincos_2d(height, width, dim)
    assert table.shape == (height * width, dim)
    for y in range(height):
        for x in range(width):
            for i in range(dim // 4):
                w = 1 / 10_000 ** (i / (dim // 4 - 1))
                got = table[y * width + x, [i, 4 + i, 8 + i, 12 + i]]
                np.testing.assert_allclose(got, [np.sin(x * w), np.cos(x * w), np.sin(y * w), np.cos(y * w)], atol=1e-6)


@pytest.mark.parametrize(("pool", "registers"), [("class", 0), ("mean", 2), ("class", 3), ("attention", 0)])
def test_pooling(pool, registers):
    params, e = encode(vit(pool=pool, registers=registers))
    extra = registers + (pool == "class")
    assert e.tokens.shape == (4, extra + 6, 8)
    assert ("extra_tokens" in params) == bool(extra) and ("pool" in params) == (pool == "attention")
    if pool == "class":
        np.testing.assert_array_equal(e.pooled, e.tokens[:, 0])
    elif pool == "mean":
        np.testing.assert_allclose(e.pooled, e.tokens[:, extra:].mean(axis=1), atol=1e-6)
    assert len(e.stages) == 1 and e.stages[0].shape == e.tokens.shape


class Queries:
    """CoCa's pool, with everything else that a class token allows."""

    @staticmethod
    def tiny():
        more = {"class_position": True, "registers": 1, "patch_bias": False, "norm_epsilon": 1e-5}
        return vit(pool="queries", queries=3, query_width=6, query_heads=2, **more), ViT.tiny()[1]


def test_queries_are_the_tokens_and_pass_every_check_too():
    _, e = encode(Queries.tiny()[0])
    assert e.tokens.shape == (4, 3, 6) and e.valid.shape == (4, 3) and e.stages[0].shape == (4, 2 + 6, 8)
    np.testing.assert_array_equal(e.pooled, e.tokens[:, 0])
    subject = checks.of_encoder(Queries)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_gradients):
        check(subject)


def test_the_class_token_has_a_position_of_its_own_where_asked():
    module = vit(pool="class", class_position=True, registers=1)
    variables = checks.drawn(module, IMAGE, train=False)
    params = variables["params"]
    assert params["positions"].shape == (1, 7, 8) and params["extra_tokens"].shape == (1, 2, 8)
    run = checks.quick(lambda params: module.apply({"params": params}, IMAGE, train=False).pooled)
    both = params["extra_tokens"].at[:, 0].add(params["positions"][:, 0])  # only their sum matters
    moved = {**params, "extra_tokens": both, "positions": params["positions"].at[:, 0].set(0.0)}
    np.testing.assert_allclose(run(params), run(moved), atol=1e-6)
    other = {**params, "positions": params["positions"].at[:, 0].multiply(2.0)}
    assert np.abs(run(params) - run(other)).max() > 1e-3


def test_fixed_positions_have_no_parameter_and_tell_patches_apart():
    params, e = encode(vit(positions="sincos"), jnp.ones((2, 8, 12, 3)))
    assert "positions" not in params
    assert len(np.unique(np.asarray(e.tokens[0]).round(5), axis=0)) == 6


def test_the_patch_embedding_is_torchs_convolution():
    weight, bias = GOLDEN["patches/weights/weight"], GOLDEN["patches/weights/bias"]
    image = rearrange(GOLDEN["patches/x"], "b c h w -> b h w c")
    module = vit(depth=0, positions="sincos", pool="mean")
    dense = {"kernel": rearrange(weight, "d c p q -> (p q c) d"), "bias": bias}
    variables = {"params": {"embedding": dense, "transformer": {"norm": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}}}
    _, seen = module.apply(jax.tree.map(jnp.asarray, variables), jnp.asarray(image), train=False, capture_intermediates=True)
    got = seen["intermediates"]["embedding"]["__call__"][0]
    np.testing.assert_allclose(got, rearrange(GOLDEN["patches/y"], "b d h w -> b (h w) d"), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 5}, "patches of 5 do not divide an image of 8 x 12. Resize it to 5 x 10 or 10 x 15."),
        ({"pool": "max"}, "pool='max'"),
        ({"positions": "rotary"}, "positions='rotary'"),
        ({"heads": 3}, "does not split into 3 heads"),
        ({"class_position": True}, "needs a class token .pool='class' or 'queries'. and positions='learned'"),
        ({"activation": "quickgelu"}, "Did you mean 'quick_gelu'"),
        ({"width": 6, "positions": "sincos"}, "that 4 divides, not 6"),
    ],
)
def test_wrong_sizes_and_names(changes, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: vit(**changes).init(jax.random.key(0), IMAGE, train=False))


def test_dropout_is_for_training():
    module = vit(dropout=0.5)
    variables = checks.drawn(module, IMAGE, train=False)

    def run(key, train):
        return module.apply(variables, IMAGE, train=train, rngs={"dropout": key}).pooled

    for train in (True, False):
        encode = checks.quick(partial(run, train=train))
        assert np.allclose(encode(jax.random.key(0)), encode(jax.random.key(1))) != train


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_patch_dropout_encodes_a_random_part_of_each_images_patches_in_training_alone(pool):
    """With no block and no position what is kept can be told: each token is one patch's, and no row keeps the same as all others."""
    module = vit(depth=0, patch_dropout=0.5, pool=pool)
    variables = checks.drawn(module, IMAGE, train=False)
    variables["params"]["positions"] = jnp.zeros_like(variables["params"]["positions"])
    whole = module.apply(variables, IMAGE, train=False).tokens
    run = checks.quick(lambda key: module.apply(variables, IMAGE, train=True, rngs={"dropout": key}))
    extra = int(pool == "class")
    kept = {}
    for seed in range(2):
        encoding = run(jax.random.key(seed))
        assert encoding.tokens.shape[1] == 3 + extra and encoding.valid.shape == encoding.tokens.shape[:2] and whole.shape[1] == 6 + extra
        same = np.abs(np.asarray(encoding.tokens)[:, extra:, None] - np.asarray(whole)[:, None, extra:]).max(axis=-1) < 1e-5
        assert (same.sum(axis=-1) == 1).all(), "each is one of the patches"
        kept[seed] = same.argmax(axis=-1)
        assert (np.diff(kept[seed], axis=1) > 0).all(), "none twice, and in order"
    assert len({tuple(row) for rows in kept.values() for row in rows}) > 4
    with pytest.raises(ConfigError, match=r"patch_dropout=1\.0 should be at least 0 and below 1"):
        vit(patch_dropout=1.0).apply(variables, IMAGE, train=True, rngs={"dropout": jax.random.key(0)})


MERGED = np.load(Path(__file__).parents[1] / "golden" / "merge.npz")


def test_merging_is_that_of_its_authors_and_leaves_every_patch_its_place_in_the_stages():
    flat = {name.removeprefix("weights/"): jnp.asarray(MERGED[name]) for name in MERGED.files if name.startswith("weights/")}
    module = vit(width=16, depth=3, pool="class", class_position=True, activation="gelu_exact", merge=3)
    variables = {"params": unflatten_dict(flat, sep="/")}
    e = checks.quick(lambda variables: module.apply(variables, jnp.asarray(MERGED["image"]), train=False))(variables)
    np.testing.assert_allclose(e.pooled, MERGED["pooled"], atol=1e-5)
    assert e.tokens.shape == (3, 17 - 3 * 3, 16) and e.valid.shape == (3, 8) and all(s.shape == (3, 17, 16) for s in e.stages)
    assert [len(np.unique(np.asarray(s[0]).round(5), axis=0)) for s in e.stages] == [14, 11, 8]


def test_pools_count_patches_and_merging_equal_ones_changes_nothing():
    """Of an image whose patches come in pairs of equal ones, without positions, one of each and its size are all that is to know."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(2, 2, 1, 4, 2, 4, 3)).astype(np.float32).repeat(2, axis=2)  # b h 2 p w q c: pairs in a column
    image = jnp.asarray(rearrange(patches, "b h two p w q c -> b (w p) (h two q) c"))
    for pool in ("mean", "attention", "queries"):
        more = {"queries": 3, "query_width": 8, "query_heads": 2} if pool == "queries" else {}
        merging, plain = (vit(pool=pool, merge=merge, registers=int(pool != "queries"), **more) for merge in (4, 0))
        variables = checks.drawn(plain, image, train=False)
        variables["params"]["positions"] = jnp.zeros_like(variables["params"]["positions"])
        a, b = (checks.quick(lambda v, m=m: m.apply(v, image, train=False))(variables) for m in (merging, plain))
        np.testing.assert_allclose(a.pooled, b.pooled, atol=1e-5)
        np.testing.assert_allclose(a.stages[-1], b.stages[-1], atol=1e-5)


class Merging:
    """The tiny one, which merges."""

    @staticmethod
    def tiny():
        module, batch = ViT.tiny()
        return module.clone(merge=2), batch


def test_merging_passes_the_checks_too():
    subject = checks.of_encoder(Merging)
    for check in (checks.check_contract, checks.check_absent_content, checks.check_gradients, checks.check_bfloat16):
        check(subject)


def test_merging_counts_fewer_operations():
    """By a sixth of the tokens a layer, what depends on their number alone falls as their mean does."""
    image = jnp.zeros((1, 48, 48, 3))

    def flops(merge):
        module = vit(width=64, depth=6, heads=2, merge=merge)
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))
        return jax.jit(lambda v: module.apply(v, image, train=False).pooled).lower(shapes).cost_analysis()["flops"]

    tokens = 144
    layer = lambda seen, left: 8 * seen * 64**2 + 4 * seen**2 * 64 + 16 * left * 64**2  # noqa: E731
    expected = sum(layer(tokens - 12 * i, tokens - 12 * (i + 1)) for i in range(6)) / (6 * layer(tokens, tokens))
    assert flops(12) / flops(0) == pytest.approx(expected, abs=0.06) and expected < 0.75


def test_merging_does_not_go_together_with_blocks_that_are_one_program():
    module = vit(merge=2, scan=True)
    with pytest.raises(ConfigError, match="merge=2 does not go together with scan=True"):
        module.apply(checks.drawn(vit(), IMAGE, train=False), IMAGE, train=False)


def as_patches(*images, count=12):
    """Of uint8 images, what `patches` gives, as the device has it."""
    found = [patches(4, count)(image) for image in images]
    value = np.stack([p.value for p in found]).astype(np.float32) * (2 / 255) - 1
    return jnp.asarray(value), jnp.asarray(np.stack([p.valid for p in found]))


RNG = np.random.default_rng(0)
SMALL, WIDE = (RNG.integers(0, 256, (*size, 3), np.uint8) for size in ((8, 16), (12, 16)))


class Patches:
    """Images of several sizes in one batch."""

    @staticmethod
    def tiny():
        x, valid = as_patches(WIDE, SMALL, WIDE[::-1], RNG.integers(0, 256, (12, 12, 3), np.uint8), count=12)
        module, _ = ViT.tiny()
        return module.clone(grid=2), {"image": x, "image/valid": valid}


def test_patches_of_any_size_pass_the_checks():
    subject = checks.of_encoder(Patches)
    checks_ = (checks.check_contract, checks.check_absent_content, checks.check_absent_rows, checks.check_gradients, checks.check_bfloat16)
    for check in checks_:
        check(subject)


@pytest.mark.parametrize(
    "more", [{"pool": "mean"}, {"pool": "class", "class_position": True}, {"pool": "attention", "positions": "factorised"}]
)
def test_an_image_as_patches_is_the_image_whatever_is_beside_and_behind_it(more):
    module = vit(grid=3, depth=2, **more)
    image = lambda pixels: jnp.asarray(pixels[None].astype(np.float32) * (2 / 255) - 1)  # noqa: E731
    variables = checks.drawn(module, image(WIDE), train=False)
    run = jax.jit(lambda x, valid=None: module.apply(variables, x, valid, train=False), compiler_options=checks.QUICK)
    x, valid = as_patches(WIDE, WIDE)
    small = patches(4, 8)(SMALL)  # 2 x 4 patches: more would make it larger
    x = x.at[1, :8].set(jnp.asarray(small.value.astype(np.float32) * (2 / 255) - 1))
    valid = valid.at[1, 8:].set(False)
    together = run(x, valid)
    for row, pixels in enumerate((WIDE, SMALL)):
        alone = run(image(pixels))
        np.testing.assert_allclose(together.pooled[row], alone.pooled[0], atol=1e-5)
        np.testing.assert_allclose(together.tokens[row][together.valid[row]], alone.tokens[0], atol=1e-5)
    if more["pool"] == "mean":  # on an image of the grid's own size, positions are those of a model without a grid
        square = image(RNG.integers(0, 256, (12, 12, 3), np.uint8))
        plain = module.clone(grid=0).apply(variables, square, train=False)
        np.testing.assert_allclose(run(square).pooled, plain.pooled, atol=1e-6)


@pytest.mark.parametrize("size", [(2, 5), (4, 3), (7, 6), (1, 9)])
def test_positions_are_resized_as_images_are(size):
    grid = jnp.asarray(RNG.normal(size=(4, 4, 3)), jnp.float32)
    places = np.indices(size).reshape(2, -1)
    y, x = (shares(jnp.asarray(p[None], jnp.float32), jnp.full((1, 1), float(n)), 4) for p, n in zip(places, size, strict=True))
    got = jnp.einsum("bng,bnh,ghd->nd", y, x, grid)
    wanted = jax.image.resize(grid, (*size, 3), "linear")
    np.testing.assert_allclose(got, wanted.reshape(-1, 3), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 0}, "images as patches need grid"),
        ({"grid": 2, "positions": "sincos"}, "images of one size: without grid"),
        ({"grid": 2, "patch": 5}, "48 numbers a patch are not 5 x 5 pixels"),
        ({"grid": 2, "merge": 1}, "merge=1 does not go together with tokens that are not valid"),
        ({"grid": 2, "patch_dropout": 0.5}, "not of images as patches"),
    ],
)
def test_what_patches_do_not_go_together_with(changes, message):
    x, valid = as_patches(WIDE)
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: vit(**changes).init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, x, valid, train=True))
