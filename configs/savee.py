"""Align spoken sentences with the emotion that an actor put in: SAVEE (Haq & Jackson, 2009), 480 recordings of four men, through tfds.

    pip install 'mmjax[tf]'
    python experiments/train.py --config configs/savee.py --workdir runs/savee --config.data.source.prepare=True

Its owners want to be asked: AudioData.zip is to be fetched by hand, and tfds says where to lay it. tfds' splits keep each
speaker in one, and two of the four are left to train on. Nobody has measured here what it reaches. `:smoke` runs on tones,
without TensorFlow.
"""

from configs._speech import align_speech


def get_config(arg=""):
    return align_speech(arg, "savee", rate=44_100, seconds=4.0, batch_size=64, steps=1_000)
