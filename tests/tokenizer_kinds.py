"""Small tokenizers of the kinds that published encoders have, trained on a few words.

Their special tokens have the names and the order of ids of the published ones.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

_WORDS = (
    "the of and oven was hot yesterday kitchen morning baker Übung naïve façade straße Москва хлеб"
    " печь горячая ψωμί φούρνος パン 窯 面包 很热 रोटी गर्म 1984 2.5 don't e-mail (yes) #tag"
)
WORDS = _WORDS.split()


def texts(number: int = 120) -> list[str]:
    """Texts of the words in turn, all of their characters known to every tokenizer here."""
    return [
        " ".join(WORDS[(at * (number + 3) + number) % len(WORDS)] for at in range(24))
        for number in range(number)
    ]


def wordpiece() -> Tokenizer:
    """BERT's: lower case, accents stripped, `[PAD]` 0, unused ids, `[CLS] $A [SEP]`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    unused = [f"[unused{number}]" for number in range(5)]
    special = ["[PAD]", *unused, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=320, special_tokens=special, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tree = json.loads(tokenizer.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if "unused" not in t["content"]]
    tokenizer = Tokenizer.from_str(json.dumps(tree))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _unigram_pieces() -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, show_progress=False, special_tokens=[])
    tokenizer.train_from_iterator(texts(), trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    known = {piece for piece, _ in vocab}
    letters = sorted({letter for text in texts() for letter in text} - known - {" "})
    return [(str(p), float(s)) for p, s in vocab] + [(letter, -12.0) for letter in letters]


def _unigram(
    first: Sequence[str], last: Sequence[str], unknown: str, begin: str, end: str
) -> Tokenizer:
    pieces = [(p, 0.0) for p in first] + _unigram_pieces() + [(p, 0.0) for p in last]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=list(first).index(unknown)))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    named = [t for t in (*first, *last) if "NOTUSED" not in t]
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, lstrip=t == "<mask>", normalized=False) for t in named]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in (begin, end)],
    )
    return tokenizer


def xlm_roberta() -> Tokenizer:
    """XLM-R's: Unigram, ids shifted by one for fairseq's four, `<mask>` last."""
    return _unigram(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"], "<unk>", "<s>", "</s>")


def camembert() -> Tokenizer:
    """CamemBERT's: two sets of special tokens, of which one is not used; `<s>` 5, `</s>` 6."""
    first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    return _unigram(first, ["<mask>"], "<unk>", "<s>", "</s>")


def modernbert() -> Tokenizer:
    """ModernBERT's: byte-level BPE, runs of spaces as ordinary added tokens, special ids at the
    end, unused ones after them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])
    special = ["<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, lstrip=t == "[MASK]", normalized=False) for t in special]
    )
    tokenizer.add_tokens([f"[unused{number}]" for number in range(7)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def llama() -> Tokenizer:
    """LLaMA's with `<pad>` and `<mask>` added: BPE of characters with byte fallback, no
    pre-tokenizer, only `<s>` before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=260, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator(texts()[:12], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocab = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", "<pad>", "<mask>"]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A",
        pair="<s> $A <s>:1 $B:1",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>"))],
    )
    return tokenizer


def word_level() -> Tokenizer:
    """One id for each word and punctuation mark, all others unknown."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": wordpiece,
    "xlm_roberta": xlm_roberta,
    "camembert": camembert,
    "modernbert": modernbert,
    "llama": llama,
    "word_level": word_level,
}


def save(kind: str, folder: Path) -> Path:
    """The tokenizer.json of a kind in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    KINDS[kind]().save(str(path))
    return path
