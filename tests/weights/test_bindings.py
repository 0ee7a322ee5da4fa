"""CoCa and ImageBind from disk give, tower by tower, what their own code gives; `tests/golden/make_bindings.py` made them."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import checks
from mmjax.config import DataError, build
from mmjax.train.embedder import Embedder
from mmjax.weights._layers import below

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "bindings.npz")
COCA, IMAGEBIND = (FOLDER / "weights" / file for file in ("coca.safetensors", "imagebind.pth"))
STREAMS = {"image": "vision", "text": "text", "audio": "audio", "image_depth": "depth", "image_thermal": "thermal", "series": "imu"}
SMALL = {"width": 8, "depth": 1, "heads": 2}
BOUND = {
    "image": {"name": "vit", "variant": "imagebind-H/14", **SMALL, "depth": 2, "patch": 4},
    "text": {"name": "text_transformer", "variant": "imagebind", **SMALL, "depth": 2, "vocab": 50},
    "audio": {"name": "spectrogram_transformer", "variant": "imagebind", "width": 12, "depth": 2, "heads": 2, "patch": 4, "stride": 3},
    "image_depth": {"name": "vit", "variant": "imagebind-depth", **SMALL, "patch": 4},
    "image_thermal": {"name": "vit", "variant": "imagebind-thermal", **SMALL, "patch": 4},
    "series": {"name": "series_transformer", "variant": "imagebind", **SMALL},
}
TOWERS = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}
CAPTIONERS = {
    "image": {"name": "vit", "variant": "coca-B/32", **TOWERS, "patch": 4, "queries": 5, "query_width": 8, "query_heads": 2},
    "text": {"name": "text_transformer", "variant": "coca-B", **TOWERS, "vocab": 50},
}


def told():
    """As the checkpoint itself says, but for the numbers of heads, which it takes for 64 wide each, and its pool's for 8."""
    config = build("weights", {"name": "coca", "path": str(COCA)}, "").config()
    assert config["sizes"] == {"image": (12, 12, 3), "text": (6,)} and config["pp"]["text"] == "tokens(6)"
    image, text = (config["model"]["encoders"][side] for side in ("image", "text"))
    assert (image["heads"], image["query_heads"], text["heads"]) == (1, 8, 1)
    return {"image": {**image, "heads": 2, "query_heads": 2}, "text": {**text, "heads": 2}}


def outputs(family, path, width, encoders, batch):
    """Of an aligner that takes all of its parameters from the file."""
    model = build("models", {"name": "aligner", "width": width, "encoders": encoders}, "model")
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    weights, params = build("weights", {"name": family, "path": str(path)}, "init_from"), {}
    for part, tree in shapes.items():
        wanted = {name: leaf.shape for name, leaf in flatten_dict(tree, sep="/").items()}
        found = weights.load(part, wanted)["params"]
        assert {name: x.shape for name, x in found.items()} == wanted
        params[part] = unflatten_dict({name: jnp.asarray(x) for name, x in found.items()}, sep="/")
    return checks.quick(lambda params: model.apply({"params": params}, batch, train=False)[0])(params)


def texts():
    ids = jnp.asarray(GOLDEN["text"], jnp.int32)
    return {"text": ids, "text/valid": ids != 0}


@pytest.mark.parametrize("encoders", [lambda: CAPTIONERS, told], ids=["by variant", "by the checkpoint"])
def test_coca(encoders):
    """And the tokens that its decoder would be given: there the norm is of the class token alone."""
    got = outputs("coca", COCA, 8, encoders(), {"image": jnp.asarray(GOLDEN["image"]), **texts()})
    for side in ("image", "text"):
        np.testing.assert_allclose(got[f"{side}/z"], GOLDEN[f"coca/{side}"], atol=2e-5)
    np.testing.assert_allclose(got["image/tokens"][:, 1:], GOLDEN["coca/image_tokens"], atol=2e-5)
    arrays = below(build("weights", {"name": "coca", "path": str(COCA)}, "").arrays(), "text.ln_final.")
    tokens = GOLDEN["coca/text_tokens"]
    normed = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    valid = GOLDEN["text"] != 0
    np.testing.assert_allclose(got["text/tokens"][:, :-1][valid], (normed * arrays["weight"] + arrays["bias"])[valid], atol=2e-5)


@pytest.mark.parametrize("stream", STREAMS)
def test_imagebind(stream):
    batch = texts() if stream == "text" else {stream: jnp.asarray(GOLDEN[stream])}
    z = outputs("imagebind", IMAGEBIND, 6, {stream: BOUND[stream]}, batch)[f"{stream}/z"]
    scale = build("weights", {"name": "imagebind", "path": str(IMAGEBIND)}, "").scales()[stream]
    assert scale == pytest.approx({"image": 1, "text": 1 / 0.07, "audio": 20, "image_depth": 5, "image_thermal": 10, "series": 5}[stream])
    np.testing.assert_allclose(z, GOLDEN[f"imagebind/{STREAMS[stream]}"] / scale, atol=2e-5)


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((1, *shape), dtype)


