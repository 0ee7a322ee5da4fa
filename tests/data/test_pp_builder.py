"""Preprocessing strings: what parses, what is refused and how, and that running in parts is running at once."""

import sys
from types import ModuleType

import numpy as np
import pytest

from mmjax.config import ConfigError
from mmjax.data.pp.builder import parse

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def own(monkeypatch):
    """A user's module of operations."""
    module = ModuleType("own_ops")

    def solarize(threshold, *, above=True):
        return lambda x: np.where((x >= threshold) == above, 255 - x, x)

    def noisy(scale=1.0):
        return lambda x, rng: x if rng is None else x + rng.normal(size=x.shape) * scale

    module.solarize, module.noisy, module.size, module.direct = solarize, noisy, 3, lambda x=0: 5
    monkeypatch.setitem(sys.modules, "own_ops", module)


def test_operations_run_from_left_to_right_with_their_arguments():
    pipeline = parse(" resize_small(size=10) | central_crop(8)|value_range(0, high=2.0)", "image")
    assert pipeline.names == ("resize_small", "central_crop", "value_range")
    out = pipeline(IMAGE, None)
    assert out.shape == (8, 8, 3) and out.dtype == np.float32
    cropped = parse("resize_small(10)|central_crop(8)", "image")(IMAGE, None)
    np.testing.assert_array_equal(out, cropped.astype(np.float32) * np.float32(2 / 255))


def test_a_second_stream_of_a_kind_has_the_operations_of_its_kind():
    assert parse("flip_lr", "image_depth").names == ("flip_lr",)
    assert parse("lower", "text_answer")("ABC", None) == "abc"


@pytest.mark.parametrize(
    ("text", "stream", "message"),
    [
        ("decode|resiz(48)", "image", "data.pp.image: 'resiz' is no operation on image. Did you mean 'resize'?"),
        ("lowr", "text", "Did you mean 'lower'?"),
        ("resize(sise=48)", "image", "Did you mean 'size'?"),
        ("resize(48, 48)", "image", r"resize\(48, 48\): too many positional arguments. It is resize\(size\)."),
        ("resize", "image", "missing a required argument: 'size'"),
        ("resize(**{'size': 3})", "image", "missing a required argument: 'size'. Known: size"),
        ("_crop(1)", "image", "'_crop' is no operation"),
        ("cv2", "image", "'cv2' is no operation"),
        ("decode||flip_lr", "image", "does not parse at position 8"),
        ("", "image", "does not parse"),
        ("resize(48", "image", "does not parse"),
        ("resize(\0)", "image", "does not parse"),
        ("flip_lr", "imge", "data.pp.imge: .* Did you mean 'image'?"),
        ("loud", "points", "no operations for streams of kind 'points'"),
        ("no_such_package.ops.f(1)", "image", "no module 'no_such_package.ops'"),
        ("own_ops.solarise(1)", "image", "Did you mean 'solarize'?"),
        ("own_ops.size", "image", "own_ops.size is int"),
        ("own_ops.direct", "image", "gives int: it should return the operation"),
        ("tokens(2)", "text", r"data.pp.text: tokens\(2\): length=2 leaves no room"),
        ("prompt()", "text", "missing a required argument: 'template'"),
        ("prompt('a drawing')", "text", "has no {} for the text"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_nearest_that_does(own, text, stream, message):
    with pytest.raises(ConfigError, match=message):
        parse(text, stream, {"tokenizer": None})


@pytest.mark.parametrize(
    "argument", ['__import__("os").getcwd()', "size", "1 + x", "*[48]", "{[]: 1}", "lambda: 1", "f'{1}'", "[1 for _ in 'a']"]
)
def test_arguments_are_literals_and_never_evaluated(argument, monkeypatch):
    def called(*_):
        raise AssertionError("evaluated")

    monkeypatch.setattr("os.getcwd", called)
    with pytest.raises(ConfigError, match="plain numbers, strings or lists"):
        parse(f"resize({argument})", "image")


def test_ones_own_operation_by_its_dotted_name(own):
    pipeline = parse("own_ops.solarize(100, above=False)|own_ops.noisy(0.5)", "image")
    assert pipeline.draws == (False, True) and pipeline.fixed == 1
    np.testing.assert_array_equal(pipeline(IMAGE, None), np.where(IMAGE < 100, 255 - IMAGE, IMAGE))
    assert not np.array_equal(pipeline(IMAGE, np.random.default_rng(0)), pipeline(IMAGE, None))


def test_evaluation_is_deterministic_and_training_follows_its_generator():
    pipeline = parse("random_crop(16)|random_affine(20, 0.1)|color_jitter(0.3, 0.3, 0.3, 0.1)|flip_lr", "image")
    np.testing.assert_array_equal(pipeline(IMAGE, None), IMAGE[2:18, 7:23])
    first, again, other = (pipeline(IMAGE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("stream", "text", "x", "fixed", "readable"),
    [
        ("image", "resize(12)|flip_lr|value_range", IMAGE, 1, 3),
        ("image", "random_crop(12)|resize(8)", IMAGE, 0, 2),
        ("image", "resize(12)|value_range", IMAGE, 2, 2),
        ("text", 'choose("en")|lower|words_dropped(0.5)|tokens(12)', {"en": ["One TWO three four", "Five six"]}, 0, 3),
        ("text", 'choose("en", aliases=False)|lower|tokens(12)', {"en": ["One", "Two"]}, 0, 2),
        ("text", "lower|tokens(12)", "One TWO", 1, 1),
        ("text", "lower|tokens(12)|own_ops.masked(0.5)", "One TWO", 1, 1),
    ],
)
def test_in_parts_is_the_same_as_all_at_once(monkeypatch, stream, text, x, fixed, readable):
    from mmjax.data.tokenizers import make_tokenizer

    module = ModuleType("own_ops")
    module.masked = lambda share: lambda x, rng: x if rng is None else x._replace(valid=x.valid & (rng.random(len(x.valid)) > share))
    monkeypatch.setitem(sys.modules, "own_ops", module)
    pipeline = parse(text, stream, {"tokenizer": make_tokenizer([])})
    assert (pipeline.fixed, pipeline.readable) == (fixed, readable)
    for seed in (None, 0, 1):
        rng, again = (None if seed is None else np.random.default_rng(seed) for _ in range(2))
        parts = pipeline(x, None, stop=pipeline.fixed)
        parts = pipeline(parts, rng, start=pipeline.fixed, stop=pipeline.readable)
        assert stream != "text" or isinstance(parts, str)
        parts = pipeline(parts, rng, start=pipeline.readable)
        for a, b in zip(parts, pipeline(x, again), strict=True):
            np.testing.assert_array_equal(a, b)


def test_none_ends_a_pipeline():
    assert parse('choose("de")|lower|words_dropped', "text")({"en": ["one"]}, np.random.default_rng(0)) is None
