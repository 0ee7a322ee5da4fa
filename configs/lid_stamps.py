"""A language that training never sees: are its words, written and spoken, found by the pictures that other languages explained?

On Tux Paint's stamps, as bind_stamps.py. Trained with pictures, texts and speech in all of LANGUAGES but `held_out`; asked in
every one of them, the held-out one among these, about new things ("test") and about known ones ("test_recordings").
"""

from typing import Any

from configs import bind_stamps
from configs.bind_stamps import SOUND, SPEECH
from mmjax.config import ConfigError, nearest, parse_arg

LANGUAGES = ("fr", "ro", "ru", "bg", "ca", "es", "be", "el", "da")  # those with hundreds of spoken descriptions


def get_config(arg=""):
    arg = parse_arg(arg, smoke=False, seed=0, held_out="ca", root="/usr/share/tuxpaint/stamps")
    if arg.smoke:  # made-up stamps have fewer languages
        arg.held_out = "ru"
    if arg.held_out not in LANGUAGES:
        raise ConfigError(f"held_out={arg.held_out!r} is not among the languages.{nearest(arg.held_out, LANGUAGES)}")
    c: Any = bind_stamps.get_config(f"smoke={arg.smoke},seed={arg.seed},root={arg.root}")
    del c.data.pp[SOUND], c.data.batch_pp[SOUND], c.data.balance, c.model.encoders[SOUND]

    seen = ", ".join(f'"{language}"' for language in LANGUAGES if language != arg.held_out)
    c.data.source.unheard = (arg.held_out,)
    c.data.pp["text"] = f"choose({seen})|lower|tokens(96)"
    c.data.pp[SPEECH] = c.data.pp[SPEECH].replace("choose|", f"choose({seen})|")
    c.objectives.contrastive.pairs = "all"

    asked = ("fr", arg.held_out) if arg.smoke else LANGUAGES
    texts = {x: dict(text=f'choose("{x}")|lower|tokens(96)') for x in asked}
    clips = {x: {SPEECH: f'choose("{x}")|decode|crop_or_pad(2)'} for x in asked}

    def retrieval(streams, variants, **when):
        return dict(name="retrieval", streams=streams, variants=variants, baseline=None, gallery=6, **when)

    c.evals = dict(
        text=retrieval(("image", "text"), texts, every=200),
        speech=retrieval(("image", SPEECH), clips, every=200),
        speech_of_the_known=retrieval(("image", SPEECH), {arg.held_out: clips[arg.held_out]}, split=None, final="test_recordings"),
        loss=dict(name="loss", every=200),
    )
    return c
