"""CLIP ViT-B/32: Radford et al., 2021, 'Learning Transferable Visual Models From Natural Language Supervision'.

    python experiments/train.py --workdir runs/clip_vit_b32 \
        --config "configs/clip_vit_b32.py:data=/data/laion400m/{00000..41407}.tar"

`data` are WebDataset shards as img2dataset writes them. The numbers are those of the paper's tables 18 and 20 and of its
sections 2.3 to 2.5. Of its three ViTs the paper tells the time of the largest only (clip_vit_l14.py); OpenCLIP trained this
one on LAION-400M, to 62.9 % zero-shot on ImageNet, with 128 A100 (40 GB) in 36 hours. The batch is split over all
devices; with --config.data.batch_size=4096, say, the loss is another one and a lower rate goes with it.

Not the paper's: the vocabulary is trained on a sample of the texts at hand, as the paper's own comes with its weights;
pixels are in [-1, 1] instead of normalised by channel; weights start as in ViT; AdamW's moments are float32.
"""

from ml_collections import ConfigDict

from configs._smoke import shrink
from mmjax.config import parse_arg


def get_config(arg="", image="clip-B/32", text="clip-B", width=512, lr=5e-4, remat=None):
    """`image` and `text` are sizes of the towers and `width` that of the space between them, as in table 20."""
    arg = parse_arg(arg, smoke=False, seed=0, data="/data/laion400m/{00000..41407}.tar")
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 32 * 400_000_000 // 32_768  # 32 epochs of 400 M pairs

    vocab = 49_408  # 49,152 merges, 256 bytes
    c.data = dict(
        source=dict(
            name="files",
            path=arg.data,
            streams=dict(image=["jpg", "png", "webp"], text="txt"),
            splits=dict(validation=1e-4, test=1e-4),
        ),
        batch_size=32_768,
        pp=dict(image="decode(224)|resize_small(224)|random_crop(224)", text="choose|lower|tokens(77)"),  # sec. 2.3 and 2.4
        tokenizer=dict(name="bpe", vocab=vocab, sample=1_000_000),
        threads=32,
    )
    more = dict(remat=remat) if remat and not arg.smoke else {}
    c.model = dict(
        name="aligner",
        width=width,
        encoders=dict(
            image=dict(name="vit", variant=image, dtype="bfloat16", **more),
            text=dict(name="text_transformer", variant=text, vocab=vocab, dtype="bfloat16", **more),
        ),
    )
    c.objectives = dict(
        contrastive=dict(
            name="contrastive",
            loss="softmax",
            pairs=[("image", "text")],
            init_scale=1 / 0.07,
            max_scale=100.0,
            logits="ring",  # all logits of such a batch are 4 GiB, several times
        )
    )
    c.optimizer = dict(
        name="adamw",
        lr=lr,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        schedule="cosine",
        warmup=2_000,
        rules=[(".*/(bias|scale|log_scale)", dict(decay=0.0)), (".*", dict(decay=0.2))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    c.evals = dict(retrieval=dict(name="retrieval", every=5_000, baseline=None), loss=dict(name="loss", every=5_000))
    c.checkpoint = dict(every=2_500, keep=2, best="validation/retrieval/text_to_image/r@10")
    c.log = dict(every=50)
    return shrink(c) if arg.smoke else c