PICTURE, COLOURLESS = shaped(224, 224, 3), shaped(224, 224, 1)
VIT, TEXT = {"name": "vit"}, {"name": "text_transformer", "vocab": 49408}
COCA_TEXT, IDS = shaped(76, dtype=jnp.int32), shaped(77, dtype=jnp.int32)
# The encoder, its input, the width of the projection, and how many of the reference's parameters have no place here.
SIZES = {
    "image/coca-B/32": ({**VIT, "variant": "coca-B/32"}, PICTURE, 512, 0),
    "image/coca-L/14": ({**VIT, "variant": "coca-L/14"}, PICTURE, 768, 0),
    "text/coca-B": ({**TEXT, "variant": "coca-B"}, COCA_TEXT, 512, 0),
    "text/coca-L": ({**TEXT, "variant": "coca-L"}, COCA_TEXT, 768, 0),
    "imagebind/vision": ({**VIT, "variant": "imagebind-H/14"}, PICTURE, 1024, 3 * 14 * 14 * 1280),  # the patches' second frame
    "imagebind/text": ({**TEXT, "variant": "imagebind"}, IDS, 1024, 0),
    "imagebind/audio": ({"name": "spectrogram_transformer", "variant": "imagebind"}, shaped(204, 128), 1024, 0),
    "imagebind/depth": ({**VIT, "variant": "imagebind-depth"}, COLOURLESS, 1024, 0),
    "imagebind/thermal": ({**VIT, "variant": "imagebind-thermal"}, COLOURLESS, 1024, 0),
    "imagebind/imu": ({"name": "series_transformer", "variant": "imagebind"}, shaped(2000, 6), 1024, 512),  # the class token's position
}


@pytest.mark.parametrize("tower", SIZES)
def test_sizes_equal_the_published(tower):
    node, x, width, left_out = SIZES[tower]
    encoder = build("encoders", node, "encoder")

    def init(x):
        encoding, variables = encoder.init_with_output(jax.random.key(0), x, train=False)
        return encoding.pooled, variables["params"]

    pooled, params = jax.eval_shape(init, x)
    ours = sum(leaf.size for leaf in jax.tree.leaves(params)) + pooled.shape[1] * width
    assert ours + left_out == GOLDEN[f"count/{tower}"]
    pool = [encoder.query_heads] if tower.startswith("image/") else []
    assert [encoder.heads] * encoder.depth + pool == GOLDEN[f"heads/{tower}"].tolist()


def test_the_embedder_takes_coca(tmp_path):
    """Also how many heads its pool has, where open_clip's config lies beside it."""
    shutil.copy(COCA, tmp_path / "open_clip_model.safetensors")
    settings = {"model_cfg": {"vision_cfg": {"attn_pooler_heads": 2}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(46))]) + "\n")
    assert build("weights", {"name": "coca", "path": str(tmp_path)}, "").config()["model"]["encoders"]["image"]["query_heads"] == 2
    embedder = Embedder(str(tmp_path), batch_size=8)
    assert embedder.streams == ["image", "text"] and embedder.scale == pytest.approx(float(GOLDEN["coca/scale"]))
    z, here = embedder.embed("text", ["w1 w2", "w3"])
    assert here.all() and np.linalg.norm(z, axis=1).tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("family", "file", "part", "message"),
    [
        ("clip", COCA, "image", "is a CoCa: take name='coca'"),
        ("coca", FOLDER / "weights" / "open_clip.pt", "image", "is no CoCa as open_clip publishes them: it has no visual.attn_pool.query"),
        ("coca", COCA, "audio", "has no part 'audio': image, text, image_projection, text_projection"),
        ("imagebind", COCA, "image", "is no ImageBind: its vision has no 2.weight"),
        ("imagebind", IMAGEBIND, "video", "has no part 'video': image, text, audio"),
    ],
)
def test_files_that_cannot_be_the_weights(family, file, part, message):
    with pytest.raises(DataError, match=message) as error:
        build("weights", {"name": family, "path": str(file)}, "").load(part, {})
    assert "\n" not in str(error.value)


def test_scales_of_another_family():
    with pytest.raises(DataError, match="is no ImageBind: it has no modality_postprocessors.text.1.log_logit_scale"):
        build("weights", {"name": "imagebind", "path": str(COCA)}, "").scales()
