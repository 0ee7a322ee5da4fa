"""Which of 16 categories is it? Tux Paint's stamps from picture, description and spoken description, whichever of them there are.

See mmjax/data/sources/stamps.py for where they come from; `root` is their folder, where it is not the usual one. Many stamps
are not spoken, and training drops modalities besides. Few descriptions have their category's own word in them ("The town
hall."), but a thing's name is mostly enough for a category: `:only=text` says what it reaches, `:only=image` and
`:only=audio_speech` the others. `--config.model.fusion.name=gated` takes another fusion; `fold=0` to `fold=4` are the parts
of a cross-validation.
"""

from ml_collections import ConfigDict

from configs import _fuse, _recipes, _smoke
from mmjax.config import parse_arg

SPEECH = "audio_speech"


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, only="", recipe="", fold=-1, root="/usr/share/tuxpaint/stamps")
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 2 if arg.smoke else 300

    source = _smoke.stamps() if arg.smoke else dict(name="stamps", root=arg.root)
    if arg.fold >= 0:
        source["fold"] = arg.fold
    streams = [arg.only] if arg.only else ["image", "text", SPEECH]
    pp = {
        "image": f"decode|resize({32 if arg.smoke else 96})",
        "text": 'choose("en")|lower|tokens(64)',
        SPEECH: "choose|decode|noise(15, 40)|crop_or_pad(2)",
    }
    c.data = dict(
        source=source,
        batch_size=16 if arg.smoke else 64,
        pp={m: pp[m] for m in streams} | {"label": "index()"},
        batch_pp={m: "log_mel(48, window=0.04, hop=0.02)|spec_augment(1, 10, 6)" for m in streams if m == SPEECH},
        modality_dropout=0.2,
        tokenizer=dict(name="byte"),
        cache=True,
        encoded=[m for m in streams if m == "image"],
    )
    blocks = ((8, 2), (16, 2)) if arg.smoke else ((16, 2), (32, 2), (64, 2), (128, 2))
    encoders = {
        "image": dict(name="efficientnet_lite", variant="lite0", frozen=True),
        "text": dict(name="subword_vectors", width=32 if arg.smoke else 256),
        SPEECH: dict(name="audio_cnn", blocks=blocks, convs=1, parts=4, dropout=0.1),
    }
    c.model = dict(
        name="fuser",
        encoders={m: encoders[m] for m in streams},
        fusion=dict(name="concat"),
        heads=dict(label=dict(size=3 if arg.smoke else 16, dropout=0.3)),
    )
    if "image" in streams:
        c.init_from = dict(image=dict(name="efficientnet_lite"))
    frozen = [m for m in streams if m == "image"]
    _fuse.trained(c, arg.smoke, warmup=30, every=100, frozen=frozen)
    return _recipes.apply(c, arg.recipe)
