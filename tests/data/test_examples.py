"""One example: what is read, what is cached, what could not be read, and how rows become a batch."""

import logging

import numpy as np
import pytest

import toy
from mmjax.config import ConfigError, DataError
from mmjax.data.examples import Examples, Unreadable, each, field
from mmjax.data.pp.builder import parse
from mmjax.data.tokenizers import make_tokenizer

PP = {"image": "decode|random_affine(10, 0.1)|flip_lr", "text": 'choose("en", aliases=False)|lower|words_dropped(0.1)|tokens(40)'}
TOKENIZER = make_tokenizer([])


class Items:
    """A source of the given examples."""

    fingerprint = "items"

    def __init__(self, *items):
        self.items, self.reads = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads += 1
        return self.items[index]

    def describe(self):
        return {}


def examples(source=None, pp=PP, **options):
    source = toy.Toy("train") if source is None else source
    pipelines = {stream: parse(text, stream, {"tokenizer": TOKENIZER}) for stream, text in pp.items()}
    return Examples(source, pipelines, **{"split": "train", "seed": 0, **options})


def text_of(value):
    return TOKENIZER.decode(value.value[value.valid])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        for x, y in zip(*([v] if isinstance(v, int | np.ndarray) else v for v in (a[name], b[name])), strict=True):
            np.testing.assert_array_equal(x, y)


