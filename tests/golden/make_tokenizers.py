"""Makes tokenizers/ and tokenizers.json: small vocabularies in the files that pretrained encoders bring, and the references' ids.

The vocabularies are trained here on the texts below; ids are transformers' tokenizers', which read the same files, and
SentencePiece's own of its model files.

    pip install transformers==5.23.0 tokenizers sentencepiece==0.2.3
    python tests/golden/make_tokenizers.py [sentencepiece]     # these alone, the others stay
"""

import importlib.metadata
import io
import json
import sys
import tempfile
import unicodedata
from pathlib import Path

import sentencepiece
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).with_name("tokenizers")
TEXTS = [
    "a photo of a dog, and two photos of cats.",
    "It's 1,234 naïve œuvre  two   spaces; don't!",
    "Ελληνικά Русский עברית العربية हिन्दी ไทย 日本語 한국어",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 ... (x) [y] <z>",
    "Größe İstanbul Ã© ÀÉÎÕÜ ﬁ ½ e\u0301",
    "UPPER lower MiXeD photo dogs catlike redo",
]

HARD = [
    "",
    " ",
    "  two  spaces, before and after ",
    "tab\there, ▁ and a\n\n\nnew line",
    "<s> </s> <pad> <unk> <0x41> <table><table>",
    "Tie\u0302\u0301ng, ﬁ\u0301 ½\u200d 𐎠𐎡 shown as bytes",
    "شَدَّة מִלָּה",  # marks in another order than Unicode's
]
# Of T5 and SigLIP; of their like with bytes and symbols of its own; of Llama; of Gemma.
PIECES = {
    "spiece": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "spiece_bytes": {"model_type": "unigram", "pad_id": 3, "byte_fallback": True, "user_defined_symbols": ["<table>", "photo"]},
    "llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.99,
    },
    "gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["\n", "\n\n", "▁▁", "<table>"],
        **{f"{name}_id": i for i, name in enumerate(("pad", "eos", "bos", "unk"))},
        **{f"{name}_piece": f"<{name}>" for name in ("eos", "bos")},
    },
}


def trained(model, trainer, normalizer, pre_tokenizer):
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def folder(name):
    (HERE / name).mkdir(parents=True, exist_ok=True)
    return HERE / name


def rules():
    """A small part of SentencePiece's own normalisation, whose tables are large: Latin letters, and a few others."""
    letters = [*map(chr, range(0xC0, 0x180)), *map(chr, range(0x1EA0, 0x1EFA))]
    table = {unicodedata.normalize("NFD", c): c for c in letters if unicodedata.normalize("NFD", c) != c}
    table |= {c[0] + c[1]: unicodedata.normalize("NFC", c[:2]) for c in table if len(c) == 3}
    table |= {unicodedata.normalize("NFC", c[:2]) + c[2]: known for c, known in table.items() if len(c) == 3}
    table |= {c: unicodedata.normalize("NFKC", c) for c in "ﬁ½…①Ａ"} | {"\t": " ", "\n": " "}
    return "".join("\t".join(" ".join(f"{ord(c):X}" for c in side) for side in rule) + "\n" for rule in sorted(table.items()))


def pieces():
    """SentencePiece's models and the ids that it gives."""
    found = {}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as table:
        table.write(rules())
        table.flush()
        for name, options in PIECES.items():
            own = {} if "normalization_rule_name" in options else {"normalization_rule_tsv": table.name}
            model = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXTS * 3), model_writer=model, vocab_size=420, hard_vocab_limit=False, **options, **own
            )
            file = folder(name) / ("tokenizer.model" if options["model_type"] == "bpe" else "spiece.model")
            file.write_bytes(model.getvalue())
            processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
            found[name] = [processor.encode(text) for text in TEXTS + HARD]
    return {"versions": f"sentencepiece {importlib.metadata.version('sentencepiece')}", "texts": TEXTS + HARD, "ids": found}


def main():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    wordpiece = trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=220, special_tokens=special),
        normalizers.BertNormalizer(lowercase=True),
        pre_tokenizers.BertPreTokenizer(),
    )
    vocab = wordpiece.get_vocab()
    (folder("bert") / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n")

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_first = trainers.BpeTrainer(vocab_size=330, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    gpt2 = trained(models.BPE(), bytes_first, None, level)
    gpt2.model.save(str(folder("gpt2")))

    ends = trainers.BpeTrainer(vocab_size=560, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    bpe = trained(models.BPE(end_of_word_suffix="</w>"), ends, normalizers.Lowercase(), level)
    saved = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in saved["merges"]]
    tokens = [*sorted(alphabet), *(f"{c}</w>" for c in sorted(alphabet))]
    tokens += [t for t in dict.fromkeys("".join(m) for m in merges) if t not in tokens]
    ids = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder("clip") / "vocab.json").write_text(json.dumps(ids))
    (HERE / "clip" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")

    unigram = trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"),
        normalizers.NFKC(),
        pre_tokenizers.Metaspace(),
    )
    unigram.decoder = decoders.Metaspace()
    unigram.save(str(folder("t5") / "tokenizer.json"))

    references = {
        "bert": hf.BertTokenizer(str(HERE / "bert" / "vocab.txt"), do_lower_case=True),
        "gpt2": hf.GPT2Tokenizer(str(HERE / "gpt2" / "vocab.json"), str(HERE / "gpt2" / "merges.txt")),
        "clip": hf.CLIPTokenizer(str(HERE / "clip" / "vocab.json"), str(HERE / "clip" / "merges.txt")),
        "t5": hf.PreTrainedTokenizerFast(tokenizer_file=str(HERE / "t5" / "tokenizer.json")),
    }
    found = {name: [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS] for name, tokenizer in references.items()}
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "tokenizers")]
    HERE.with_suffix(".json").write_text(json.dumps({"versions": versions, "texts": TEXTS, "ids": found}, indent=1) + "\n")


if __name__ == "__main__":
    if "sentencepiece" not in sys.argv:
        main()
    HERE.with_name("sentencepiece.json").write_text(json.dumps(pieces()) + "\n")
