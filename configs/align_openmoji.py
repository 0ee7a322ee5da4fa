"""Align OpenMoji drawings with their names: the quickstart, some four minutes on two CPU cores.

So few drawings teach no eye to see: the image tower is a small ViT over histograms of oriented gradients and colours,
one token a cell. For a ViT over pixels: --config.data.pp.image="decode|resize(48)|random_affine(10, 0.1)|flip_lr"
--config.model.encoders.image.patch=8.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 4 if arg.smoke else 600

    vocab = 1_024
    c.data = dict(
        source=dict(name="openmoji"),
        batch_size=16 if arg.smoke else 128,
        pp=dict(
            image="decode|resize(48)|random_affine(10, 0.1, 0.1)|flip_lr|hog(8)",
            text='choose("en")|lower|words_dropped(0.4)|tokens(16)',
        ),
        tokenizer=dict(name="bpe", vocab=vocab),
        cache=True,
    )
    c.model = dict(
        name="aligner",
        width=128,
        encoders=dict(
            image=dict(name="vit", patch=1, width=128, depth=2, heads=4),
            text=dict(name="text_transformer", vocab=vocab, width=128, depth=1, heads=4, causal=False, pool="mean", dropout=0.1),
        ),
    )
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("image", "text")], init_scale=7.0))
    c.optimizer = dict(
        name="adamw",
        lr=1.5e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 40,
        ema=0.99,
        rules=[
            (".*/(bias|scale|log_scale)", dict(decay=0.0)),
            ("model/text/embedding/.*", dict(decay=5.0)),  # words that are seen once should not be sure of themselves
            (".*", dict(decay=0.5)),
        ],
    )
    c.mesh = dict(data=-1, fsdp=1)
    languages = ("en", "de", "fr", "es", "it", "pt", "id", "tr")  # English is trained, the others are only asked
    c.evals = dict(
        retrieval=dict(name="retrieval", every=100, texts={x: f'choose("{x}")|lower|tokens(16)' for x in languages}),
        loss=dict(name="loss", every=100),
    )
    c.checkpoint = dict(every=100, keep=2, best="validation/retrieval/text_to_image/r@10")
    c.log = dict(every=10)
    return c
