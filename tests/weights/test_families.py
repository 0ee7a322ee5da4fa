"""Checkpoints as the reference libraries store them, read from disk, give what these libraries give; and files that cannot be theirs.

`tests/golden/make_weights.py` made the checkpoints and the numbers, `make_torchscript.py` OpenAI's layout of one.
"""

import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import checks
from mmjax.config import CheckpointError, ConfigError, DataError, build
from mmjax.train.build import parts_of
from mmjax.train.pretrained import load_parts
from mmjax.weights import _files
from mmjax.weights._layers import resized
from toy import toy_config

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "weights.npz")
TINY = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}
VIT = {"name": "vit", **TINY, "patch": 4}
CLIP = {"pool": "class", "class_position": True, "pre_norm": True, "patch_bias": False, "activation": "quick_gelu", "norm_epsilon": 1e-5}
PAPER = {"pool": "class", "class_position": True, "activation": "gelu_exact"}
TEXT = {"name": "text_transformer", **TINY, "vocab": 50}
BERT = {"causal": False, "pool": "class", "post_norm": True, "activation": "gelu_exact", "norm_epsilon": 1e-12}
WAV = {"name": "wav2vec", **TINY, "convs": ((8, 6, 3), (8, 3, 2), (8, 2, 2)), "position_size": 6, "position_groups": 2, "normalise": False}
VIDEO = {"name": "video_transformer", **TINY, "patch": 4}
SPEC = {"name": "spectrogram_transformer", **TINY}

# file: the family, the encoder, and what it is given
ENCODERS = {
    "vit.safetensors": ("vit", {**VIT, **PAPER, "norm_epsilon": 1e-12}, "image"),
    "mae.safetensors": ("vit", {**VIT, **PAPER, "norm_epsilon": 1e-12}, "image"),
    "timm.pth": ("vit", {**VIT, **PAPER}, "image"),
    "dinov2.safetensors": ("vit", {**VIT, **PAPER}, "image"),
    "dinov2_reg.safetensors": ("vit", {**VIT, **PAPER, "registers": 3}, "image"),
    "convnext.safetensors": ("convnext", {"name": "convnext", "widths": (8, 16), "depths": (1, 2)}, "picture"),
    "timm_convnext.pth": ("convnext", {"name": "convnext", "widths": (8, 16, 16, 16), "depths": (1, 1, 1, 1)}, "picture"),
    "resnet.safetensors": ("resnet", {"name": "resnet", "width": 4, "depths": (1, 2), "norm": "batch"}, "picture"),
    "videomae.safetensors": (
        "videomae",
        {**VIDEO, "positions": "sincos", "norm": "pooled", "key_bias": False, "norm_epsilon": 1e-12},
        "video",
    ),
    "vivit.safetensors": ("vivit", {**VIDEO, "pool": "class", "activation": "gelu"}, "video"),
    "timesformer.safetensors": ("timesformer", {**VIDEO, "attention": "divided", "frames": 1, "pool": "class"}, "video"),
    "bert.safetensors": ("bert", {**TEXT, **BERT}, "text"),
    "roberta.safetensors": ("bert", {**TEXT, **BERT}, "text"),
    "gpt2.safetensors": ("gpt2", {**TEXT, "norm_epsilon": 1e-5}, "text"),
    "ast.safetensors": ("ast", {**SPEC, "patch": 4, "stride": 3, "norm_epsilon": 1e-12}, "mel"),
    "whisper.safetensors": ("whisper", {**SPEC, "stem": "convs"}, "mel"),
    "wav2vec2.safetensors": ("wav2vec2", WAV, "wave"),
    "wav2vec2_stable.safetensors": ("wav2vec2", {**WAV, "norm": "layer", "conv_bias": True, "pre_norm": True}, "wave"),
    "hubert.safetensors": ("wav2vec2", WAV, "wave"),
}


def loaded(family, path, part, shapes):
    """The variables of a part, all that are wanted and no other."""
    flat = {kind: {name: leaf.shape for name, leaf in flatten_dict(tree, sep="/").items()} for kind, tree in shapes.items()}
    found = build("weights", {"name": family, "path": str(path)}, "init_from").load(part, flat["params"])
    assert {kind: {name: x.shape for name, x in arrays.items()} for kind, arrays in found.items()} == flat
    return {kind: unflatten_dict({name: jnp.asarray(x) for name, x in arrays.items()}, sep="/") for kind, arrays in found.items()}


