"""CLAP and Swin transformers from disk give what transformers gives: `tests/golden/make_clap.py` made the checkpoints and the numbers."""

import io
import json
import re
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax.traverse_util import flatten_dict, unflatten_dict

import checks
from mmjax.config import DataError, build
from mmjax.data.pp.audio import Waveform, crop_or_pad
from mmjax.data.pp.builder import operations
from mmjax.train.embedder import Embedder
from mmjax.weights import _files, clap

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "clap.npz")
SMALL = {"name": "swin", "width": 8, "depths": (2, 2), "heads": (2, 4), "window": 4, "patch": 2, "mlp_ratio": 2.0}
TEXT = {"name": "text_transformer", "variant": "clap", "vocab": 50, "width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}


def loaded(family, part, shapes):
    """The variables of a part, all that are wanted and no other."""
    flat = {kind: {name: leaf.shape for name, leaf in flatten_dict(tree, sep="/").items()} for kind, tree in shapes.items()}
    path = FOLDER / "weights" / f"{family}.safetensors"
    found = build("weights", {"name": family, "path": str(path)}, "init_from").load(part, flat["params"])
    assert {kind: {name: x.shape for name, x in found[kind].items()} for kind in flat} == flat
    return {kind: unflatten_dict({name: jnp.asarray(x) for name, x in found[kind].items()}, sep="/") for kind in flat}


@cache
def outputs():
    """Of clips of three lengths in one batch, and two texts."""
    node = {"name": "aligner", "width": 12, "encoders": {"audio": {**SMALL, "size": 32}, "text": TEXT}}
    model = build("models", {**node, "projection": {"audio": "mlp", "text": "mlp"}}, "model")
    here = np.arange(128) < GOLDEN["frames"][:, None]
    batch = {
        "audio": jnp.asarray(np.where(here[:, :, None], GOLDEN["mel"], np.nan)),
        "audio/valid": jnp.asarray(here),
        "text": jnp.asarray(GOLDEN["text"][[0, 1, 1]], jnp.int32),
        "text/valid": jnp.asarray(GOLDEN["valid"][[0, 1, 1]]),
    }
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    variables = {kind: {} for kind in shapes}
    for part in shapes["params"]:
        for kind, tree in loaded("clap", part, {kind: tree[part] for kind, tree in shapes.items() if part in tree}).items():
            variables[kind][part] = tree
    return checks.quick(lambda variables: model.apply(variables, batch, train=False)[0])(variables)


def test_clap_gives_what_its_reference_gives():
    """Each clip drawn out from its own length, though all are in one batch."""
    found = outputs()
    np.testing.assert_allclose(found["audio/tokens"], GOLDEN["clap/audio_tokens"], atol=2e-5)
    np.testing.assert_allclose(found["audio/pooled"], GOLDEN["clap/audio_pooled"], atol=2e-5)
    np.testing.assert_allclose(found["text/pooled"][:2], GOLDEN["clap/text_pooled"], atol=2e-5)
    np.testing.assert_allclose(found["audio/z"], GOLDEN["clap/audio"], atol=2e-5)
    np.testing.assert_allclose(found["text/z"][:2], GOLDEN["clap/text"], atol=2e-5)


def test_the_frames_that_clap_hears():
    """By the operations that the family's docstring names; its own mirror the clip at its ends, and these hear silence there."""
    ops = [line.strip() for line in clap.__doc__.splitlines() if "pp=dict" in line]
    pp, batch_pp = (re.search(r'"(.*)"', line)[1] for line in ops)
    padded = crop_or_pad(0.2, repeat=True)(Waveform(GOLDEN["wave"], 48_000), None)
    assert "crop_or_pad(10, repeat=True)" in pp and padded.valid.all()
    ((_, op),) = operations(batch_pp, "audio", {}, "", package="mmjax.data.batch_pp")
    frames, valid = op(jnp.asarray(padded.value)[None], jnp.asarray(padded.valid)[None], jnp.ones(1, bool), None)
    assert valid.all()
    np.testing.assert_allclose(frames[0, 2:-2], GOLDEN["features"][2:-2], atol=2e-4)


def test_the_embedder_hears(tmp_path):
    """A folder as hubs have them, with a tokenizer of fifty words; what it makes of a clip is what the model makes of its frames."""
    shutil.copy(FOLDER / "weights" / "clap.safetensors", tmp_path / "model.safetensors")
    told = {"audio_config": {"spec_size": 32}, "text_config": {"num_attention_heads": 2}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(46))]) + "\n")
    embedder = Embedder(str(tmp_path), batch_size=8)
    assert embedder.streams == ["audio", "text"]
    node = embedder._model.module.encoders["audio"]
    assert {name: getattr(node, name) for name in ("width", "window", "patch")} == {
        name: SMALL[name] for name in ("width", "window", "patch")
    }
    file = io.BytesIO()
    soundfile.write(file, GOLDEN["wave"], 48_000, "PCM_24", format="WAV")
    z, here = embedder.embed("audio", [file.getvalue(), b"no sound"])
    assert here.tolist() == [True, False] and np.linalg.norm(z, axis=1).tolist() == pytest.approx([1, 0], abs=1e-5)
    texts, _ = embedder.embed("text", ["w1 w2"])
    assert texts.shape == z[:1].shape == (1, 12) and embedder.scale == pytest.approx(float(np.exp(_files.read(tmp_path)["logit_scale_a"])))
    batch = embedder.data.batch_pp(next(iter(embedder._batches("audio", [file.getvalue()]))), {})
    assert batch["audio"].shape[1:] == (128, 8)
    variables = {"params": embedder._state.params["model"], **embedder._state.stats}
    wanted, _ = embedder._model.apply(variables, batch, train=False)
    np.testing.assert_allclose(z[0], wanted["audio/z"][0], atol=1e-5)


