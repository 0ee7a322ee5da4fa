"""Audio sets of tfds, prepared by its own code from recordings made up here. Takes TensorFlow: `make test-tf`."""

import wave

import jax
import numpy as np
import pytest

from configs.spoken_digit import get_config
from mmjax.data.sources.tfds import Tfds
from mmjax.train.loop import train

pytest.importorskip("tensorflow", reason="make test-tf")
RATE = 8_000


def samples(digit, speaker):
    """A tone a digit, in 16 bits."""
    rng = np.random.default_rng((digit, speaker))
    t = np.arange(1_000 + 100 * speaker) / RATE
    return np.int16(20_000 * np.sin(2 * np.pi * 200 * (digit + 1) * t) + 200 * rng.normal(size=len(t)))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """spoken_digit as it is prepared, but for its download."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("download")
    recordings = folder / "free-spoken-digit-dataset-1.0.9" / "recordings"
    recordings.mkdir(parents=True)
    for digit in range(10):
        for speaker in range(8):
            with wave.open(str(recordings / f"{digit}_speaker{speaker}_0.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(RATE)
                file.writeframes(samples(digit, speaker).tobytes())
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: str(folder))
        Tfds("train", dataset="spoken_digit", streams={"audio": "audio"}, data_dir=data_dir, prepare=True)
    return data_dir


def test_waveforms_labels_and_names_are_those_of_the_files(data_dir):
    streams = {"audio": "audio", "label": "label", "text": "label", "text_file": "audio/filename"}
    source = Tfds("train", dataset="spoken_digit", streams=streams, data_dir=data_dir)
    assert len(source) == 80
    for i in range(0, 80, 7):
        row = source[i]
        digit, speaker = int(row["text_file"][0]), int(row["text_file"].split("_")[1][len("speaker") :])
        assert row["audio"].dtype == np.float32 and row["label"] == digit and row["text"] == str(digit)
        np.testing.assert_array_equal(row["audio"], samples(digit, speaker).astype(np.float32) / 2**15)
    assert ["audio", "audio", "Audio at 8,000 Hz"] in source.describe()["streams"].rows


def test_the_config_trains_on_what_was_prepared(data_dir, tmp_path):
    """As the shrunk run does, but on the data set itself, by its own splits."""
    config = get_config("smoke")
    config.data.source = get_config().data.source
    config.data.source.data_dir = data_dir
    config.data.batch_size = 8
    with jax.numpy_dtype_promotion("standard"):
        results = train(config, tmp_path / "run")
    assert np.isfinite(results["test/loss/total"]) and 0 <= results["test/zeroshot/top1"] <= 1
    assert results["test/zeroshot/top1/chance"] == pytest.approx(0.1)
