"""Every kind of tokenizer, from the texts to an exported model that gives the ids of training."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from configs.load import validate
from data_prep.dataset.manifest import Manifest
from data_prep.dataset.tokenizer import text_tokenizer
from pipeline.export import export_run
from pipeline.fill_mask import fill
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.examples import RowEncoder
from pipeline.hugging_face.folder import load_exported
from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import run_finetuning, write_lines
from tests.pipeline.tokenizer_runs import ROW_TOKENS, model_of, newest, prepared
from tests.pipeline.training_run import make_config, pretrain
from tests.tokenizer_kinds import KINDS, texts


def run_config(folder: Path, manifest: Manifest) -> TrainConfig:
    changes: dict[str, Any] = {
        "total_rows": 2 * 16,
        "schedule": {"type": "linear", "warmup_rows": 16},
    }
    model = model_of(manifest)
    return make_config(folder / "rows", folder / "run", model=model, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_from_texts_to_an_exported_model(kind: str, tmp_path: Path) -> None:
    manifest = prepared(kind, tmp_path)
    special = manifest.special_tokens
    config = run_config(tmp_path, manifest)
    run_ranks(pretrain, 1, config)
    run_ranks(export_run, 1, config, newest(config), tmp_path / "hf")
    assert newest(config).manifest.special_tokens == special
    exported = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = text_tokenizer(tmp_path / "rows/tokenizer.json", special)
    for text in (*texts(5), "  Übung\tПечь  \n 1984", "e\u0301 ﬁ Ａ"):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert exported(text)["input_ids"] == [special.bos, *ids, special.eos]
    tokens = {role: getattr(exported, f"{role}_token_id") for role in ("bos", "pad", "eos", "mask")}
    assert tokens == {role: getattr(special, role) for role in tokens}
    assert exported.unk_token_id == special.unk
    assert exported.model_max_length == ROW_TOKENS
    settings = json.loads((tmp_path / "hf/config.json").read_text())
    assert [settings[f"{role}_token_id"] for role in ("bos", "pad", "eos")] == [
        special.bos, special.pad, special.eos,
    ]  # fmt: skip
    mask = exported.mask_token
    (candidates,) = fill(*load_exported(tmp_path / "hf"), f"the oven {mask} hot")
    assert len(candidates) == 5
    finetuned = finetune_config(config, tmp_path)
    run_ranks(run_finetuning, 1, finetuned)
    run_ranks(export_run, 1, finetuned, newest(finetuned), tmp_path / "task")
    encoder = RowEncoder(tmp_path / "rows/tokenizer.json", special, ROW_TOKENS)
    row, theirs = encoder.row("the oven", "was hot"), exported("the oven", "was hot")
    assert theirs["input_ids"] == row.ids
    if config.model.type_vocab_size == 2:
        assert theirs["token_type_ids"] == row.type_ids


def test_the_architecture_of_modernbert_with_its_tokenizer(tmp_path: Path) -> None:
    manifest = prepared("modernbert", tmp_path)
    special = manifest.special_tokens
    model = model_of(
        manifest,
        ffn_hidden_size=48,
        norm_placement={"type": "pre"},
        first_norm=False,
        bias={"attention": False, "mlp": False, "norm": False, "head": False},
        activation={"type": "geglu"},
        positions={"type": "rotary", "base": 160_000.0, "local_base": 10_000.0},
        attention_pattern={"type": "alternating", "neighbours": 3, "global_every": 3},
        num_layers=4,
        type_vocab_size=0,
        attention_dropout=0.0,
        hidden_dropout=0.0,
    )
    changes: dict[str, Any] = {"schedule": {"type": "linear", "warmup_rows": 16}}
    config = make_config(
        tmp_path / "rows", tmp_path / "run", model=model, total_rows=2 * 16, **changes
    )
    run_ranks(pretrain, 1, config)
    run_ranks(export_run, 1, config, newest(config), tmp_path / "hf")
    settings = json.loads((tmp_path / "hf/config.json").read_text())
    assert settings["model_type"] == "modernbert"
    ids = [settings[f"{name}_token_id"] for name in ("bos", "cls", "eos", "sep", "pad")]
    assert ids == [special.bos, special.bos, special.eos, special.eos, special.pad]
    exported, network = load_exported(tmp_path / "hf")
    assert len(fill(exported, network, "the oven [MASK] hot")) == 1


def finetune_config(config: TrainConfig, folder: Path) -> FinetuneConfig:
    """Two steps of a pair task, a word task, questions and masked language modelling."""
    lines = [
        {"text": "the oven", "second_text": f"was {word}", "label": word} for word in ("hot", "yes")
    ]
    words = [{"words": ["the", "хлеб", "was", "hot"], "labels": ["a", "b", "a", "b"]}] * 3
    answers = [{"text": "хлеб", "start": 4}]
    questions = [{"question": "the oven", "context": "the хлеб was", "answers": answers}] * 3
    kinds: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "pair": (lines, {"type": "classification", "labels": ["hot", "yes"]}),
        "words": (words, {"type": "token_classification", "labels": ["a", "b"]}),
        "where": (questions, {"type": "span_question_answering", "stride_tokens": 2}),
    }
    tree = {
        "name": "test",
        "output": str(folder / "finetuned"),
        "start": {"type": "run", "path": str(config.output)},
        "tasks": {
            name: {
                **task,
                "examples_per_step": 4,
                "train": str(write_lines(folder / f"{name}.jsonl", examples)),
                "dev": str(folder / f"{name}.jsonl"),
            }
            for name, (examples, task) in kinds.items()
        },
        "mlm": {"data": {"path": str(config.data.path)}, "rows_per_step": 4},
        "steps": 2,
        "micro_rows": 4,
        "precision": "fp32",
        "evaluate_every_steps": 2,
        "tracking": {"enabled": False},
    }
    return validate(tree, FinetuneConfig, origin="test")
