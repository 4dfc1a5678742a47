"""What models fill into masks: whether and how surely it is one of the answers.

A text and an answer are encoded together and the tokens of the answer are masked, so that the text
around them is split as the model knows it. An answer of several tokens is predicted from left to
right, and its probability is the product; the number of masks tells the model how many there are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.intervals import mean_interval, wilson
from pipeline.evaluation.json_lines import BadRecordError, Records, text_field
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.results import CheckResult, Measure
from pipeline.evaluation.words import encode

if TYPE_CHECKING:
    from model.heads import MaskedLanguageModel
    from pipeline.evaluation.scoring import Query

MASKS = ("<mask>", "[MASK]")
FIRST = 5
"""k of "among the first k"."""


@dataclass(frozen=True)
class Probe:
    """A text with one gap, and what belongs into it."""

    before: str
    after: str
    answers: tuple[str, ...]


def read_probe(record: dict[str, Any]) -> Probe:
    """The probe of a line; raises BadRecordError."""
    text = text_field(record, "text")
    mask = max(MASKS, key=text.count)
    if sum(map(text.count, MASKS)) != 1:
        raise BadRecordError(f"{sum(map(text.count, MASKS))} masks in the text, one is needed")
    given = record.get("answers", record.get("answer"))
    answers = [given] if isinstance(given, str) else given
    if not isinstance(answers, list) or not answers:
        raise BadRecordError("'answers' must be a text or a list of texts")
    if not all(isinstance(one, str) and one.strip() for one in answers):
        raise BadRecordError("'answers' holds something else than a text, or an empty one")
    before, after = text.split(mask)
    return Probe(before, after, tuple(dict.fromkeys(one.strip() for one in answers)))


def fill_mask_check(
    model: FoundModel,
    module: "MaskedLanguageModel",
    files: Sequence[Records[Probe]],
    batch_tokens: int,
) -> CheckResult:
    """The measures over all probes and by file.

    Ranks are of answers of one token; of several answers the best counts. An answer that cannot be
    asked for is left out with its reason, and so is a probe without another one.
    """
    from pipeline.evaluation.scoring import answers

    left_out: Counter[str] = Counter()
    queries: list[Query] = []
    asked: list[tuple[str, Probe, list[tuple[str, int, int]]]] = []
    """Of each probe its file, and of each answer where its queries start and end."""
    for file in files:
        left_out += file.bad
        for probe in file.records:
            found = []
            for answer in probe.answers:
                one = _queries(model, probe, answer)
                if isinstance(one, str):
                    left_out[one] += 1
                    continue
                found.append((answer, len(queries), len(queries) + len(one)))
                queries += one
            if found:
                asked.append((file.name, probe, found))
            else:
                left_out["probes without an answer that can be asked for"] += 1
    if not asked:
        return CheckResult((), dict(left_out), (f"{model.name}: no probe could be asked",))
    results = answers(module, queries, batch_tokens)
    items = []
    for name, probe, found in asked:
        options = [
            {
                "answer": answer,
                "tokens": end - first,
                "log_probability": float(
                    sum(one.log_probabilities.sum() for one in results[first:end])
                ),
                "rank": int(results[first].ranks[0]) + 1 if end - first == 1 else None,
                "exact": not any(one.ranks.any() for one in results[first:end]),
            }
            for answer, first, end in found
        ]
        items.append(
            {"file": name, "text": f"{probe.before}[MASK]{probe.after}", "answers": options}
        )
    measures = _measures(items, "")
    if len(files) > 1:
        for file in files:
            of_file = [item for item in items if item["file"] == file.name]
            measures += _measures(of_file, file.name) if of_file else []
    return CheckResult(tuple(measures), dict(left_out), items=items)


def _queries(model: FoundModel, probe: Probe, answer: str) -> "list[Query] | str":
    """A row for each token of `answer` in its place; or why it cannot be asked for."""
    from pipeline.evaluation.scoring import Query

    start, end = len(probe.before), len(probe.before) + len(answer)
    encoded = encode(model.tokenizer, probe.before + answer + probe.after)
    if len(encoded.ids) > model.max_text_tokens:
        return "answers in a text longer than the model's rows"
    places = [n for n, (a, b) in enumerate(encoded.spans) if a < end and b > start and a < b]
    spans = [encoded.spans[n] for n in places]
    if not places:
        return "answers without a token"
    if any(a < start or b > end for a, b in spans):
        return "answers that share a token with the text around them"
    if any(encoded.ids[n] == model.special.unk for n in places):
        return "answers unknown to the tokenizer"
    ids = model.row(encoded.ids)
    queries = []
    for number, place in enumerate(places):
        row = list(ids)
        for hidden in places[number:]:
            row[hidden + 1] = model.special.mask
        queries.append(Query(row, [place + 1], [ids[place + 1]]))
    return queries


def _measures(items: Sequence[dict[str, Any]], group: str) -> list[Measure]:
    ranks = [
        min(found)
        for item in items
        if (found := [one["rank"] for one in item["answers"] if one["rank"] is not None])
    ]
    best = np.exp([max(one["log_probability"] for one in item["answers"]) for item in items])
    exact = sum(any(one["exact"] for one in item["answers"]) for item in items) / len(items)
    measures = []
    if ranks:
        count = len(ranks)
        for name, k in (("top1", 1), ("top5", FIRST)):
            share = sum(rank <= k for rank in ranks) / count
            measures.append(Measure(name, share, group, *wilson(share, count), count))
        reciprocal = 1 / np.array(ranks, dtype=np.float64)
        measures += [
            Measure("median_rank", float(np.median(ranks)), group, count=count),
            Measure(
                *("reciprocal_rank", float(reciprocal.mean()), group),
                *mean_interval(reciprocal),
                count,
            ),
        ]
    measures += [
        Measure(
            *("answer_probability", float(best.mean()), group), *mean_interval(best), len(items)
        ),
        Measure("exact", exact, group, *wilson(exact, len(items)), len(items)),
    ]
    return measures
