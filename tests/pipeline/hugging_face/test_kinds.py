"""Folders of BERT, XLM-R and CamemBERT with their tokenizers start runs; pairs have segments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from configs.load import UserError, validate
from model.compute import ComputeConfig
from model.multi_task import build_multi_task
from model.parallel.grid import make_grid, single_rank_grid
from pipeline.checkpoint.reader import TensorReader, load_weights
from pipeline.export import export_run
from pipeline.finetuning.batches import FinetuneBatches
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.plan import plan_finetuning
from pipeline.hugging_face.vocabulary import read_vocabulary
from pipeline.hugging_face.weights import read_hf_folder
from pipeline.import_hf import check_same_model, model_tree, start_run
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import run_finetuning, write_lines
from tests.pipeline.tokenizer_runs import newest, prepared
from tests.pipeline.training_run import make_config, metrics, pretrain

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
FOLDERS: dict[str, tuple[str, dict[str, int]]] = {
    "wordpiece": ("Bert", {"pad_token_id": 0, "max_position_embeddings": 32}),
    "xlm_roberta": ("XLMRoberta", {"max_position_embeddings": 34, "type_vocab_size": 1}),
    "camembert": (
        "Camembert",
        {"bos_token_id": 5, "eos_token_id": 6, "max_position_embeddings": 34, "type_vocab_size": 1},
    ),
}


def hf_folder(kind: str, tokenizer: Path, vocab_size: int, path: Path, **changes: int) -> Path:
    """A folder of the kind's own architecture with random weights."""
    name, settings = FOLDERS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **{**SIZES, **settings, "vocab_size": vocab_size, **changes}
    )
    model = getattr(transformers, f"{name}ForMaskedLM")(config)
    model.save_pretrained(path)
    (path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return path


def train_from_folder(config: TrainConfig, folder: Path) -> None:
    hf = read_hf_folder(folder)
    with single_rank_grid() as grid:
        start_run(plan_run(config, 1), hf, read_vocabulary(folder), grid)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_run_starts_from_the_folder_of_a_kind(kind: str, tmp_path: Path) -> None:
    manifest = prepared(kind, tmp_path)
    tokenizer = tmp_path / "tokenizer/tokenizer.json"
    folder = hf_folder(kind, tokenizer, manifest.vocab_size, tmp_path / "hf")
    changes: dict[str, Any] = {"schedule": {"type": "linear", "warmup_rows": 16}}
    model = model_tree(None, read_hf_folder(folder))
    config = make_config(
        tmp_path / "rows", tmp_path / "run", model=model, total_rows=2 * 16, **changes
    )
    run_ranks(train_from_folder, 1, config, folder)
    run_ranks(pretrain, 1, config)
    assert len(metrics(config, "loss")) == 2
    assert newest(config).manifest.special_tokens == manifest.special_tokens


def test_a_padded_vocabulary_is_named(tmp_path: Path) -> None:
    manifest = prepared("xlm_roberta", tmp_path)
    tokenizer = tmp_path / "tokenizer/tokenizer.json"
    folder = hf_folder("xlm_roberta", tokenizer, manifest.vocab_size + 7, tmp_path / "hf")
    config = make_config(
        tmp_path / "rows", tmp_path / "run", model=model_tree(None, read_hf_folder(folder))
    )
    with pytest.raises(UserError, match=rf"set tokenizer\.vocab_size to {manifest.vocab_size + 7}"):
        check_same_model(plan_run(config, 1), read_hf_folder(folder), read_vocabulary(folder))


def pair_config(folder: Path, hf: Path) -> FinetuneConfig:
    lines = [
        {"text": "the oven was hot", "second_text": "yesterday", "label": "a"},
        {"text": "the kitchen", "second_text": "was hot yesterday", "label": "b"},
    ]
    path = str(write_lines(folder / "pairs.jsonl", lines))
    task = {"type": "classification", "labels": ["a", "b"], "examples_per_step": 2}
    asked = {"question": "was hot", "context": "the oven was hot", "answers": []}
    asked_path = str(write_lines(folder / "asked.jsonl", [asked]))
    where = {"type": "span_question_answering", "stride_tokens": 2, "examples_per_step": 1}
    tree = {
        "name": "test",
        "output": str(folder / "finetuned"),
        "start": {"type": "hugging_face", "path": str(hf)},
        "tasks": {
            "pair": {**task, "train": path, "dev": path},
            "where": {**where, "train": asked_path},
        },
        "steps": 2,
        "micro_rows": 2,
        "precision": "fp32",
        "tracking": {"enabled": False},
    }
    return validate(tree, FinetuneConfig, origin="test")


def scores_of_the_pairs(config: FinetuneConfig, tp_size: int) -> dict[str, torch.Tensor]:
    """Our scores of the training examples of each task, and of pairs without segments."""
    plan = plan_finetuning(config, 1, is_first=True)
    heads = {name: task.head() for name, task in config.tasks.items()}
    compute = ComputeConfig(sequence_parallel=tp_size > 1)
    size = plan.start.vocab_size
    scores = {}
    with torch.no_grad():
        grid = make_grid(tp_size)
        model = build_multi_task(plan.model, heads, size, grid, 0, compute).eval()
        load_weights(model, TensorReader(newest(config)), grid)
        for name in heads:
            batch = FinetuneBatches(plan, 0).task_batch(name, plan.train[name].examples, key=0)
            assert batch.segments is not None
            scores[name] = model.scores(batch.tokens, [name], batch.segments)[name]
            scores[f"{name} without"] = model.scores(batch.tokens, [name])[name]
    return scores


def test_pairs_of_a_bert_have_its_segments(tmp_path: Path) -> None:
    manifest = prepared("wordpiece", tmp_path)
    tokenizer = tmp_path / "tokenizer/tokenizer.json"
    folder = hf_folder("wordpiece", tokenizer, manifest.vocab_size, tmp_path / "hf")
    config = pair_config(tmp_path, folder)
    run_ranks(run_finetuning, 1, config)
    run_ranks(export_run, 1, config, newest(config), tmp_path / "out")
    [ours] = run_ranks(scores_of_the_pairs, 1, config, 1)
    for parts in run_ranks(scores_of_the_pairs, 2, config, 2):
        torch.testing.assert_close(parts, ours, rtol=1e-5, atol=1e-5)
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "out/pair")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out/pair")
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    inputs = exported(
        [line["text"] for line in lines],
        [line["second_text"] for line in lines],
        return_tensors="pt",
        padding=True,
    )
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        theirs = model.eval()(**inputs).logits
    torch.testing.assert_close(ours["pair"], theirs, rtol=1e-5, atol=1e-5)
    assert not np.allclose(ours["pair"], ours["pair without"], atol=1e-4)
    inputs = exported("was hot", "the oven was hot", return_tensors="pt")
    reader = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out/where")
    with torch.no_grad():
        output = reader.eval()(**inputs)
    theirs = torch.stack([output.start_logits, output.end_logits], dim=-1)
    found = ours["where"][:, : theirs.shape[1]]
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
    assert not np.allclose(found, ours["where without"][:, : theirs.shape[1]], atol=1e-4)
    template = json.loads((folder / "tokenizer.json").read_text())
    for part in template["post_processor"]["pair"][3:]:
        next(iter(part.values()))["type_id"] = 2
    (folder / "tokenizer.json").write_text(json.dumps(template))
    with pytest.raises(
        UserError, match=r"pairs.jsonl: line 1: .* segment id 2, but the model has 2"
    ):
        plan_finetuning(config.model_copy(update={"output": tmp_path / "new"}), 1, is_first=True)


def test_a_model_of_one_segment_gets_none(tmp_path: Path) -> None:
    manifest = prepared("camembert", tmp_path)
    tokenizer = tmp_path / "tokenizer/tokenizer.json"
    folder = hf_folder("camembert", tokenizer, manifest.vocab_size, tmp_path / "hf")
    plan = plan_finetuning(pair_config(tmp_path, folder), 1, is_first=True)
    example = plan.train["pair"].examples[0]
    assert FinetuneBatches(plan, 0).task_batch("pair", [example], key=0).segments is None
    (row,) = example.rows
    assert row[0] == 5
    assert [int(n) for n in np.flatnonzero(row == 6)][-1] == len(row) - 1
    assert (row == 6).sum() == 3  # </s></s> between the two


def test_the_wrong_padding_id_is_named_with_the_family_that_has_it(tmp_path: Path) -> None:
    prepared("wordpiece", tmp_path)
    model = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_row_tokens": 32,
        "packed_rows": {"type": "inside"},
    }
    with pytest.raises(UserError) as error:
        plan_run(make_config(tmp_path / "rows", tmp_path / "run", model=model), 1)
    for expected in ("set model.pad_token_id to 0", "set model.begin_token_id to 7", "offset: 1"):
        assert expected in str(error.value)
