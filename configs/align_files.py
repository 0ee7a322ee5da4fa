"""Align your own pictures and texts: a table and its folder, --config configs/align_files.py:table=photos/captions.csv.

`image` and `text` name the table's columns; rows with the same picture are several texts of it. WebDataset shards are
table=shards/{00000..00009}.tar,image=jpg,text=txt. 80 % of the pictures are trained on, 10 % each are for validation and
test, unless `split` names a column that says it. Without a table it runs on twelve photographs that tests use.

Hundreds of pictures teach no eye to see, so the image tower is that of `align_openmoji.py`. With ten thousands of them
try pixels: --config.data.pp.image="decode|random_resized_crop(96, (0.5, 1.0))|flip_lr" --config.model.encoders.image.patch=8.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mmjax.config import parse_arg

SAMPLE = Path(__file__).parents[1] / "tests" / "data" / "files" / "captions.csv"


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, table=str(SAMPLE), image="file", text="caption", split="", steps=600, batch=64)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 4 if arg.smoke else arg.steps

    vocab, width, depth = (512, 64, 1) if arg.smoke else (1_024, 128, 2)
    splits = dict(column=arg.split) if arg.split else dict(validation=0.1, test=0.1)
    c.data = dict(
        source=dict(name="files", path=arg.table, streams=dict(image=arg.image, text=arg.text), splits=splits),
        batch_size=8 if arg.smoke else arg.batch,
        pp=dict(
            image="decode|resize_small(72)|random_crop(64)|random_affine(5, 0.0, 0.1)|flip_lr|hog(8)",
            text="choose|lower|words_dropped(0.2)|tokens(32)",
        ),
        tokenizer=dict(name="bpe", vocab=vocab),
        cache=False,  # True where the decoded pictures fit into memory
    )
    c.model = dict(
        name="aligner",
        width=width,
        encoders=dict(
            image=dict(name="vit", patch=1, width=width, depth=depth, heads=4),
            text=dict(name="text_transformer", vocab=vocab, width=width, depth=1, heads=4, causal=False, pool="mean", dropout=0.1),
        ),
    )
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("image", "text")], init_scale=7.0))
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 40,
        ema=0.99,
        rules=[(".*/(bias|scale|log_scale)", dict(decay=0.0)), (".*", dict(decay=0.5))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    c.evals = dict(retrieval=dict(name="retrieval", every=100, all_texts=True), loss=dict(name="loss", every=100))
    c.checkpoint = dict(every=100, keep=2, best="validation/retrieval/text_to_image/r@10")
    c.log = dict(every=10)
    return c
