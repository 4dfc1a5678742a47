"""Whether gigatoken can encode with a tokenizer: tried before the work, on difficult texts."""

import random
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Tokenizer

from data_prep.tokenization.encoder import TokenizerContents, encoder_of

REFERENCE_SPEED = "1 to 4 MB of text per CPU second instead of more than 100"
_MAX_SHOWN = 40
_TRIED_ADDED = 500
_RANDOM_TEXTS = 60
_CODE_POINT_STEP = 53

ODD_TEXTS = (
    "",
    " ",
    "\n\n\t  \r\n x\u00a0y\u2003z\u3000\u2028\u0085\ufeffa",
    "don't DON'T we'll I'M they've he'd 'tis O'Neill ''s",
    "1234567890 3.14 1,000,000 \u0661\u0662\u0663 \u2167 \u00bd x\u00b2 1st",
    "e\u0301 \u00e9 \u1e9b\u0323 \ufb01 \uff21\uff42\uff43 \u212b I\u0307 \u0131 \u00df \u1e9e",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e0062 \u2764\ufe0f",
    "\u4e2d\u6587\u6587\u672c\uff0c\u6ca1\u6709\u7a7a\u683c\u3002\u65e5\u672c\u8a9e\u306e\u30c6",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940 \ud55c\uad6d",
    "\u1112\u1161\u11ab \u05e9\u05b8\u05dc\u05d5\u05b9\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\x00\x01\x7f\ufffd\uffff\ue000\U0010ffff \u200b\u200e\u2066x\u2069",
    "a" * 300 + " " * 40 + "=" * 90 + "\n" * 12 + "ab" * 120,
    "</s><mask> <s> [MASK][SEP] <|endoftext|> <pad> ##ing \u2581a \u0120b \u010a <0x41>",
    "if (x[i] >= 0 && !done) { return f'{x:>8}'; }  // https://a.b/c?d=e&f#g",
    "Stra\u00dfe \u0130stanbul \u01c5 \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u1f88",
)


def fast_encoder_problem(
    contents: TokenizerContents, tokenizer: Tokenizer, texts: Iterable[bytes] = ()
) -> str | None:
    """Why gigatoken cannot encode with a `tokenizer`, that of `contents`; None if it gives equal
    ids.

    Compared are texts that tokenizers disagree on, random tokens of the vocabulary, and `texts`.
    """
    encoder = encoder_of(contents, "fast")
    difficult = (text.encode() for text in _difficult(tokenizer))
    samples = [b"a", *difficult, *texts]
    for text, expected in zip(samples, encoder.reference_ids(samples), strict=True):
        try:
            (found,) = encoder.ids([text])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of its Rust code is no Exception
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            return f"gigatoken cannot use it: {first_line}"
        if found.tolist() != expected.tolist():
            return f"gigatoken gives different ids for {_shown(text)}"
    return None


def _difficult(tokenizer: Tokenizer) -> Iterator[str]:
    yield from ODD_TEXTS
    for token in islice(tokenizer.get_added_tokens_decoder().values(), _TRIED_ADDED):
        yield f"a{token.content}b {token.content} {token.content.lower()}"
    points = (chr(point) for point in range(1, 0x30000, _CODE_POINT_STEP))
    assigned = [p for p in points if unicodedata.category(p) not in ("Cs", "Cn")]
    for start in range(0, len(assigned), 64):
        yield " ".join(assigned[start : start + 64])
        yield "".join(assigned[start : start + 64])
    generate = random.Random(0)
    ids = sorted(tokenizer.get_vocab(with_added_tokens=False).values())
    for _ in range(_RANDOM_TEXTS):
        yield tokenizer.decode(generate.choices(ids, k=60))


def _shown(text: bytes) -> str:
    shown = repr(text.decode())
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}...'"
