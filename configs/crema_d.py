"""Align spoken sentences with the emotion that an actor put in: CREMA-D (Cao et al., 2014), six emotions, 91 actors, through tfds.

    pip install 'mmjax[tf]'
    python experiments/train.py --config configs/crema_d.py --workdir runs/crema_d --config.data.source.prepare=True

tfds' splits keep each actor in one. The texts are its abbreviations (ANG, DIS, FEA, HAP, NEU, SAD). Nobody has measured
here what it reaches. `:smoke` runs on tones, without TensorFlow.
"""

from configs._speech import align_speech


def get_config(arg=""):
    return align_speech(arg, "crema_d", rate=16_000, seconds=3.0, steps=5_000)
