"""LiT on COCO captions: Zhai et al., 2022, 'LiT: Zero-Shot Transfer with Locked-image text Tuning'.

    python experiments/train.py --workdir runs/lit_coco --config configs/lit_coco.py:image_run=runs/clip_vit_b16

A text tower learns from nothing to read an image tower that stays as it is ('Lu' in the paper, sec. 3 and 5). That tower is
the one of another run: of `image_run`, trained by clip_vit_b16.py. COCO is what tfds calls coco_captions, 82,783 images.
The numbers are those that the authors published for COCO (big_vision, configs/proj/image_text/lit_coco.py), a check of the
method and no model to use: R@1 32.1 from text to image, 47.2 back, 20.7 % zero-shot on ImageNet. Hardware and time are not
told. Theirs starts from a pretrained ViT and a pretrained BERT, augments images by RandAugment and takes an Adafactor.
"""

from ml_collections import ConfigDict

from configs._smoke import shrink
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, image_run="runs/clip_vit_b16")
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 5_000
    c.init_from = dict(image=arg.image_run)

    vocab = 16_000
    c.data = dict(
        source=dict(
            name="tfds",
            dataset="coco_captions",
            streams=dict(image="image", text="captions/text"),
            splits=dict(validation="val"),
        ),
        batch_size=4_096,
        pp=dict(image="decode(224)|resize(224)|flip_lr", text="choose|lower|tokens(16)"),
        tokenizer=dict(name="bpe", vocab=vocab),
        threads=16,
    )
    c.model = dict(
        name="aligner",
        width=768,
        projection=dict(image="none"),
        encoders=dict(
            image=dict(name="vit", variant="clip-B/16", dtype="bfloat16"),
            text=dict(name="text_transformer", variant="B", vocab=vocab, causal=False, pool="class", dtype="bfloat16"),
        ),
    )
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("image", "text")], init_scale=10.0))
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        clip=1.0,
        schedule="cosine",
        warmup=150,
        # Theirs is a decay of 0.01 a step, whatever the learning rate; ours is its multiple: 10 * 1e-3.
        rules=[("model/image/.*", dict(freeze=True)), (".*/kernel", dict(decay=10.0)), (".*", dict(decay=0.0))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    c.evals = dict(
        retrieval=dict(name="retrieval", every=500, all_items=True, baseline=None),  # five captions an image
        loss=dict(name="loss", every=500),
    )
    c.checkpoint = dict(every=500, keep=2, best="validation/retrieval/text_to_image/r@10")
    c.log = dict(every=50)
    return shrink(c) if arg.smoke else c
