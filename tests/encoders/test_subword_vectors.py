"""Subwords of a text against a reference that works on strings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.tokenizers import BEGIN, END, make_tokenizer
from mmjax.encoders import subword_vectors
from mmjax.encoders.subword_vectors import SubwordVectors, subwords

TOKENIZER = make_tokenizer([], name="byte")


def batch(*texts, length=24):
    x, valid = np.zeros((len(texts), length), np.int32), np.zeros((len(texts), length), bool)
    for row, text in enumerate(texts):
        ids = [BEGIN, *TOKENIZER.encode(text), END]
        x[row, : len(ids)], valid[row, : len(ids)] = ids, True
    return jnp.asarray(x), jnp.asarray(valid)


def fnv(ids, start=2_166_136_261):
    for i in ids:
        start = ((start ^ i) * 16_777_619) % 2**32
    return start


def reference(text, sizes):
    """Hashes of a text's subwords, from its words."""
    out = []
    for word in text.split():
        ids = [0, *TOKENIZER.encode(word), 0]
        out.append(fnv(reversed(ids[1:-1])))
        for size in sizes:
            runs = [ids[i : i + size] for i in range(len(ids) - size + 1)]
            out += [fnv(run, 2_166_136_261 ^ size) for run in runs if len(run) < len(ids)]
    return sorted(out)


@pytest.mark.parametrize("text", ["where", "a", "flag: São Tomé", "two  blanks", "ab abc abcd abcde"])
def test_the_subwords_of_a_text_are_those_of_its_words(text):
    hashes, there = subwords(*batch(text), (3, 4, 5))
    assert sorted(np.asarray(hashes)[np.asarray(there)].tolist()) == reference(text, (3, 4, 5))


def test_a_text_is_the_mean_of_its_subwords_in_any_order_of_words():
    encoder = SubwordVectors(width=8, buckets=997)
    x = batch("red heart", "heart red", "hearts red")
    variables = encoder.init(jax.random.key(0), *x, train=False)
    pooled = np.asarray(encoder.apply(variables, *x, train=False).pooled)
    table = np.asarray(variables["params"]["embedding"]["embedding"])
    np.testing.assert_allclose(pooled[0], table[np.array(reference("red heart", (3, 4, 5))) % 997].mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pooled[0], pooled[1], rtol=1e-4, atol=1e-6)
    assert np.abs(pooled[0] - pooled[2]).max() > 1e-3


def test_the_ids_of_begin_end_and_space_are_the_byte_tokenizers():
    assert (BEGIN, END, TOKENIZER.encode(" ")) == (subword_vectors.BEGIN, subword_vectors.END, [subword_vectors.SPACE])


@pytest.mark.parametrize("buckets", [64, 4_096])  # as a product with the table, and vector by vector
def test_the_pooled_vector_is_the_mean_of_the_subwords_vectors(buckets):
    encoder = SubwordVectors(width=8, buckets=buckets)
    _, batch = SubwordVectors.tiny()
    x, valid = jnp.asarray(batch["text"]), jnp.asarray(batch["text/valid"])
    variables = encoder.init(jax.random.key(0), x, valid, train=False)
    table = np.asarray(variables["params"]["embedding"]["embedding"])
    hashes, there = map(np.asarray, subwords(jnp.where(valid, x, 0), valid, encoder.sizes))
    wanted = [table[hashes[i] % buckets][there[i]].mean(axis=0) for i in range(len(x))]
    np.testing.assert_allclose(encoder.apply(variables, x, valid, train=False).pooled, wanted, atol=1e-6)
