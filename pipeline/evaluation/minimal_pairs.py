"""Pseudo-log-likelihoods of minimal pairs: whether the good sentence of each has the higher one.

The pseudo-log-likelihood of a sentence is the sum over its tokens of the log-probability of each
when it is masked (Salazar et al. 2020, equation 1). Of a word of several tokens the other ones give
each away; `word_l2r` therefore masks, with a token, those after it in its word (Kauf & Ivanova
2023).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.config import WordScore
from pipeline.evaluation.intervals import wilson
from pipeline.evaluation.json_lines import BadRecordError, Records, text_field
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.results import CheckResult, Measure
from pipeline.evaluation.words import common_words, encode

if TYPE_CHECKING:
    from model.heads import MaskedLanguageModel
    from pipeline.evaluation.scoring import Query

TIE = 1e-9
"""Differences of two log-likelihoods below this, in parts of them, are rounding."""


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences, of which the first is the good one."""

    good: str
    bad: str
    phenomenon: str = ""
    """What it is about, as BLiMP's `linguistics_term`; empty: not given."""


def read_pair(record: dict[str, Any]) -> MinimalPair:
    """The pair of a line in BLiMP's form; raises BadRecordError."""
    good, bad = text_field(record, "sentence_good"), text_field(record, "sentence_bad")
    if good == bad:
        raise BadRecordError("sentence_good and sentence_bad are equal")
    return MinimalPair(good, bad, str(record.get("linguistics_term") or ""))


def minimal_pairs_check(
    model: FoundModel,
    module: "MaskedLanguageModel",
    files: Sequence[Records[MinimalPair]],
    method: WordScore,
    batch_tokens: int,
) -> CheckResult:
    """The share of pairs whose good sentence has the higher pseudo-log-likelihood.

    Over all, and of several files by file, and by phenomenon where these divide the pairs
    otherwise; a tie is half a pair.
    """
    from pipeline.evaluation.scoring import answers

    left_out: Counter[str] = Counter()
    queries: list[Query] = []
    scored: list[tuple[str, MinimalPair, tuple[int, int, int]]] = []
    """Of each pair its file, and where the queries of both sentences start and end."""
    for file in files:
        left_out += file.bad
        for pair in file.records:
            both = [_queries(model, text, method) for text in (pair.good, pair.bad)]
            if problem := next((one for one in both if isinstance(one, str)), None):
                left_out[problem] += 1
                continue
            first = len(queries)
            ends = [first]
            for one in both:
                assert not isinstance(one, str)
                queries += one
                ends.append(len(queries))
            scored.append((file.name, pair, (ends[0], ends[1], ends[2])))
    if not scored:
        return CheckResult((), dict(left_out), (f"{model.name}: no pair could be scored",))
    values = [float(a.log_probabilities.sum()) for a in answers(module, queries, batch_tokens)]
    items = []
    for name, pair, (first, middle, end) in scored:
        good, bad = sum(values[first:middle]), sum(values[middle:end])
        is_tie = abs(good - bad) <= TIE * abs(good + bad)
        right = 0.5 if is_tie else float(good > bad)
        items.append(
            {
                "file": name,
                "phenomenon": pair.phenomenon,
                "sentence_good": pair.good,
                "sentence_bad": pair.bad,
                "good": good,
                "bad": bad,
                "right": right,
            }
        )
    return CheckResult(tuple(_measures(items, len(files) > 1)), dict(left_out), items=items)


def _queries(model: FoundModel, text: str, method: WordScore) -> "list[Query] | str":
    """A row for each token of `text`; or why there are none."""
    from pipeline.evaluation.scoring import Query

    encoded = encode(model.tokenizer, text)
    if model.special.unk in encoded.ids:
        return "pairs with a word unknown to the tokenizer"
    if len(encoded.ids) > model.max_text_tokens:
        return "pairs longer than the model's rows"
    if not encoded.ids:
        return "pairs without a token"
    hidden_with = [[number] for number in range(len(encoded.ids))]
    if method == "word_l2r":
        for word in common_words(text, [encoded]):
            for place, number in enumerate(word.tokens[0]):
                hidden_with[number] = list(word.tokens[0][place:])
    ids = model.row(encoded.ids)
    queries = []
    for number, hidden in enumerate(hidden_with):
        row = list(ids)
        for place in hidden:
            row[place + 1] = model.special.mask
        queries.append(Query(row, [number + 1], [ids[number + 1]]))
    return queries


def _measures(items: Sequence[dict[str, Any]], by_file: bool) -> list[Measure]:
    found = [_share("pair_accuracy", items, "")]
    parts = {
        quantity: {
            name: [item for item in items if item[key] == name]
            for name in dict.fromkeys(item[key] for item in items if item[key])
        }
        for key, quantity in (("file", "pair_accuracy"), ("phenomenon", "phenomenon_accuracy"))
    }
    of_files = list(parts["pair_accuracy"].values())
    for quantity, by_name in parts.items() if by_file else ():
        if quantity == "pair_accuracy" or list(by_name.values()) != of_files:
            found += [_share(quantity, of_it, name) for name, of_it in by_name.items()]
    return found


def _share(name: str, items: Sequence[dict[str, Any]], group: str) -> Measure:
    share = sum(item["right"] for item in items) / len(items)
    return Measure(name, share, group, *wilson(share, len(items)), len(items))
