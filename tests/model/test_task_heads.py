"""Heads beside the masked language model: one run, right losses, equal at any TP size."""

from typing import Any

import pytest
import torch
import transformers
from pydantic import TypeAdapter

from configs.load import ConfigError
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.hugging_face.families import family_of_model
from model.multi_task import MultiTaskModel, build_multi_task
from model.parallel.grid import close_grid, make_grid
from model.parameters import parameter_specs, unpad_local
from model.task_heads import TaskHeadConfig
from tests.gloo import in_one_rank, run_ranks
from tests.model.settings import configs_of

VOCAB_SIZE = 203
SIZES = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 16}
HEADS: dict[str, dict[str, Any]] = {
    "topic": {"type": "sequence_classification", "num_labels": 3},
    "score": {"type": "sequence_regression"},
    "tags": {"type": "token_classification", "num_labels": 5},
    "answer": {"type": "span_question_answering"},
    "choice": {"type": "multiple_choice", "num_choices": 2},
}
SEQUENCE_PARALLEL = {"compute": {"sequence_parallel": True}}
SHARED = {"parameter_sharing": {"type": "groups", "pooler": True}}


def build(settings: dict[str, Any], tp_size: int) -> MultiTaskModel:
    adapter: TypeAdapter[Any] = TypeAdapter(TaskHeadConfig)
    heads = {name: adapter.validate_python(head) for name, head in HEADS.items()}
    config, compute = configs_of({**SIZES, **settings})
    return build_multi_task(config, heads, VOCAB_SIZE, make_grid(tp_size), seed=3, compute=compute)


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 200, (4, 16), generator=generator)
    tokens[1, -5:] = 1
    labels = {
        "topic": torch.tensor([0, 2, -100, 1]),
        "score": torch.tensor([0.5, -1.0, float("nan"), 2.0]),
        "tags": torch.randint(0, 5, (4, 16), generator=generator),
        "answer": torch.tensor([[1, 4], [2, 2], [-100, -100], [0, 15]]),
        "choice": torch.tensor([1, 0]),
    }
    masked = (torch.tensor([[1, 2]] * 4), torch.tensor([[7, 8]] * 4))
    return {"tokens": tokens, "labels": labels, "masked": masked}


def losses_and_norm(settings: dict[str, Any], tp_size: int) -> dict[str, float]:
    model = build(settings, tp_size)
    results = model(**inputs(), dropout_key=5)
    torch.stack([loss / count for loss, count, _ in results.values()]).sum().backward()  # type: ignore[no-untyped-call]
    squares = torch.zeros(())
    for parameter in model.parameters():
        if parameter.grad is not None:
            square = parameter.grad.square().sum()
            is_sharded = parameter.tensor_model_parallel  # type: ignore[attr-defined]
            squares += square if is_sharded else square / tp_size
    torch.distributed.all_reduce(squares, group=model.grid.tp_group)
    close_grid()
    return {**{name: float(loss) for name, (loss, _, _) in results.items()}, "norm": float(squares)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooler": {"type": "first"}},
        {"pooler": {"type": "mean"}, **SEQUENCE_PARALLEL},
        {"pooler": {"type": "mean"}, **SHARED},
        {"pooler": {"type": "first"}, **SHARED, **SEQUENCE_PARALLEL},
    ],
    ids=["none", "first", "mean", "shared", "shared-sequence-parallel"],
)
def test_heads_and_poolers_are_equal_at_two_ranks(settings: dict[str, Any]) -> None:
    [expected] = run_ranks(losses_and_norm, 1, settings, 1)
    assert set(expected) == {*HEADS, "mlm", "norm"}
    for actual in run_ranks(losses_and_norm, 2, settings, 2):
        assert actual == pytest.approx(expected, rel=1e-5)


@in_one_rank
def test_counts_leave_out_what_has_no_label() -> None:
    model = build({"pooler": {"type": "mean"}}, 1).eval()
    batch = inputs()
    results = model(**batch)
    counts = {name: int(count) for name, (_, count, _) in results.items()}
    assert counts == {"mlm": 8, "topic": 3, "score": 3, "tags": 64, "answer": 3, "choice": 2}
    scores = model.scores(batch["tokens"], list(HEADS))
    topic = torch.nn.functional.cross_entropy(
        scores["topic"][[0, 1, 3]], torch.tensor([0, 2, 1]), reduction="sum"
    )
    torch.testing.assert_close(results["topic"][0], topic)
    error = scores["score"][[0, 1, 3], 0] - torch.tensor([0.5, -1.0, 2.0])
    torch.testing.assert_close(results["score"][0], error.square().sum())
    right = int((scores["choice"].view(2, 2).argmax(1) == batch["labels"]["choice"]).sum())
    assert int(results["choice"][2]) == right


@in_one_rank
def test_shared_parameters_keep_name_and_value() -> None:
    with_heads = dict(build({}, 1).named_parameters())
    close_grid()
    plain = build_masked_lm(ModelConfig(**SIZES), VOCAB_SIZE, make_grid(1), seed=3)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, with_heads[name]), name


@in_one_rank
def test_classification_equals_hugging_face() -> None:
    model = build({"pooler": {"type": "first"}}, 1).eval()
    config = model.config
    family = family_of_model(config)
    theirs = transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**{**family.hf_config(config, VOCAB_SIZE), "num_labels": 3})
    ).eval()
    specs = parameter_specs(model)
    ours = {name: unpad_local(specs[name], p, 0, 1) for name, p in model.named_parameters()}
    state = family.task_to_hf(ours, config, "topic", "sequence_classification")
    theirs.load_state_dict(state)
    tokens = inputs()["tokens"]
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=(tokens != 1).long()).logits
        actual = model.scores(tokens, ["topic"])["topic"]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@in_one_rank
def test_bad_names_and_row_counts_are_errors() -> None:
    model = build({}, 1)
    with pytest.raises(ValueError, match="4 rows are not 3 questions of 2 choices"):
        model(inputs()["tokens"], {"choice": torch.tensor([0, 1, 0])})
    with pytest.raises(ConfigError, match=r"heads\.mlm"):
        build_multi_task(model.config, {"mlm": HEADS["topic"]}, VOCAB_SIZE, model.grid, 0)  # type: ignore[dict-item]