def given(kind):
    x, valid = jnp.asarray(GOLDEN[kind]), jnp.asarray(GOLDEN["valid"]) if kind == "text" else None
    return (x.astype(jnp.int32) if kind == "text" else x), valid


@pytest.mark.parametrize("file", ENCODERS)
def test_an_encoder_gives_what_its_reference_gives(file):
    family, node, kind = ENCODERS[file]
    encoder = build("encoders", node, "encoder")
    x, valid = given(kind)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, valid, train=False))
    variables = loaded(family, FOLDER / "weights" / file, "image", shapes)
    if file.startswith("roberta"):
        x = jnp.where(x == 1, 2, x)  # 1 is its padding, which it finds in the ids
    e = checks.quick(lambda variables, x: encoder.apply(variables, x, valid, train=False))(variables, x)
    wanted, keep = GOLDEN[f"{file.split('.')[0]}/tokens"], np.asarray(e.valid)
    np.testing.assert_allclose(np.asarray(e.tokens)[keep], wanted[keep], atol=2e-5 * max(1, np.abs(wanted).max()))
    if (pooled := f"{file.split('.')[0]}/pooled") in GOLDEN.files:
        np.testing.assert_allclose(e.pooled, GOLDEN[pooled], atol=2e-5)


CLIP_RN = {"name": "resnet", "variant": "clip-50", "width": 4, "depths": (1, 1, 2, 1), "heads": 4, "out": 8}
ALIGNERS = {
    "open_clip_rn.pt": ("clip", CLIP_RN, {**TEXT, "activation": "quick_gelu", "norm_epsilon": 1e-5}, {"image": "none"}, 8),
    "clip.safetensors": ("clip", {**VIT, **CLIP}, {**TEXT, "activation": "quick_gelu", "norm_epsilon": 1e-5}, {}, 8),
    "open_clip.pt": ("clip", {**VIT, **CLIP}, {**TEXT, "activation": "quick_gelu", "norm_epsilon": 1e-5}, {}, 8),
    "siglip.safetensors": ("siglip", {**VIT, "pool": "attention"}, {**TEXT, "causal": False}, {"image": "none", "text": "affine"}, 16),
}


@pytest.mark.parametrize("file", ALIGNERS)
def test_two_towers_give_what_their_reference_gives(file):
    """SigLIP sees its padding, so there all tokens are valid."""
    family, image, text, projection, width = ALIGNERS[file]
    model = build(
        "models", {"name": "aligner", "width": width, "encoders": {"image": image, "text": text}, "projection": projection}, "model"
    )
    x, valid = given("text")
    picture = jnp.asarray(GOLDEN["square" if file == "open_clip_rn.pt" else "image"])
    batch = {"image": picture, "text": x, "text/valid": jnp.ones_like(valid) if family == "siglip" else valid}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    variables = {kind: {} for kind in shapes}
    for part in shapes["params"]:
        found = loaded(family, FOLDER / "weights" / file, part, {kind: tree[part] for kind, tree in shapes.items() if part in tree})
        for kind, tree in found.items():
            variables[kind][part] = tree
    outputs, _ = checks.quick(lambda variables: model.apply(variables, batch, train=False))(variables)
    for side in ("image", "text"):
        wanted = GOLDEN[f"{file.split('.')[0]}/{side}"]
        np.testing.assert_allclose(outputs[f"{side}/z"], wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=2e-5)


SIZES = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # what OpenAI's files hold besides


def test_openais_own_archive_holds_the_arrays_of_the_state_dict():
    """TorchScript, of half precision but for norms and embeddings; no array differs, and the family takes the same of both."""
    found, wanted = (_files.read(FOLDER / "weights" / f"{name}.pt") for name in ("openai", "open_clip"))
    assert found.keys() == wanted.keys() | SIZES
    assert {x.dtype.name for name, x in found.items() if name not in SIZES} == {"float16", "float32"}
    for name, x in wanted.items():
        assert np.array_equal(found[name], x.astype(found[name].dtype)), name
    archive, plain = (build("weights", {"name": "clip", "path": str(FOLDER / "weights" / f"{n}.pt")}, "") for n in ("openai", "open_clip"))
    archive.arrays()["transformer.resblocks.0.attn_mask"] = np.zeros((6, 6))  # which archives may hold of every block
    for part in ("image", "text", "image_projection", "text_projection"):
        theirs, ours = archive.load(part, {})["params"], plain.load(part, {})["params"]
        assert theirs.keys() == ours.keys()
        assert all(np.array_equal(x, ours[name].astype(x.dtype)) for name, x in theirs.items())
    assert archive.config()["sizes"] == {"image": (12, 12, 3), "text": (6,)}


