"""The digits' splits and what they hold."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mmjax.config import ConfigError
from mmjax.data.sources.digits import NAMES, SPLITS, Digits


@pytest.fixture(scope="module")
def splits():
    return {split: Digits(split) for split in SPLITS}


def test_every_digit_is_in_one_split_which_holds_its_share_of_each(splits):
    keys = [source[i]["key"] for source in splits.values() for i in range(len(source))]
    assert sorted(keys) == list(range(1_797))
    for split, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        found = np.bincount([splits[split][i]["label"] for i in range(len(splits[split]))])
        np.testing.assert_allclose(found, share * np.bincount(load_digits().target), atol=1)
    first = [splits["test"][i]["key"] for i in range(5)]
    assert first == [2, 8, 16, 18, 19], "the same on every machine"


def test_an_image_and_its_label_are_scikit_learns(splits):
    row = splits["validation"][7]
    image = np.asarray(Image.open(io.BytesIO(row["image"])))
    digits = load_digits()
    assert image.shape == (8, 8) and row["label"] == digits.target[row["key"]]
    np.testing.assert_allclose(image / 255 * 16, digits.images[row["key"]], atol=0.05)
    assert Digits.classes["label"][row["label"]] == NAMES[row["label"]]


def test_about_itself(splits):
    assert "CC BY 4.0" in splits["test"].describe()["attribution"]
    assert sum(count for _, count in splits["test"].describe()["classes"].rows) == len(splits["test"])
    assert len({source.fingerprint for source in splits.values()}) == 3
    with pytest.raises(ConfigError, match="no split 'tset'"):
        Digits("tset")
