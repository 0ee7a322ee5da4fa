"""Pictures and spoken digits: what belongs together does, and nothing of one split is in another."""

import hashlib
import io
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import soundfile

from configs import _smoke
from mmjax.config import ConfigError, DataError
from mmjax.data.batch_pp import BatchPP
from mmjax.data.loader import Data
from mmjax.data.sources import av_digits, digits
from mmjax.data.sources.av_digits import SPLITS, AvDigits
from mmjax.train.sharding import make_mesh


@pytest.fixture(scope="module")
def speech():
    folder = _smoke.spoken_digits()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def rows(speech):
    return {split: list(map(AvDigits(split, speech=speech).__getitem__, range(len(AvDigits(split, speech=speech))))) for split in SPLITS}


def test_nothing_is_in_two_splits(rows):
    """No picture, no equal pixels, no clip and no voice; AV-MNIST's generator mixes clips of all speakers."""
    for what in ("key", "image", "audio_speech", "voice"):
        found = {split: {row[what] for row in of} for split, of in rows.items()}
        assert all(found[a].isdisjoint(found[b]) for a in SPLITS for b in SPLITS if a < b), what
    assert sum(map(len, rows.values())) == 1_797 and len({row["key"] for of in rows.values() for row in of}) == 1_797


def test_both_halves_are_of_the_same_digit_whoever_reads_them_in_which_order(speech, rows):
    """The known generator pairs spectrograms with labels in the order in which its workers finish."""
    said = {Path(speech, f"{d}_{v}_0.wav").read_bytes(): d for d in range(10) for v in "abcde"}
    from sklearn.datasets import load_digits

    labels = load_digits().target
    for row in rows["train"]:
        assert said[row["audio_speech"]] == row["label"] == labels[row["key"]]
    order = np.random.default_rng(0).permutation(len(rows["train"]))
    source = AvDigits("train", speech=speech)
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(source.__getitem__, order.tolist()))
    assert all(a == rows["train"][i] for a, i in zip(again, order, strict=True))
    batches = []
    for threads in (1, 3):
        pp = {"image": "decode", "audio_speech": "decode|crop_or_pad(0.3)", "label": "index()"}
        data = Data({"name": "av_digits", "speech": speech}, pp, 32, threads=threads)
        batches.append(next(data.train_batches(make_mesh())))
    assert all((batches[0][name] == batches[1][name]).all() for name in batches[0])


def test_over_the_folds_every_picture_and_voice_is_tested_once(speech):
    pictures, voices = Counter(), Counter()
    for fold in range(5):
        tested = AvDigits("test", speech=speech, fold=fold)
        found = [tested[i] for i in range(len(tested))]
        pictures.update(row["key"] for row in found)
        voices.update({row["voice"] for row in found})
    assert len(pictures) == 1_797 and set(pictures.values()) == {1} and voices == dict.fromkeys("abcde", 1)


def test_the_components_are_those_of_training_pictures_alone(speech):
    """They keep a quarter of the training pictures' variance, as numpy finds them, and other test pictures change nothing."""
    pp = {"image": "decode", "label": "index()"}
    data = Data({"name": "av_digits", "speech": speech}, pp, 64, batch_pp={"image": "keep_energy(0.25)"})
    fitted = data.fitted(make_mesh())["image"]["0_keep_energy"]
    source = AvDigits("train", speech=speech)
    x = source._pixels[[i for i, _ in source._rows]].astype(np.float64) / 127.5 - 1
    x = np.repeat(x.reshape(len(x), 64, 1), 3, axis=2).reshape(len(x), -1)  # as decoded, in three channels
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    count = int(np.searchsorted(np.cumsum(values[::-1]) / values.sum(), 0.25)) + 1
    assert np.linalg.matrix_rank(np.asarray(fitted["projection"]), tol=1e-3) == count
    kept = vectors[:, ::-1][:, :count]
    np.testing.assert_allclose(fitted["projection"], kept @ kept.T, atol=1e-3)
    np.testing.assert_allclose(fitted["mean"], x.mean(axis=0), atol=1e-4)


