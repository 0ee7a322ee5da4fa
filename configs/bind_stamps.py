"""Bind text, speech and sounds to pictures alone, then ask one for the other: emergent alignment (Girdhar et al., 2023, 'ImageBind').

On Tux Paint's stamps; see mmjax/data/sources/stamps.py for where they come from. Trained are image-text, image-speech and
image-sound; text-speech and text-sound never are. With `:pairs=direct` they are trained, too: what binding could reach at
most. `root` is the folder of the stamps, where it is not the usual one.
"""

from ml_collections import ConfigDict

from configs import _smoke
from mmjax.config import parse_arg

SPEECH, SOUND = "audio_speech", "audio_sound"
# Of stamps that training knows: a recording in a language that it hears, of other stamps, and in two that it never hears.
SPOKEN = {"heard": '"fr", "ro", "ru", "bg", "ca", "es"', "be": '"be"', "el": '"el"'}
PAIRS = {"hub": "hub:image", "direct": "all"}


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, pairs="hub", root="/usr/share/tuxpaint/stamps")
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 2 if arg.smoke else 800

    source = _smoke.stamps() if arg.smoke else dict(name="stamps", root=arg.root)
    varied = "noise(15, 40)"
    c.data = dict(
        source=source,
        balance={SOUND: 0.25},
        batch_size=16 if arg.smoke else 128,
        pp={
            "image": f"decode|resize({32 if arg.smoke else 96})",
            "text": 'choose("en")|lower|tokens(64)',
            SPEECH: f"choose|decode|{varied}|crop_or_pad(2)",
            SOUND: f"decode|{varied}|crop_or_pad(2)",
        },
        batch_pp=dict.fromkeys((SPEECH, SOUND), "log_mel(48, window=0.04, hop=0.02)|spec_augment(1, 10, 6)"),
        tokenizer=dict(name="byte"),
        cache=True,
        encoded=("image",),  # no augmentation of pictures: there is time to hear each of 6,000 clips ten times instead
    )
    small = dict(
        name="audio_cnn", blocks=((8, 2), (16, 2)) if arg.smoke else ((16, 2), (32, 2), (64, 2), (128, 2)), convs=1, parts=4, dropout=0.1
    )
    width = 32 if arg.smoke else 512
    c.model = dict(
        name="aligner",
        width=width,
        encoders={
            "image": dict(name="efficientnet_lite", variant="lite0", frozen=True),
            "text": dict(name="subword_vectors", width=width),
            SPEECH: small,
            SOUND: dict(small),
        },
        projection=dict(image="normed", text="none"),
        dropout=0.3,
    )
    c.init_from = dict(image=dict(name="efficientnet_lite"))
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=PAIRS[arg.pairs], init_scale=10.0))
    c.optimizer = dict(
        name="adamw",
        lr=3e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 60,
        ema=0.97,
        rules=[
            ("model/image/.*", dict(freeze=True)),
            ("model/text/.*", dict(lr=0.25, decay=0.0)),
            (".*/(bias|scale|log_scale)", dict(decay=0.0)),
            (".*", dict(decay=0.1)),
        ],
    )
    c.mesh = dict(data=-1, fsdp=1)

    recordings = {language: {SPEECH: f"choose({chosen})|decode|crop_or_pad(2)"} for language, chosen in SPOKEN.items()}
    trained = [("image", "text"), ("image", SPEECH), ("image", SOUND)]
    emergent = [("text", SPEECH), ("text", SOUND), (SOUND, SPEECH)]
    c.evals = {}
    for a, b in trained + emergent:
        name = f"{a}_{b}".replace("audio_", "")
        c.evals[name] = dict(name="retrieval", streams=(a, b), every=200, baseline=None, gallery=6)
        if SPEECH in (a, b) and SOUND not in (a, b):  # stamps that training knows, in recordings that it does not
            c.evals[f"{name}_new_recordings"] = dict(
                name="retrieval", streams=(a, b), split=None, final="test_recordings", variants=recordings, baseline=None, gallery=6
            )
    for stream in ("image", SPEECH, SOUND):
        c.evals[f"zeroshot_{stream.removeprefix('audio_')}"] = dict(name="zeroshot", stream=stream, templates=("{}",))
    c.evals["space"] = dict(name="space")
    c.evals["loss"] = dict(name="loss", every=200)
    c.checkpoint = dict(every=200, keep=1)
    c.log = dict(every=20)
    return c
