"""What the audio sets of tfds have in common: a recording and what is said of it in words, aligned."""

import numpy as np
from ml_collections import ConfigDict

from mmjax.config import parse_arg

WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")


class Tones:
    """What `:smoke` reads instead of a data set: a tone of its own for each word, from a tenth of a second to half of one."""

    classes = {"label": WORDS}

    def __init__(self, split, rate):
        self.split, self.rate, self.fingerprint = split, rate, f"tones/{split}/{rate}"

    def __len__(self):
        return 32

    def __getitem__(self, i):
        rng = np.random.default_rng((i, len(self.split)))
        t = np.arange(round(self.rate * rng.uniform(0.1, 0.5))) / self.rate
        word = i % len(WORDS)
        tone = 0.3 * np.sin(2 * np.pi * 200 * 1.3**word * t) + 0.01 * rng.normal(size=len(t))
        return {"audio": tone.astype(np.float32), "text": WORDS[word], "label": word, "key": word}

    def describe(self):
        return {"attribution": "Tones made up for a smoke run."}


def align_speech(
    arg,
    dataset: str,
    rate: int,
    seconds: float,
    *,
    audio: str = "audio",
    text: str = "label",
    label: str | None = "label",
    splits: dict[str, str] | None = None,
    tokens: int = 16,
    batch_size: int = 256,
    steps: int = 10_000,
) -> ConfigDict:
    """Recordings of `rate` samples a second, and texts: the names of classes, or with `label=None` whatever was said.

    Recordings of one class are positives of each other; where nothing but its text tells a recording from others, each is
    an item of its own. Audio is cut to `seconds`.
    """
    arg = parse_arg(arg, smoke=False, seed=0)
    c = ConfigDict()
    c.seed = arg.seed
    c.steps = 2 if arg.smoke else steps

    streams = dict(audio=audio, text=text, **({"label": label} if label else {}))
    tfds = dict(name="tfds", dataset=dataset, streams=streams, splits=splits or {}, key=label, data_dir=None, prepare=False)
    c.data = dict(
        source=dict(name="configs._speech:Tones", rate=rate) if arg.smoke else tfds,
        batch_size=16 if arg.smoke else batch_size,
        pp=dict(audio=f"decode(16_000, given={rate})|crop_or_pad({0.5 if arg.smoke else seconds})", text=f"lower|tokens({tokens})"),
        batch_pp=dict(audio="log_mel(64)|spec_augment(2, 20, 8)"),
        tokenizer=dict(name="byte"),
        threads=2 if arg.smoke else 16,
    )
    c.model = _model(arg.smoke, sentences=label is None)
    c.objectives = dict(contrastive=dict(name="contrastive", loss="softmax", pairs=[("audio", "text")], init_scale=10.0))
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        schedule="cosine",
        warmup=1 if arg.smoke else 500,
        rules=[(".*/(bias|scale|log_scale)", dict(decay=0.0)), (".*", dict(decay=0.1))],
    )
    c.mesh = dict(data=-1, fsdp=1)
    every = 2 if arg.smoke else 1_000
    c.evals, best = _evals(every, classes=label is not None)
    c.checkpoint = dict(every=every, keep=2, best=best)
    c.log = dict(every=1 if arg.smoke else 50)
    return c


def _model(smoke: bool, sentences: bool):
    """Names of classes are few words, of which their letters say enough; sentences are read in order."""
    width = 32 if smoke else 512
    text = dict(name="subword_vectors", width=width)
    if sentences:
        text = dict(name="text_transformer", vocab=259, width=width, depth=1 if smoke else 6, heads=2 if smoke else 8, causal=False)
    audio = dict(name="audio_cnn", rate=100.0, **(dict(blocks=((8, 4), (16, 4))) if smoke else {}))
    return dict(name="aligner", width=width, encoders=dict(audio=audio, text=text))


def _evals(every: int, classes: bool):
    """The evaluators, and the figure by which the best checkpoint is kept."""
    loss = dict(name="loss", every=every)
    if not classes:
        retrieval = dict(name="retrieval", streams=("audio", "text"), baseline=None, every=every)
        return dict(loss=loss, retrieval=retrieval), "validation/retrieval/text_to_audio/r@10"
    zeroshot = dict(name="zeroshot", stream="audio", templates=("{}",), every=every)
    probe = dict(name="linear_probe", stream="audio", baseline=None)
    return dict(loss=loss, zeroshot=zeroshot, linear_probe=probe), "validation/zeroshot/balanced_accuracy"