def test_the_components_are_the_same_whatever_the_test_pictures_are(speech, monkeypatch):
    """The known generator fits PCA on the test set. And training pictures that change do change them."""
    pp = {"image": "decode|resize(4)", "label": "index()"}

    def fitted():
        data = Data({"name": "av_digits", "speech": speech}, pp, 64, batch_pp={"image": "keep_energy(0.25)"})
        return np.asarray(data.fitted(make_mesh())["image"]["0_keep_energy"]["projection"])

    before, rows = fitted(), {split: [i for i, _ in AvDigits(split, speech=speech)._rows] for split in SPLITS}
    pixels, labels = digits.pixels()
    for split, same in (("test", True), ("train", False)):
        changed = pixels.copy()
        for i in rows[split]:
            for value in range(1, 256):  # what a picture shows says in which split it is: one that stays there
                other = np.roll(pixels[i], 1, axis=0)
                other[0, 0] = value
                if split_of(other) == split:
                    break
            changed[i] = other
        monkeypatch.setattr(digits, "pixels", lambda changed=changed: (changed, labels))
        assert [i for i, _ in AvDigits("train", speech=speech)._rows] == rows["train"]
        assert (fitted() == before).all() == same


def split_of(pixels):
    name = hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()
    return av_digits._part(int(av_digits.share_of(f"picture {name}") * 5), 0)


def test_nothing_is_lost_of_what_the_components_were_fitted_on():
    out = BatchPP({"image": "keep_energy(1)"}, known=["image"])
    x = np.random.default_rng(0).uniform(-1, 1, (8, 4, 4, 3)).astype(np.float32)
    whole = out({"image": x}, out.fit(lambda: [{"image": x}]))["image"]
    np.testing.assert_allclose(whole, x, atol=1e-4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A handful of MNIST and of spoken_digit as tfds lays them out, but that the audio is no `Audio`, which takes TensorFlow."""
    import tensorflow_datasets as tfds

    F = tfds.features
    label = F.ClassLabel(num_classes=10)
    rng = np.random.default_rng(0)

    class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # tfds may have loaded its own
        VERSION = tfds.core.Version("3.0.1")

        def _info(self):
            features = {"image": F.Image(shape=(28, 28, 1), encoding_format="png"), "label": label}
            return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features), disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(60), "test": self._generate_examples(20)}

        def _generate_examples(self, count):
            for i in range(count):
                png = cv2.imencode(".png", rng.integers(0, 256, (28, 28), np.uint8))[1].tobytes()
                yield i, {"image": io.BytesIO(png), "label": i % 10}

    class SpokenDigit(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.9")

        def _info(self):
            audio = F.Tensor(shape=(None,), dtype=np.float32, encoding=F.Encoding.BYTES)
            features = {"audio": audio, "audio/filename": F.Text(), "label": label}
            return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for digit in range(10):
                for voice in ("george", "jackson", "nicolas", "theo", "yweweler"):
                    name = f"{digit}_{voice}_0.wav"
                    yield name, {"audio": tone(digit, voice), "audio/filename": name, "label": digit}

    folder = tmp_path_factory.mktemp("tfds")
    config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP, num_shards=1)
    for builder in (Mnist, SpokenDigit):
        builder(data_dir=folder).download_and_prepare(file_format="array_record", download_config=config)
    return str(folder)


def tone(digit, voice):
    return (0.5 * np.sin((digit + 1) / 20 * np.arange(1_000 + 50 * len(voice)))).astype(np.float32)


def test_mnist_and_recordings_by_tfds(prepared):
    """Each picture is MNIST's and each clip the recording of its digit, at its own rate; one of the five people is in each test."""
    heard = set()
    for fold in range(5):
        source = AvDigits("test", images="mnist", speech="spoken_digit", fold=fold, data_dir=prepared)
        for row in map(source.__getitem__, range(len(source))):
            samples, rate = soundfile.read(io.BytesIO(row["audio_speech"]), dtype="float32")
            assert rate == 8_000 and row["label"] == row["key"] % 10  # the handful's labels, of both of MNIST's parts
            np.testing.assert_allclose(samples, tone(row["label"], row["voice"]), atol=1e-4)
            assert cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_GRAYSCALE).shape == (28, 28)
        heard |= source._voices
        assert len(source._voices) == 1 and "SYNTHETIC" not in str(source.describe())
    assert len(heard) == 5


def test_recordings_that_tfds_has_not_prepared(tmp_path):
    with pytest.raises(DataError, match="spoken_digit|tensorflow"):
        AvDigits("train", speech="spoken_digit", data_dir=str(tmp_path))


