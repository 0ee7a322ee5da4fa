"""Published models by their sizes' names have the published numbers of parameters, array by array."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.config import build


def shapes(image, text, width, size, length, projection=None):
    encoders = {"image": {"name": "vit", **image}, "text": {"name": "text_transformer", **text}}
    model = build("models", {"name": "aligner", "width": width, "encoders": encoders, "projection": projection}, "model")
    batch = {"image": jnp.zeros((1, size, size, 3)), "text": jnp.zeros((1, length), jnp.int32)}
    return jax.eval_shape(model.init, jax.random.key(0), batch)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Counted in the PyTorch modules that the released weights load into, without their weights.
CLIP = {"ViT-B-32": ("clip-B/32", "clip-B", 512, 151_277_313), "ViT-L-14": ("clip-L/14", "clip-L", 768, 427_616_513)}
SIGLIP = {"base-patch16-224": ("B/16", "B", 224, 203_155_970), "so400m-patch14-384": ("So400m/14", "So400m", 378, 877_960_498)}


@pytest.mark.parametrize("name", CLIP)
def test_clip(name):
    """open_clip 3.3.0, `open_clip.CLIP(**get_model_config(name))`; its logit scale is our objective's."""
    image, text, width, published = CLIP[name]
    params = shapes({"variant": image}, {"variant": text, "vocab": 49_408}, width, 224, 77)
    assert count(params) + 1 == published
    if name == "ViT-B-32":  # its arrays: visual.positional_embedding, .class_embedding, .conv1.weight, .ln_pre, .proj
        assert params["image"]["positions"].shape == (1, 50, 768) and params["image"]["extra_tokens"].shape == (1, 1, 768)
        assert {k: v.shape for k, v in params["image"]["embedding"].items()} == {"kernel": (32 * 32 * 3, 768)}
        assert set(params["image"]["norm_pre"]) == {"scale", "bias"} and params["image_projection"]["kernel"].shape == (768, 512)


@pytest.mark.parametrize("name", SIGLIP)
def test_siglip(name):
    """transformers 5, `SiglipModel` of google/siglip-<name>; its scale and bias are our objective's.

    A patch of 14 does not divide 384 pixels: the published model leaves the last 6 of them out, hence 378.
    """
    image, text, size, published = SIGLIP[name]
    width = 768 if text == "B" else 1_152
    text = {"variant": text, "vocab": 32_000, "causal": False}
    params = shapes({"variant": image, "pool": "attention"}, text, width, size, 64, {"image": "none", "text": "affine"})
    assert count(params) + 2 == published
    assert "image_projection" not in params and set(params["text_projection"]) == {"kernel", "bias"}