@pytest.mark.parametrize("name", ["os system", "builtins eval", "torch.jit._pickle build_evil"])
def test_an_archive_with_another_class_is_refused(tmp_path, name):
    """The class comes where a module of the archive did."""
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(FOLDER / "weights" / "openai.pt") as good, zipfile.ZipFile(evil, "w") as archive:
        for file in good.namelist():
            content = good.read(file)
            if file.endswith("/data.pkl"):
                before = b"c__torch__.open_clip.transformer\nVisionTransformer\n"
                assert before in content
                content = content.replace(before, b"c" + name.replace(" ", "\n").encode() + b"\n")
            archive.writestr(file, content)
    with pytest.raises(DataError, match=r"evil.pt cannot be read: it holds a .*(system|eval|build_evil), which is no part of an array"):
        _files.read(evil)


@pytest.mark.parametrize("variant", [n.removeprefix("count/") for n in GOLDEN.files if n.startswith("count/")])
def test_sizes_equal_the_published(variant):
    """Less what nothing meets, the second segment, RoBERTa's first two positions, DINOv2's mask; and DINOv2's scales, which are folded."""
    size, left_out = (224, 0) if variant.startswith("vit") else (518, 0)
    if variant in ("resnet-50", "convnext-T"):  # LayerScale is folded, too
        resnet = variant == "resnet-50"
        node = {"name": "resnet", "norm": "batch"} if resnet else {"name": "convnext", "variant": "T"}
        x, left_out = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), 0 if resnet else 3 * 96 + 3 * 192 + 9 * 384 + 3 * 768
    elif variant.startswith(("videomae", "vivit", "timesformer")):
        frames = {"videomae": 16, "vivit": 32, "timesformer": 8}[variant.split("-")[0]]
        node, x = {"name": "video_transformer", "variant": variant}, jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.float32)
        left_out = {16: -2 * 768, 32: 768, 8: 768}[frames]  # VideoMAE's last norm is its classifier's; the class token's position is in it
    elif variant.startswith(("vit", "dinov2")):
        node, x = {"name": "vit", "variant": variant}, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        left_out = 768 * (1 + 2 * 12) if variant.startswith("dinov2") else 0
    else:
        vocab, length = {"b": (30522, 512), "m": (30522, 512), "r": (50265, 512), "g": (50257, 1024)}[variant[0]]
        node, x = {"name": "text_transformer", "variant": variant, "vocab": vocab}, jax.ShapeDtypeStruct((1, length), jnp.int32)
    encoder = build("encoders", node, "encoder")
    if variant[0] in "bm" or variant.startswith("roberta"):
        left_out = (3 if variant[0] == "r" else 2) * encoder.width
    shapes = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), x)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) + left_out == GOLDEN[f"count/{variant}"]


def test_torchvisions_names_are_those_of_the_same_layers(tmp_path):
    """The transformers checkpoint under the names that torchvision and timm have for the same arrays."""
    arrays = _files.read(FOLDER / "weights" / "resnet.safetensors")

    def renamed(name):
        name = re.sub(r"embedder\.embedder\.(convolution|normalization)", lambda m: {"c": "conv1", "n": "bn1"}[m[1][0]], name)
        name = re.sub(r"encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", name)
        name = re.sub(r"layer\.(\d)\.(\w)\w+", lambda m: f"{ {'c': 'conv', 'n': 'bn'}[m[2]] }{int(m[1]) + 1}", name)
        return name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")

    np.savez(tmp_path / "torchvision.npz", **{renamed(name): x for name, x in arrays.items()}, **{"fc.weight": np.zeros((5, 32))})
    ours, theirs = (
        build("weights", {"name": "resnet", "path": str(path)}, "").load("image", {})
        for path in (FOLDER / "weights" / "resnet.safetensors", tmp_path / "torchvision.npz")
    )
    for kind in ("params", "batch_stats"):
        assert ours[kind].keys() == theirs[kind].keys() and all(np.array_equal(theirs[kind][k], x) for k, x in ours[kind].items())


