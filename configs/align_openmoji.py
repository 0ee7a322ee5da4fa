"""Align OpenMoji drawings with their names: the quickstart, some three minutes on two CPU cores.

So few drawings teach no eye to see: the image tower is EfficientNet-Lite0 as trained on ImageNet, frozen, and what is
learned is a matrix behind it and the vectors of the names' words and letters.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 4 if arg.smoke else 150

    size = 32 if arg.smoke else 96
    c.data = dict(
        source=dict(name="openmoji"),
        batch_size=16 if arg.smoke else 128,
        pp=dict(image=f"decode|resize({size})|random_affine(10, 0.1, 0.1)|flip_lr", text='choose("en", aliases=False)|lower|tokens(48)'),
        tokenizer=dict(name="byte"),
        cache=True,
    )
    c.model = dict(
        name="aligner",
        width=2_048,
        encoders=dict(
            image=dict(name="efficientnet_lite", variant="lite0", frozen=True),
            text=dict(name="subword_vectors", width=2_048),
        ),
        projection=dict(image="normed", text="none"),
        dropout=0.5,
    )
    c.init_from = dict(image=dict(name="efficientnet_lite"))
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("image", "text")], init_scale=10.0))
    c.optimizer = dict(
        name="adamw",
        lr=2e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 20,
        ema=0.97,
        rules=[
            ("model/image/.*", dict(freeze=True)),
            ("model/text/.*", dict(lr=0.1, decay=0.0)),  # names are few: their vectors stay near where random ones begin
            (".*/(bias|scale|log_scale)", dict(decay=0.0)),
            (".*", dict(decay=0.1)),
        ],
    )
    c.mesh = dict(data=-1, fsdp=1)
    languages = ("en", "de", "fr", "es", "it", "pt", "id", "tr")[: 2 if arg.smoke else None]  # English is trained, the others only asked
    c.evals = dict(
        retrieval=dict(name="retrieval", every=50, variants={x: dict(text=f'choose("{x}")|lower|tokens(48)') for x in languages}),
        loss=dict(name="loss", every=50),
    )
    c.checkpoint = dict(every=50, keep=2, best="validation/retrieval/text_to_image/r@10")
    c.log = dict(every=10)
    return c
