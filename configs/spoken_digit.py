"""Align recordings of digits with their numerals: the Free Spoken Digit Dataset, 2,500 recordings of five speakers, through tfds.

    pip install 'mmjax[tf]'
    python experiments/train.py --config configs/spoken_digit.py --workdir runs/spoken_digit --config.data.source.prepare=True

The set has no splits: 80 / 10 / 10 at random here, so that every speaker is in all of them and figures are higher than for
speakers who were never heard. Nobody has measured here what it reaches. `:smoke` runs on tones, without TensorFlow.
"""

from configs._speech import align_speech


def get_config(arg=""):
    splits = dict(train="train[:80%]", validation="train[80%:90%]", test="train[90%:]")
    return align_speech(arg, "spoken_digit", rate=8_000, seconds=1.0, splits=splits, steps=2_000)
