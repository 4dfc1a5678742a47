"""Answers in gaps: probabilities and ranks against the model's own logits."""

import math

import pytest
import torch

from pipeline.evaluation.fill_mask import Probe, fill_mask_check, read_probe
from pipeline.evaluation.json_lines import BadRecordError, Records
from pipeline.evaluation.words import encode
from tests.gloo import in_one_rank
from tests.pipeline.evaluation.tiny_models import (
    log_probability,
    random_module,
    tiny_model,
    tokenizer_of,
)

TOKENIZER_SIZE = 300
"""Some words are one token, unseen ones several."""


@in_one_rank
def test_probabilities_and_ranks_are_the_models() -> None:
    model = tiny_model("small", tokenizer_of(TOKENIZER_SIZE))
    module = random_module(model)
    probe = Probe("the cat sat on ", " mat", ("the", "xylophone"))
    result = fill_mask_check(model, module, [Records("f", (probe,))], 100)
    (item,) = result.items
    for option in item["answers"]:
        text = probe.before + option["answer"] + probe.after
        encoded = encode(model.tokenizer, text)
        row = model.row(encoded.ids)
        start, end = len(probe.before), len(probe.before) + len(option["answer"])
        places = [n + 1 for n, (a, b) in enumerate(encoded.spans) if start <= a < b <= end]
        total = sum(
            log_probability(module, row, dict.fromkeys(places[n:], model.special.mask), place)
            for n, place in enumerate(places)
        )
        assert option["log_probability"] == pytest.approx(total, rel=1e-5)
        assert option["tokens"] == len(places)
    single, several = item["answers"]
    assert single["tokens"] == 1
    assert several["tokens"] > 1
    assert several["rank"] is None
    row = model.row(encode(model.tokenizer, "the cat sat on the mat").ids)
    place = 5
    row[place] = model.special.mask
    with torch.no_grad():
        logits = module.logits(torch.tensor([row]))[0, place]
    right = model.tokenizer.encode(" the", add_special_tokens=False).ids[0]
    assert single["rank"] == 1 + int((logits > logits[right]).sum())
    by_name = {one.name: one.value for one in result.measures}
    assert by_name["median_rank"] == single["rank"]
    assert by_name["top5"] == float(single["rank"] <= 5)
    best = max(option["log_probability"] for option in item["answers"])
    assert by_name["answer_probability"] == pytest.approx(math.exp(best))


@in_one_rank
def test_what_cannot_be_asked_is_counted_by_reason() -> None:
    model = tiny_model("small", tokenizer_of(TOKENIZER_SIZE), max_row_tokens=16)
    probes = (
        Probe("the c", "t sat", ("a",)),  # in the middle of a token
        Probe("the cat " * 30, "", ("mat",)),
        Probe("the ", " sat", ("cat",)),
    )
    result = fill_mask_check(model, random_module(model), [Records("f", probes)], 100)
    assert result.left_out == {
        "answers that share a token with the text around them": 1,
        "answers in a text longer than the model's rows": 1,
        "probes without an answer that can be asked for": 2,
    }
    assert {one.count for one in result.measures} == {1}


def test_records_are_read_in_both_forms() -> None:
    assert read_probe({"text": "a <mask> b", "answers": [" x", "x", "y"]}) == Probe(
        "a ", " b", ("x", "y")
    )
    assert read_probe({"text": "a [MASK]", "answer": "x"}).answers == ("x",)
    for record, message in (
        ({"text": "no gap", "answer": "x"}, "0 masks"),
        ({"text": "<mask> [MASK]", "answer": "x"}, "2 masks"),
        ({"text": "a <mask>"}, "'answers' must be"),
        ({"text": "a <mask>", "answers": []}, "'answers' must be"),
        ({"text": "a <mask>", "answers": ["x", 3]}, "something else than a text"),
        ({"text": "a <mask>", "answers": [" "]}, "empty"),
        ({"answers": "x"}, "no 'text'"),
    ):
        with pytest.raises(BadRecordError, match=message):
            read_probe(record)
