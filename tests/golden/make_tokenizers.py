"""Makes tokenizers/ and tokenizers.json: small vocabularies in the files that pretrained encoders bring, and the references' ids.

The vocabularies are trained here on the texts below; ids are transformers' tokenizers', which read the same files.

    pip install transformers==5.23.0 tokenizers
    python tests/golden/make_tokenizers.py
"""

import importlib.metadata
import json
from pathlib import Path

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


def trained(model, trainer, normalizer, pre_tokenizer):
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def folder(name):
    (HERE / name).mkdir(parents=True, exist_ok=True)
    return HERE / name


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
    main()