def test_swin_gives_what_its_reference_gives():
    encoder, x = build("encoders", SMALL, "encoder"), jnp.asarray(GOLDEN["image"])
    variables = loaded("swin", "image", jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False)))
    e = checks.quick(lambda variables: encoder.apply(variables, x, train=False))(variables)
    np.testing.assert_allclose(e.tokens, GOLDEN["swin/tokens"], atol=2e-5)
    np.testing.assert_allclose(e.pooled, GOLDEN["swin/pooled"], atol=2e-5)


def count(model, *args):
    shapes = jax.eval_shape(
        lambda *args: model.init(jax.random.key(0), *args, **({} if isinstance(args[0], dict) else {"train": False})), *args
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes_equal_the_published():
    """The whole less what nothing meets here: the two scales of similarities, RoBERTa's first two positions, and its segment, which
    is added to the positions.
    """
    sound, image = jax.ShapeDtypeStruct((1, 1001, 64), jnp.float32), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for variant, x, name in (("htsat-T", sound, "clap/audio"), ("htsat-B", sound, "clap/larger_audio"), ("T", image, "swin-T")):
        assert count(build("encoders", {"name": "swin", "variant": variant}, "encoder"), x) == GOLDEN[f"count/{name}"]
    words = {"name": "text_transformer", "variant": "clap", "vocab": 50265}
    ids = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    assert count(build("encoders", words, "encoder"), ids) + 3 * 768 == GOLDEN["count/clap/text"]
    encoders = {"audio": {"name": "swin", "variant": "htsat-T"}, "text": words}
    model = build("models", {"name": "aligner", "width": 512, "encoders": encoders, "projection": {m: "mlp" for m in encoders}}, "model")
    assert count(model, {"audio": sound, "text": ids}) + 3 * 768 + 2 == GOLDEN["count/clap"]


def test_a_checkpoint_that_is_another_or_fuses_is_one_line(tmp_path):
    arrays = _files.read(FOLDER / "weights" / "clap.safetensors")
    fused = tmp_path / "fused.npz"
    np.savez(fused, **arrays, **{"audio_model.audio_encoder.patch_embed.mel_conv2d.weight": np.zeros(1)})
    whole, swin = FOLDER / "weights" / "clap.safetensors", FOLDER / "weights" / "swin.safetensors"
    for family, path, part, message in (
        ("clap", fused, "audio", "fuses several crops of a clip"),
        ("clap", swin, "audio", "is no CLAP: it has no audio_model.audio_encoder.batch_norm.weight"),
        ("clap", whole, "image", "has no part 'image': audio, text, audio_projection, text_projection"),
        ("swin", whole, "image", "is no Swin transformer"),
    ):
        with pytest.raises(DataError, match=message):
            build("weights", {"name": family, "path": str(path)}, "").load(part, {})
    with pytest.raises(DataError, match="has 8 positions, and texts have 9 tokens"):
        build("weights", {"name": "clap", "path": str(whole)}, "").load("text", {"positions": (1, 9, 16)})