def start(tmp_path, file, family, **encoder):
    """A run that begins with weights."""
    image = {**VIT, **PAPER, **encoder}
    parts = parts_of(toy_config(model__encoders__image=image, init_from={"image": {"name": family, "path": str(file)}}))
    with jax.set_mesh(parts.mesh):
        return load_parts(parts, parts.state_shapes())


def test_positions_are_resized_for_images_of_another_size(tmp_path):
    """The toy's pictures have 2 x 2 patches, the checkpoint 3 x 3; the mean of what varies in no direction stays."""
    found = start(tmp_path, FOLDER / "weights" / "vit.safetensors", "vit")["params"]["image"]["positions"]
    assert found.shape == (1, 5, 16)
    flat = np.concatenate([np.zeros((1, 1, 4)), np.ones((1, 9, 4))], axis=1)
    np.testing.assert_allclose(resized(flat, 26, 1, ""), np.concatenate([np.zeros((1, 1, 4)), np.ones((1, 25, 4))], axis=1), atol=1e-6)
    with pytest.raises(DataError, match="only square grids"):
        resized(flat, 7, 1, "")


def test_files_that_cannot_be_the_weights(tmp_path):
    good = (FOLDER / "weights" / "vit.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match="cut.safetensors cannot be read.*complete"):
        start(tmp_path, cut, "vit")
    with pytest.raises(DataError, match="There are no weights .*gone.safetensors"):
        start(tmp_path, tmp_path / "gone.safetensors", "vit")
    with pytest.raises(DataError, match="holds no checkpoint: none of model.safetensors"):
        start(tmp_path, tmp_path, "vit")
    with pytest.raises(DataError, match="is no vision transformer with a class token"):
        start(tmp_path, FOLDER / "weights" / "bert.safetensors", "vit")
    with pytest.raises(CheckpointError, match=r"another architecture.*transformer/block_01"):
        start(tmp_path, FOLDER / "weights" / "vit.safetensors", "vit", depth=1)
    with pytest.raises(CheckpointError, match="another architecture"):
        start(tmp_path, FOLDER / "weights" / "vit.safetensors", "vit", width=32)
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"x": Path("/")}))
    with pytest.raises(DataError, match=r"evil.pth cannot be read: it holds a pathlib.* which is no part of an array"):
        start(tmp_path, evil, "vit")
    with pytest.raises(ConfigError, match="Did you mean 'vit'"):
        start(tmp_path, evil, "vitt")


@pytest.mark.parametrize("file", ["timm.pth", "openai.pt", "big_vision_lit.npz"])
def test_files_that_are_cut_anywhere(tmp_path, file):
    whole, cut = (FOLDER / "weights" / file).read_bytes(), tmp_path / file
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1_000, len(whole) - 10):
        cut.write_bytes(whole[:length])
        said = "input" if length == 0 and file != "big_vision_lit.npz" else "without an end"
        with pytest.raises(DataError, match=rf"{file} cannot be read: .*{said}\. Is the file complete\?") as error:
            _files.read(cut)
        assert "\n" not in str(error.value)


