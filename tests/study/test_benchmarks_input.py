"""What the benchmark of the input side compares is what it says, and it counts rightly."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from mmjax import config
from mmjax.config import UserError
from mmjax.study.benchmarks import input as study
from mmjax.study.benchmarks import timing


def noise(side, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((2 * side, side)).save(file, "JPEG")
    return file.getvalue()


def test_contestants_take_turns_and_rates_are_items_a_second(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def contestant(name, items, seconds):
        def work():
            order.append(name)
            clock[0] += seconds
            return items

        return work

    rates = timing.in_turns({"fast": contestant("fast", 8, 1.0), "slow": contestant("slow", 2, 0.5)}, repeats=2, seconds=2)
    assert rates == {"fast": [8, 8], "slow": [4, 4]}
    assert order == ["fast", "slow"] + 2 * (["fast"] * 2 + ["slow"] * 4), "a turn to warm up, then both in every turn"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin processes")
def test_one_core_is_one_and_given_back():
    before = os.sched_getaffinity(0)
    with timing.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_photographs_have_the_size_asked_for(monkeypatch):
    pytest.importorskip("skimage")
    for data in study.photographs(300):
        assert max(Image.open(io.BytesIO(data)).size) == 300


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        study.photographs(300)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(study, "photographs", lambda side: [noise(side, 0)])
    rows, missing = study.decoding(16, [20, 40], [(0.5, 1.0)], repeats=2, seconds=0)
    assert [(row["side"], row["pipeline"]) for row in rows[:4]] == [
        (20, "ours"), (20, "ours, normalised on the host"), (20, "ours, as two operations"), (40, "ours")
    ]  # fmt: skip
    assert all(
        row["ratios"] == [a / b for a, b in zip(rows[3 * (i // 3)]["rates"], row["rates"], strict=True)] for i, row in enumerate(rows)
    )
    assert missing == ["torchvision is not installed: pip install torch torchvision", "tf.data is not installed: pip install tensorflow"]


@pytest.mark.parametrize("name", study.OTHERS)
def test_the_other_pipelines_see_what_ours_sees(name):
    """The whole area, nearly square: all three crops are then nearly the same picture, normalised."""
    pytest.importorskip({"tf.data": "tensorflow"}.get(name, name))
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=95
    )
    other = np.asarray(study.OTHERS[name][0](32, (0.999, 1.0))([file.getvalue()])[0])
    other = other if other.shape[-1] == 3 else other.transpose(1, 2, 0)
    ours = study.our_pipeline("decode_random_resized_crop(32, [0.999, 1.0], [1, 1])")([file.getvalue()])[0]
    assert np.abs((ours / 255 - study.MEAN) / study.STD - other).mean() < 0.3


def test_the_three_formats_hold_the_same_pairs(tmp_path):
    images = [noise(8, i) for i in range(3)]
    nodes = study.write_pairs(tmp_path / "pairs", images, 7)
    sources = {name: config.build("data.sources", node, "data.source", split="train") for name, node in nodes.items()}
    expected = sorted((f"photograph number {i}", images[i % 3]) for i in range(7))
    for name, source in sources.items():
        texts = [source[i]["text"] for i in range(len(source))]
        found = [(t if isinstance(t, str) else t[0], source[i]["image"]) for i, t in enumerate(texts)]
        assert sorted(found) == expected, name
    rates = study.reading(sources, repeats=2, seconds=0.01)
    assert set(rates) == set(nodes) and all(len(values) == 2 and min(values) > 0 for values in rates.values())


def test_a_spread_is_median_and_both_ends():
    assert timing.spread([3, 1, 2_000]) == "3 (1–2,000)" and timing.spread([0.5, 1.25], 2) == "0.88 (0.50–1.25)"
