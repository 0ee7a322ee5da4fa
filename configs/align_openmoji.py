"""Align OpenMoji drawings with their names: the quickstart."""

from ml_collections import ConfigDict

from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 4 if arg.smoke else 1_500

    vocab = 1_024
    c.data = dict(
        source=dict(name="openmoji"),
        batch_size=16 if arg.smoke else 256,
        tokenizer=dict(name="bpe", vocab=vocab),
        pp=dict(image="decode|resize(48)|random_affine(10, 0.1)|flip_lr", text='choose("en")|lower|words_dropped(0.1)|tokens(24)'),
        cache=True,
    )
    c.model = dict(
        name="aligner",
        width=128,
        encoders=dict(
            image=dict(name="vit", patch=6, width=128, depth=4, heads=4),
            text=dict(name="text_transformer", vocab=vocab, width=128, depth=2, heads=4),
        ),
    )
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("image", "text")]))
    c.optimizer = dict(
        name="adamw",
        lr=2e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 150,
        rules=[(".*/(bias|scale)|.*log_scale", {}), (".*", dict(decay=0.1))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    c.log = dict(every=10)
    c.evals = dict(
        retrieval=dict(name="retrieval", every=250),
        loss=dict(name="loss", every=250),
    )
    c.checkpoint = dict(every=250, best="validation/retrieval/text_to_image/r@10")
    return c