def test_weights_of_other_heads_or_ids(tmp_path):
    """Arrays do not show their heads: the settings beside them do."""
    for name in ("vit", "clip"):
        (tmp_path / name).mkdir()
        shutil.copy(FOLDER / "weights" / f"{name}.safetensors", tmp_path / name / "model.safetensors")
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"vision_config": {"num_attention_heads": 2}, "text_config": {}}))
    assert start(tmp_path, tmp_path / "vit", "vit")
    with pytest.raises(
        CheckpointError, match=r"init_from.image: the weights have 2 heads, the encoder 4. Set model.encoders.image.heads=2"
    ):
        start(tmp_path, tmp_path / "vit", "vit", heads=4)
    with pytest.raises(CheckpointError, match="the weights have 2 heads, the encoder 4"):
        start(tmp_path, tmp_path / "clip", "clip", **CLIP, heads=4)
    with pytest.raises(ConfigError, match="A width of 16 does not split into 3 heads"):
        start(tmp_path, FOLDER / "weights" / "vit.safetensors", "vit", heads=3)

    def words(vocab):
        text = {**TEXT, "activation": "quick_gelu", "vocab": vocab}
        return parts_of(toy_config(model__encoders__text=text, init_from={"text": {"name": "clip", "path": str(tmp_path / "clip")}}))

    parts = words(259)  # bytes
    with pytest.raises(CheckpointError, match=r"init_from.text: the weights embed 50 ids, and model.encoders.text.vocab=259. Set it to 50"):
        load_parts(parts, parts.state_shapes())
    with pytest.raises(ConfigError, match=r"vocab=50 is smaller than the tokenizer's 259 tokens. .*take their tokenizer"):
        words(50).state_shapes()
    with pytest.raises(ConfigError, match=r"patches of 3 do not divide an image of 8 x 8. Resize it to 6 x 6 or 9 x 9"):
        start(tmp_path, FOLDER / "weights" / "vit.safetensors", "vit", patch=3)
    clip = jax.ShapeDtypeStruct((1, 3, 8, 8, 3), jnp.float32)
    with pytest.raises(ConfigError, match=r"of 3 frames of 8 x 8. Make it \(frames x height x width\) 2 x 8 x 8 or 4 x 8 x 8"):
        jax.eval_shape(lambda x: build("encoders", VIDEO, "encoder").init(jax.random.key(0), x, train=False), clip)


def test_a_hub_name_without_a_network_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def refuses(*_, **__):
        raise OSError("no network\nand a traceback")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuses)
    with pytest.raises(DataError, match=re.escape("the hub does not give 'google/vit-base' (no network)")) as error:
        _files.read("google/vit-base")
    assert "\n" not in str(error.value)


def test_a_checkpoint_in_several_files_of_half_precision(tmp_path):
    """A folder with an index, as hubs have them; bfloat16 is widened where it is loaded."""
    from safetensors.flax import save_file

    arrays = _files.read(FOLDER / "weights" / "vit.safetensors")
    names = sorted(arrays)
    files = {f"model-0000{i}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in files.items():
        save_file({n: jnp.asarray(arrays[n], jnp.bfloat16) for n in part}, tmp_path / file)
    index = {"weight_map": {n: file for file, part in files.items() for n in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = start(tmp_path, tmp_path, "vit")["params"]["image"]["embedding"]["kernel"]
    whole = start(tmp_path, FOLDER / "weights" / "vit.safetensors", "vit")["params"]["image"]["embedding"]["kernel"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, whole, rtol=1e-2)
    assert (np.asarray(found) != np.asarray(whole)).any()


BIG_VISION = np.load(FOLDER / "big_vision.npz")
TOWERS = {
    "siglip": ({"pool": "attention"}, {}, {"image": "none", "text": "affine"}, 16),
    "lit": ({"pool": "class"}, {"pool": "mean"}, {"image": "affine", "text": "affine"}, 8),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_big_visions_own_checkpoints_give_what_its_code_gives(kind):
    """`tests/golden/make_big_vision.py` made them; LiT's image tower in one scan, whose blocks lie in one array."""
    image, text, projection, width = TOWERS[kind]
    encoders = {"image": {**VIT, **image}, "text": {**TEXT, "causal": False, **text}}
    model = build("models", {"name": "aligner", "width": width, "encoders": encoders, "projection": projection}, "model")
    batch = {"image": jnp.asarray(BIG_VISION["image"]), "text": jnp.asarray(BIG_VISION["text"], jnp.int32)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    path = FOLDER / "weights" / f"big_vision_{kind}.npz"
    params = {part: loaded("big_vision", path, part, {"params": tree})["params"] for part, tree in shapes.items()}
    outputs, _ = checks.quick(lambda params: model.apply({"params": params}, batch, train=False))(params)
    for side in ("image", "text"):
        np.testing.assert_allclose(outputs[f"{side}/z"], BIG_VISION[f"{kind}/{side}"], atol=2e-5)
    if kind == "siglip":
        with pytest.raises(DataError, match="has no part 'image_projection'"):
            build("weights", {"name": "big_vision", "path": str(path)}, "").load("image_projection", {})