def test_an_example_is_drawn_from_its_seed_epoch_and_index_alone():
    one, two, other = examples(), examples(), examples(seed=1)
    forwards = [one.read(i, epoch) for epoch in range(2) for i in range(8)]
    backwards = [two.read(i, epoch) for epoch in (1, 0) for i in reversed(range(8))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert_same(a, b)
    image = forwards[3]["image"]
    assert not np.array_equal(image, forwards[11]["image"]) and not np.array_equal(image, other.read(3)["image"])
    big = examples(seed=2**40 + 1).read(3)
    assert not np.array_equal(big["image"], examples(seed=2).read(3)["image"])


def test_evaluation_draws_nothing():
    plain = examples(pp={"image": "decode", "text": 'choose("en")|lower|tokens(40)'}, seed=None)
    for epoch in range(2):
        assert_same(examples(seed=None).read(5, epoch), plain.read(5))


@pytest.mark.parametrize("seed", [None, 0])
def test_cached_examples_are_the_same_and_read_once(seed):
    source = Items(*(toy.Toy("train")[i] for i in range(6)))
    cached, plain = examples(source, seed=seed, cache=True), examples(seed=seed)
    for epoch in range(3):
        for i in range(6):
            assert_same(cached.read(i, epoch), plain.read(i, epoch))
    assert source.reads == 6


def test_an_operation_cannot_change_what_is_cached(monkeypatch):
    import sys
    from types import ModuleType

    module = ModuleType("own_ops")

    def blacken(x, rng):
        x[:] = 0
        return x

    module.blacken = lambda: blacken
    monkeypatch.setitem(sys.modules, "own_ops", module)
    with pytest.raises(DataError, match="read-only"):
        examples(pp={"image": "decode|own_ops.blacken"}, cache=True)


def test_shown_is_what_a_person_sees():
    pp = {"image": "decode|value_range", "text": 'choose("en")|lower|tokens(40)'}
    shown = examples(toy.Toy("train", broken=[2]), pp, seed=None)
    out = shown.shown(1)
    assert out["text"] == toy.Toy("train")[1]["text"]["en"][0] and out["image"].dtype == np.float32 and out["key"] == 1
    assert shown.shown(2) == {"image": None, "text": None}


def test_what_is_unreadable_is_counted_and_logged_once(caplog):
    source = toy.Toy("train", size=400, broken=[3], empty=[4])
    data = examples(source)
    with caplog.at_level(logging.WARNING, "mmjax"):
        for _ in range(3):
            with pytest.raises(Unreadable, match="ValueError: not an image that can be decoded"):
                data.read(3)
            with pytest.raises(Unreadable, match="ValueError: the text is empty"):
                data.read(4)
    assert list(data.unreadable) == [3, 4]
    assert [record.getMessage().split(" is")[0] for record in caplog.records] == ["Item 3 of the train split", "Item 4 of the train split"]


def test_the_next_readable_row_stands_in():
    data = examples(toy.Toy("train", broken=[62, 63, 0]), max_unreadable=0.1)
    for row in (62, 63, 0, 1):
        assert_same(data.read_next(row, 5), data.read(1, 5))


def test_too_much_that_is_unreadable_stops_with_names_and_reasons():
    data = examples(toy.Toy("train", size=200, broken=[10, 11], empty=[12, 13]), max_unreadable=0.015)
    message = (
        r"4 items of the train split are unreadable, more than data.max_unreadable=0.015 of its 200: "
        r"item 10: ValueError: not an image that can be decoded; item 11: .*; item 12: ValueError: the text is empty\."
    )
    with pytest.raises(DataError, match=message):
        data.read_next(10, 0)
    one = examples(toy.Toy("train", size=8, broken=[5]), max_unreadable=0.0)  # one is never too many
    assert one.read_next(5, 0)["key"] == 6


def test_nothing_readable_says_why():
    with pytest.raises(DataError, match=r"2 items .*item 0: ValueError: not an image"):
        examples(Items({"image": b"x"}, {"image": b"x"}), {"image": "decode"}, max_unreadable=0.5)
    with pytest.raises(DataError, match="Nothing in the train split is readable: ValueError: not an image"):
        examples(Items({"image": b"x"}), {"image": "decode"})
    with pytest.raises(DataError, match="The train split is empty"):
        examples(Items())


def test_a_source_that_fails_is_unreadable_data():
    class Failing(toy.Toy):
        def __getitem__(self, index):
            if index == 7:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    data = examples(Failing("train"))
    assert data.read_next(7, 0)["key"] == 8
    assert data.unreadable == {7: "OSError: disk on fire"}


def test_a_stream_that_the_source_has_not_is_an_error_with_those_it_has():
    with pytest.raises(ConfigError, match=r"data.pp.text_answer: no example of the train split has it. They have: image, key\."):
        examples(Items({"image": toy.Toy("train")[0]["image"], "key": 0, "text": None}), {"image": "decode", "text_answer": "tokens(8)"})
    with pytest.raises(ConfigError, match=r"data\.pp\.text ends with lower, which gives str"):
        examples(pp={"text": 'choose("en")|lower'})


def test_a_second_stream_falls_back_to_the_field_of_its_kind():
    example = {"image": 1, "image_depth": 2}
    assert [field(example, name) for name in ("image", "image_view2", "image_depth", "text")] == [1, 1, 2, None]
    both = examples(pp={"image": "decode|random_affine(30, 0.3)", "image_view2": "decode|random_affine(30, 0.3)"}).read(0)
    assert both["image"].shape == both["image_view2"].shape and not np.array_equal(both["image"], both["image_view2"])


def test_each_item_of_a_field():
    assert each({"en": ["a", "b"], "de": "c", "fr": [], "it": None}) == [{"en": "a"}, {"en": "b"}, {"de": "c"}]
    assert each("a") == ["a"] and each([b"a", None, b"b"]) == [b"a", b"b"] and each(None) == each([]) == []


def test_every_item_is_a_row_in_every_language_chosen_and_is_read_once(monkeypatch):
    field = {"en": ["a", "b"], "de": "c", "fr": ["d", "e"]}
    monkeypatch.setattr(toy.Toy, "__getitem__", lambda self, i: {"text": field if i else None, "key": i})
    for languages, texts in {'"en", "fr"': ["a", "b", "d", "e"], '"de"': ["c"], "": ["a", "b", "c", "d", "e"]}.items():
        found = examples(toy.Toy("test"), {"text": f"choose({languages})|lower|tokens(8)"}, items="text", seed=None, cache=True)
        assert [found.shown(i)["text"] for i in range(len(found))] == texts * 19
        assert [found.shown(i)["text"] for i in range(len(found))] == texts * 19, "from memory"


def test_collate_follows_the_contract():
    one, two = (toy.Toy("train")[i]["image"] for i in range(2))
    has_text, has_none = {"image": one, "text": "ab", "key": 7}, {"image": two, "text": None}
    data = examples(Items(has_none, has_text), {"image": "decode", "text": "lower|tokens(6)"})
    batch = data.collate([data.read(1), None, data.read(0)])
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "image": ((3, 8, 8, 3), np.uint8),
        "image/present": ((3,), bool),
        "image/key": ((3,), np.int32),
        "text": ((3, 6), np.int32),
        "text/valid": ((3, 6), bool),
        "text/present": ((3,), bool),
        "text/key": ((3,), np.int32),
    }
    np.testing.assert_array_equal(batch["text"], [[1, *TOKENIZER.encode("ab"), 2, 0, 0], [0] * 6, [0] * 6])
    np.testing.assert_array_equal(batch["text/valid"].sum(1), [4, 0, 0])
    np.testing.assert_array_equal(batch["text/present"], [True, False, False])
    np.testing.assert_array_equal(batch["image/present"], [True, False, True])
    np.testing.assert_array_equal(batch["image/key"], [7, -1, 0])
    np.testing.assert_array_equal(batch["image"][0], data.read(1)["image"])
    assert not batch["image"][1].any()


def test_differing_sizes_say_what_to_do():
    small, large = (toy.cv2.imencode(".png", np.zeros((size, 8, 3), np.uint8))[1].tobytes() for size in (8, 9))
    data = examples(Items({"image": small}, {"image": large}), {"image": "decode"})
    with pytest.raises(DataError, match=r"data.pp.image gives \(9, 8, 3\) here and \(8, 8, 3\) elsewhere: .*resize\(\)"):
        data.collate([data.read(0), data.read(1)])
