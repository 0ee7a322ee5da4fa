"""Align your own pictures and texts: a table and its folder, --config configs/align_files.py:table=photos/captions.csv.

`image` and `text` name the table's columns; rows with the same picture are several texts of it. WebDataset shards are
table=shards/{00000..00009}.tar,image=jpg,text=txt. 80 % of the pictures are trained on, 10 % each are for validation and
test, unless `split` names a column that says it. Without a table it runs on twelve photographs that tests use.

Hundreds of pictures teach no eye to see, so the image tower is that of `align_openmoji.py`: EfficientNet-Lite0 as trained
on ImageNet, frozen, with a matrix behind it. With many thousands of pairs, take a recipe such as `clip_coco.py`.
"""

from pathlib import Path

from configs.align_openmoji import get_config as quickstart
from mmjax.config import parse_arg

SAMPLE = Path(__file__).parents[1] / "tests" / "data" / "files" / "captions.csv"


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, table=str(SAMPLE), image="file", text="caption", split="", steps=200, batch=64)
    c = quickstart(f"smoke={arg.smoke},seed={arg.seed}")  # model, loss and optimizer
    c.steps = 4 if arg.smoke else arg.steps

    splits = dict(column=arg.split) if arg.split else dict(validation=0.1, test=0.1)
    c.data = dict(
        source=dict(name="files", path=arg.table, streams=dict(image=arg.image, text=arg.text), splits=splits),
        batch_size=8 if arg.smoke else arg.batch,
        pp=dict(image=f"decode_random_resized_crop({32 if arg.smoke else 128}, (0.5, 1.0))|flip_lr", text="choose|lower|tokens(128)"),
        tokenizer=dict(name="byte"),
    )
    c.evals = dict(retrieval=dict(name="retrieval", every=50, all_items=True), loss=dict(name="loss", every=50))
    return c
