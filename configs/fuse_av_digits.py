"""Which digit is it? Pictures that have lost three quarters of their energy, and the digit spoken in noise, after AV-MNIST.

    python experiments/train.py --config configs/fuse_av_digits.py --workdir runs/av_digits --config.model.fusion.name=gated

See mmjax/data/sources/av_digits.py. The speech is made by espeak-ng (sudo apt install espeak-ng), synthetic therefore, and
tested in three voices that were never heard; `speech=spoken_digit` or `speech=FOLDER` takes recordings, `images=mnist`
MNIST. AV-MNIST's noise is ESC-50's, here it is white, at `snr` dB. `only=image` and `only=audio_speech` are what a fusion
has to be better than.
"""

from ml_collections import ConfigDict

from configs import _fuse, _recipes, _smoke
from mmjax.config import parse_arg

SPEECH = "audio_speech"


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, fold=0, only="", recipe="", fusion="concat", images="digits", speech="espeak", snr=-5.0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 2 if arg.smoke else 200

    streams = [arg.only] if arg.only else ["image", SPEECH]
    side = 8 if arg.images == "digits" else 28
    pp = {"image": f"decode|resize({side})", SPEECH: f"decode|white_noise({arg.snr})|crop_or_pad(0.8)"}
    batch_pp = {"image": "keep_energy(0.25)", SPEECH: "log_mel(32, window=0.04, hop=0.02)"}
    speech = _smoke.spoken_digits() if arg.smoke else arg.speech
    c.data = dict(
        source=dict(name="av_digits", images=arg.images, speech=speech, fold=arg.fold),
        batch_size=16 if arg.smoke else 64,
        pp={m: pp[m] for m in streams} | {"label": "index()"},
        batch_pp={m: batch_pp[m] for m in streams},
        cache=True,
    )
    blocks = ((8, 2), (16, 2)) if arg.smoke else ((16, 2), (32, 2), (64, 2))
    encoders = {
        "image": dict(name="vit", patch=side // 4, width=32, depth=2, heads=2),
        SPEECH: dict(name="audio_cnn", blocks=blocks, convs=1, parts=4, dropout=0.1),
    }
    c.model = dict(
        name="fuser",
        encoders={m: encoders[m] for m in streams},
        fusion=dict(name=arg.fusion),
        heads=dict(label=dict(size=10, dropout=0.2)),
    )
    _fuse.trained(c, arg.smoke, lr=2e-3, smoothing=0.0, by="voice", best="accuracy")
    return _recipes.apply(c, arg.recipe)
