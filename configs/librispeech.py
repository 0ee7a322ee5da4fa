"""Align read sentences with their transcripts: LibriSpeech (Panayotov et al., 2015), 100 hours to train on, through tfds.

    pip install 'mmjax[tf]'    # and ffmpeg, which reads .flac
    python experiments/train.py --config configs/librispeech.py --workdir runs/librispeech --config.data.source.prepare=True

tfds fetches all of it, 57 GB. The splits are the data set's own, no speaker in two; for 960 hours, splits=dict(train=
"train_clean100+train_clean360+train_other500"). Ten seconds from anywhere in a recording stand for a transcript of all of
it. Nobody has measured here what it reaches. `:smoke` runs on tones, without TensorFlow.
"""

from configs._speech import align_speech


def get_config(arg=""):
    splits = dict(train="train_clean100", validation="dev_clean", test="test_clean")
    return align_speech(arg, "librispeech", 16_000, 10.0, audio="speech", text="text", label=None, splits=splits, tokens=256)