def test_the_published_split_of_mnist(speech, monkeypatch):
    """Training pictures, the last 5,000 of them, and test pictures; voices are apart all the same."""
    pixels = np.arange(70_000, dtype=np.uint32).view(np.uint8).reshape(70_000, 2, 2)
    monkeypatch.setattr(av_digits, "_mnist", lambda data_dir, prepare: (pixels, np.arange(70_000) % 10))
    sources = {split: AvDigits(split, images="mnist", speech=speech, fold=None) for split in SPLITS}
    found = {split: [i for i, _ in source._rows] for split, source in sources.items()}
    assert found == {"train": [*range(55_000)], "validation": [*range(55_000, 60_000)], "test": [*range(60_000, 70_000)]}
    voices = [source._voices for source in sources.values()]
    assert sum(map(len, voices)) == len(set.union(*voices)) == 5
    assert all(clip.digit == i % 10 for source in sources.values() for i, clip in source._rows)


def test_synthetic_speech_is_called_so(speech, monkeypatch, tmp_path):
    """In every table that a report shows of it. A stand-in says the digits here."""
    program = tmp_path / "espeak-ng"
    program.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "eSpeak NG text-to-speech: 1.51"; exit; fi\n'
        'while [ $# -gt 1 ]; do if [ "$1" = -w ]; then out="$2"; fi; shift; done\nprintf "%s" "$1 $out" > "$out"\n'
        'head -c 2000 /dev/zero >> "$out"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(av_digits, "VARIANTS", ("m1", "f1", "m2", "f2", "m3"))
    monkeypatch.setattr(av_digits, "SPEEDS", (150,))
    source = AvDigits("train", data_dir=str(tmp_path / "data"))
    said = source.describe()
    assert "SYNTHETIC" in said["attribution"] and "SYNTHETIC" in said["voices"].note
    row = source[0]
    assert row["audio_speech"].startswith(av_digits.NAMES[row["label"]].encode())
    assert [path.name for path in (tmp_path / "data" / "av_digits").iterdir() if path.is_dir()] == ["espeak-ng-1.51-5x1"]
    assert "SYNTHETIC" not in str(AvDigits("train", speech=speech).describe())


def test_a_program_that_fails_leaves_nothing_behind(monkeypatch, tmp_path):
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\necho 1.51\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DataError, match="espeak-ng failed"):
        AvDigits("train", data_dir=str(tmp_path / "data"))
    assert not [path for path in (tmp_path / "data" / "av_digits").iterdir() if path.is_dir()]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="sudo apt install espeak-ng"):
        AvDigits("train", data_dir=str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"split": "valid"}, "no split 'valid'"),
        ({"fold": 5}, "fold=5 should be"),
        ({"fold": None}, "fold=None is MNIST's own split, and images='digits'"),
        ({"images": "cifar"}, "images='cifar' is unknown"),
        ({"speech": "/nowhere"}, "neither 'espeak', 'spoken_digit' nor a folder"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(ConfigError, match=said):
        AvDigits(**{"split": "train", **arguments})


def test_folders_that_do_not_do(tmp_path):
    with pytest.raises(DataError, match="no recordings called"):
        AvDigits("train", speech=str(tmp_path))
    for voice in "abcde":
        for digit in range(9):
            soundfile.write(tmp_path / f"{digit}_{voice}_0.wav", np.zeros(800), 8_000)
    with pytest.raises(DataError, match="no voice of the train split says nine"):
        AvDigits("train", speech=str(tmp_path))
    for path in tmp_path.glob("*_[de]_0.wav"):
        path.unlink()
    with pytest.raises(DataError, match="has 3 voices; at least 5"):
        AvDigits("train", speech=str(tmp_path))


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_says_ten_digits_that_can_be_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(av_digits, "SPEEDS", (170,))
    source = AvDigits("test", data_dir=str(tmp_path))
    pp = {"audio_speech": "decode|crop_or_pad(0.8)", "label": "index()"}
    data = Data({"name": "av_digits", "data_dir": str(tmp_path)}, pp, 8)
    batch = jax.device_get(next(data.train_batches(make_mesh())))
    assert batch["audio_speech"].shape == (8, 12_800) and (np.abs(batch["audio_speech"]).max(axis=1) > 0.1).all()
    assert len({row["voice"] for row in map(source.__getitem__, range(len(source)))}) == 3
