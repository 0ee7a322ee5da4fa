"""Somebody's table of pictures, texts and labels, from public weights to a fused model."""

import json
import shutil
from pathlib import Path

import jax
import pytest

from configs.fuse_files import get_config
from mmjax.config import ConfigError
from mmjax.nn.adapters import NAME as ADAPTERS
from mmjax.train.build import parts_of
from mmjax.train.optim import paths
from mmjax.train.pretrained import load_parts

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder as hubs have them: CLIP made small, and a tokenizer of fifty words."""
    folder = tmp_path_factory.mktemp("clip")
    shutil.copy(GOLDEN / "weights" / "clip.safetensors", folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "of", *(f"w{i}" for i in range(44))]) + "\n")
    (folder / "config.json").write_text(json.dumps({f"{side}_config": {"num_attention_heads": 2} for side in ("vision", "text")}))
    return folder


def test_both_towers_of_a_clip_are_taken_and_stay(clip):
    parts = parts_of(get_config(f"smoke,weights={clip}"))
    with jax.set_mesh(parts.mesh):
        shapes = parts.state_shapes()
        found = load_parts(parts, shapes)
    assert set(found["params"]) == {"image", "text"} and parts.data.encoded == ("image",)
    trained = parts.optimizer.split(shapes.params)[0]["model"]
    assert set(trained) == {"fusion", "head_label"} and parts.config["model"]["heads"]["label"]["size"] == 3


def test_lora_in_both_towers(clip):
    parts = parts_of(get_config(f"smoke,weights={clip},lora=2"))
    with jax.set_mesh(parts.mesh):
        trained = paths(parts.optimizer.split(parts.state_shapes().params)[0]["model"][ADAPTERS])
    assert parts.data.encoded == () and {path.split("/")[0] for path in trained} == {"image", "text"}
    with pytest.raises(ConfigError, match="lora=... adapts the towers of weights="):
        get_config("lora=2")


def test_one_of_the_two_alone_and_labels_that_are_numbers(tmp_path):
    parts = parts_of(get_config("smoke,only=text"))
    assert set(parts.data.spec) == {"text", "label"} and parts.config["init_from"] == {}
    for name in ("cat", "cell", "grass"):
        shutil.copy(Path(__file__).parents[1] / "data" / "files" / f"{name}.jpg", tmp_path)
    rows = ["img,words,class,side", "cat.jpg,a cat,4,train", "cell.jpg,a cell,0,validation", "grass.jpg,grass,2,test"]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    columns = f"table={tmp_path / 'own.csv'},image=img,text=words,split=side"
    assert get_config(f"{columns},label=class").model.heads.label.size == 5
    (tmp_path / "own.csv").write_text("\n".join([rows[0], rows[1].replace(",4,", ",0.5,"), *rows[2:]]))
    with pytest.raises(ConfigError, match="label='class': the column should hold names, or numbers from 0 on"):
        get_config(f"{columns},label=class")
