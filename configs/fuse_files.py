"""Classify your own pictures with their texts: a table and its folder, --config configs/fuse_files.py:table=photos/items.csv.

    image, text, label   the table's columns; a label is a name or a number from 0 on
    split                a column that says train, validation or test; otherwise 80 / 10 / 10 by a hash of the picture
    weights              a CLIP (folder, file or the hub's name) whose two towers see and read, frozen; without it the pictures go
                         through EfficientNet-Lite0, as trained on ImageNet, and words get vectors of their own
    lora                 a rank: LoRA in both towers of these weights, where frozen ones are not enough
    only                 image or text alone, which the fusion has to be better than
    fusion               any method of mmjax/fusion/

A class needs some ten examples. Without a table it runs on twelve photographs that tests use, to show that it does.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import _fuse
from mmjax.config import ConfigError, build, parse_arg
from mmjax.data.sources.files import Files
from mmjax.weights._files import folder_of

SAMPLE = Path(__file__).parents[1] / "tests" / "data" / "files" / "items.csv"


def get_config(arg=""):
    columns = dict(table=str(SAMPLE), image="file", text="caption", label="kind", split="")
    arg = parse_arg(arg, smoke=False, seed=0, **columns, weights="", lora=0, only="", fusion="concat", steps=200, batch=32)
    if arg.lora and not arg.weights:
        raise ConfigError("lora=... adapts the towers of weights=..., which are not given.")
    streams = (arg.only,) if arg.only else ("image", "text")
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 2 if arg.smoke else arg.steps

    sample = arg.table == str(SAMPLE)
    splits = dict(column=arg.split) if arg.split else dict(validation=0.3, test=0.3) if sample else dict(validation=0.1, test=0.1)
    read = dict(path=arg.table, streams=dict(image=arg.image, text=arg.text, label=arg.label), splits=splits)
    own: Any = _clip(arg.weights) if arg.weights else _light(32 if arg.smoke else 128)
    c.data = dict(
        source=dict(name="files", **read),
        batch_size=8 if arg.smoke or sample else arg.batch,
        pp={m: own["pp"][m] for m in streams} | {"label": "index()"},
        batch_pp={m: x for m, x in own["batch_pp"].items() if m in streams},
        tokenizer=own["tokenizer"],
        modality_dropout=0.0 if arg.only else 0.2,
        cache=True,
        encoded=["image"] if "image" in streams and not arg.lora else [],
    )
    c.model = dict(
        name="fuser",
        encoders={m: own["encoders"][m] for m in streams},
        fusion=dict(name=arg.fusion),
        heads=dict(label=dict(size=_classes(read, arg.label), dropout=0.3)),
    )
    c.init_from = {m: x for m, x in own["init_from"].items() if m in streams}
    if arg.lora:
        c.adapt = [(".*/(query|value)", dict(name="lora", rank=arg.lora))]
    return _fuse.trained(c, arg.smoke, frozen=[*c.init_from])


def _light(size):
    """What pip brings along."""
    return dict(
        pp=dict(image=f"decode|resize({size})", text="choose|lower|tokens(64)"),
        batch_pp={},
        tokenizer=dict(name="byte"),
        encoders=dict(image=dict(name="efficientnet_lite", variant="lite0", frozen=True), text=dict(name="subword_vectors", width=256)),
        init_from=dict(image=dict(name="efficientnet_lite")),
    )


def _clip(path):
    """Both towers of a CLIP, and how they are given pictures and texts; its tokenizer lies beside it."""
    weights = dict(name="clip", path=path)
    told = build("weights", weights, "weights").config()
    return dict(
        pp=dict(image=told["pp"]["image"], text=f"choose|{told['pp']['text']}"),
        batch_pp=told["batch_pp"],
        tokenizer=dict(name="file", path=str(folder_of(path))),
        encoders=told["model"]["encoders"],
        init_from=dict(image=weights, text=weights),
    )


def _classes(read, column):
    """How many classes the table has."""
    source = Files("train", **read)
    if "label" in source.classes:
        return len(source.classes["label"])
    numbers = [row["label"] for split in ("train", "validation", "test") for row in Files(split, **read)]
    found = [n for n in numbers if n is not None]
    if not found or not all(isinstance(n, int) for n in found):
        raise ConfigError(f"label={column!r}: the column should hold names, or numbers from 0 on.")
    return max(found) + 1
