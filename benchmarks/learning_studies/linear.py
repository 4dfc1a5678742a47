"""Baselines without a network: logistic regression on TF-IDF, and on features of words for tagging.

The regularisation is chosen on the dev split. Both have no randomness.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning_studies.labelled import Labelled, read_examples
from benchmarks.learning_studies.tasks import TASKS, task_file

INVERSE_PENALTIES = (1.0, 4.0, 16.0)
"""scikit-learn's C."""
MAX_ITERATIONS = 300
NUM_SPECIAL = 2
"""Tokens around a text."""


SAME_TEXT, WHOLE_TEXT = "same text", "whole text"


def linear_scores(folder: Path, name: str, tokenizer: Path) -> dict[str, float]:
    """Accuracy on the test split of the task `name`: of what networks read of it, cut by
    `tokenizer`, and of the whole texts."""
    splits = {s: list(read_examples(task_file(folder, name, s))) for s in ("train", "dev", "test")}
    if TASKS[name].is_tagging:  # next to no sentence is cut
        return {
            "the word alone": tagging_accuracy(splits, neighbours=0),
            SAME_TEXT: tagging_accuracy(splits, neighbours=2),
        }
    tokens = TASKS[name].row_tokens - NUM_SPECIAL
    cut = {split: cut_texts(examples, tokenizer, tokens) for split, examples in splits.items()}
    return {SAME_TEXT: text_accuracy(cut), WHOLE_TEXT: text_accuracy(splits)}


def cut_texts(examples: Sequence[Labelled], tokenizer: Path, num_tokens: int) -> list[Labelled]:
    """The examples with the first `num_tokens` tokens of their texts."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer))
    found = []
    for example in examples:
        ends = [end for _, end in encoder.encode(example.text, add_special_tokens=False).offsets]
        text = example.text[: ends[num_tokens - 1]] if len(ends) > num_tokens else example.text
        found.append(Labelled(example.group, (text,), example.labels))
    return found


def text_accuracy(splits: dict[str, list[Labelled]]) -> float:
    """Of TF-IDF over words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    vectorizer.fit([example.text for example in splits["train"]])
    features = {
        split: vectorizer.transform([example.text for example in examples])
        for split, examples in splits.items()
    }
    labels = {split: [e.labels[0] for e in examples] for split, examples in splits.items()}
    return _best_accuracy(features, labels)


def tagging_accuracy(splits: dict[str, list[Labelled]], neighbours: int) -> float:
    """Of features of each word, and of `neighbours` words on each side of it."""
    from sklearn.feature_extraction import DictVectorizer

    vectorizer = DictVectorizer()
    vectorizer.fit(_features(splits["train"], neighbours))
    features = {
        split: vectorizer.transform(_features(examples, neighbours))
        for split, examples in splits.items()
    }
    labels = {
        split: [tag for e in examples for tag in e.labels] for split, examples in splits.items()
    }
    return _best_accuracy(features, labels)


def _features(examples: Sequence[Labelled], neighbours: int) -> Iterator[dict[str, bool]]:
    """What taggers with hand-made features look at (Ratnaparkhi 1996, table 1, without tags)."""
    for example in examples:
        padded = ("",) * neighbours + example.words + ("",) * neighbours
        for place, word in enumerate(example.words):
            found = {f"word={word}": True, f"lower={word.lower()}": True}
            found |= {f"prefix={word[:n]}": True for n in range(1, 5)}
            found |= {f"suffix={word[-n:]}": True for n in range(1, 5)}
            found |= {"capital": word[:1].isupper(), "digit": any(c.isdigit() for c in word)}
            found |= {"hyphen": "-" in word, "first": place == 0 and neighbours > 0}
            for distance in range(-neighbours, neighbours + 1):
                if distance:
                    other = padded[place + neighbours + distance].lower()
                    found |= {f"{distance}={other}": True, f"{distance}~{other[-3:]}": True}
            yield {key: True for key, value in found.items() if value}


def _best_accuracy(features: dict[str, Any], labels: dict[str, list[str]]) -> float:
    """On the test split, of the penalty that is best on the dev split."""
    from sklearn.linear_model import LogisticRegression

    models = [
        LogisticRegression(C=c, max_iter=MAX_ITERATIONS).fit(features["train"], labels["train"])
        for c in INVERSE_PENALTIES
    ]
    best = max(models, key=lambda model: model.score(features["dev"], labels["dev"]))
    return float(best.score(features["test"], labels["test"]))
