"""CLIP from scratch on COCO captions: a ResNet-50 at 224 px beside a text transformer, one of five captions at random.

The towers and the loss are CLIP's (Radford et al., 2021, sec. 2.3 to 2.5; table 19 and 20: RN50, embedding 1,024, text
width 512, 12 layers, 8 heads, AdamW with decay 0.2, b1 0.9, b2 0.999, eps 1e-8, cosine, lr 5e-4, scale from 1 / 0.07 and
at most 100), with global mean pooling and group norm in the place of attention pooling and batch norm. What they do with
400 million pairs in batches of 32,768 does not carry over to 83 thousand images: batches are of 1,024, some 60 epochs, and
the warm-up is 500 steps, not 2,000. Images are augmented by random_resized_crop as CLIP's are, from 0.5 of the area on.

The splits are Karpathy's (Karpathy & Li, 2015), figures are for the 5,000 test images and each of their five captions, as
papers report COCO 5k. The data, once (38 GB with the downloads, and TensorFlow, to read them only it is not needed):

    pip install 'mmjax[tf]'
    python experiments/train.py --config configs/clip_coco.py --workdir runs/clip_coco --config.data.source.prepare=True

Meant for 8 accelerators with 40 GB or more and 32 CPU cores to decode the images (--config.mesh.fsdp=8 for less memory);
nobody has measured here how long it takes or what it reaches. `clip_coco.py:smoke` runs on OpenMoji drawings, which have
the same streams, with small towers, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 4 if arg.smoke else 5_000

    vocab, size = (512, 16) if arg.smoke else (16_384, 224)
    coco = dict(
        name="tfds",
        dataset="coco_captions/2014:1.1.0",
        streams=dict(image="image", text="captions/text"),
        splits=dict(train="train", validation="val", test="test"),  # "train+restval" are the 113 thousand that later papers train on
        data_dir=None,
        prepare=False,
    )
    c.data = dict(
        source=dict(name="openmoji") if arg.smoke else coco,
        batch_size=64 if arg.smoke else 1_024,
        pp=dict(
            image=f"decode_random_resized_crop({size}, (0.5, 1.0))|flip_lr",
            text='choose("en")|lower|tokens(32)',
        ),
        tokenizer=dict(name="bpe", vocab=vocab),
        threads=2 if arg.smoke else 32,
    )
    resnet = dict(width=8, depths=(1, 1), stem="small") if arg.smoke else dict(width=64, depths=(3, 4, 6, 3))
    text = dict(width=32, depth=1, heads=4) if arg.smoke else dict(width=512, depth=12, heads=8)
    c.model = dict(
        name="aligner",
        width=32 if arg.smoke else 1_024,
        encoders=dict(
            image=dict(name="resnet", dtype="float32" if arg.smoke else "bfloat16", **resnet),
            text=dict(name="text_transformer", vocab=vocab, dtype="float32" if arg.smoke else "bfloat16", **text),
        ),
    )
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("image", "text")]))
    c.optimizer = dict(
        name="adamw",
        lr=5e-4,
        schedule="cosine",
        warmup=1 if arg.smoke else 500,
        b2=0.999,
        rules=[(".*/(bias|scale|log_scale)", dict(decay=0.0)), (".*", dict(decay=0.2))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    every = 4 if arg.smoke else 500
    c.evals = dict(
        retrieval=dict(name="retrieval", every=every, all_items=True, baseline=None if arg.smoke else "ridge"),
        loss=dict(name="loss", every=every),
    )
    c.checkpoint = dict(every=every, keep=2, best="validation/retrieval/text_to_image/r@10")
    c.log = dict(every=1 if arg.smoke else 20)
    return c
