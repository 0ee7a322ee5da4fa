"""Align one-second recordings with the word that is said: Speech Commands (Warden, 2018, arXiv:1804.03209), 12 classes of tfds.

    pip install 'mmjax[tf]'
    python experiments/train.py --config configs/speech_commands.py --workdir runs/speech_commands --config.data.source.prepare=True

The data set's own splits, by speaker; two of the classes are silence and words unknown. Nobody has measured here what it
reaches. `:smoke` runs on tones, without TensorFlow.
"""

from configs._speech import align_speech


def get_config(arg=""):
    return align_speech(arg, "speech_commands", rate=16_000, seconds=1.0)
