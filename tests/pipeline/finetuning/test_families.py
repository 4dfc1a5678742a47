"""Fine-tuned heads of the families are exported to every class that transformers has."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from model.hugging_face.family import auto_class
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.finetuning.export import export_tasks
from pipeline.finetuning.plan import plan_finetuning
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, run_ranks
from tests.model.hugging_face.test_parity import MODELS
from tests.pipeline.finetuning.finetune_run import (
    TASKS,
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)

SIZES = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": 32,
    "pad_token_id": 1,
}
MISSING = {"nomic_bert": {"where": "NomicBertForQuestionAnswering", "next": "ForMultipleChoice"}}


@pytest.mark.parametrize("name", ["albert", "nomic_bert"])
def test_heads_are_exported_to_the_classes_that_there_are(name: str, tmp_path: Path) -> None:
    model: dict[str, Any] = {**MODELS[name], **SIZES}
    if name == "albert":
        model["parameter_sharing"] = {"type": "groups", "num_groups": 1}
    base = make_pretrained(tmp_path / "base", model=model, export="hugging_face")
    config = make_finetune_config(base, tmp_path / "run", parallel={"tensor": 2}, mlm=None, steps=2)
    missing = MISSING.get(name, {})
    plan = "\n".join(plan_finetuning(config, 2, is_first=True).summary_lines(0))
    for task, class_name in missing.items():
        assert f"  {task}: cannot be exported: transformers has no class" in plan
        assert class_name in plan
    run_ranks(run_finetuning, 2, config)
    checkpoint, _ = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    if missing:
        with pytest.raises(RankError, match="transformers has no class NomicBertForQuestionAnsw"):
            run_ranks(export_tasks, 1, config, checkpoint, tmp_path / "hf")
    else:
        (differences,) = run_ranks(export_tasks, 1, config, checkpoint, tmp_path / "hf")
        assert max(differences.values()) < 1e-5
    assert {path.name for path in (tmp_path / "hf").iterdir()} == TASKS.keys() - missing.keys()
    for task in TASKS.keys() - missing.keys():
        auto = getattr(transformers, auto_class(config.tasks[task].head().type))
        loaded, loading = auto.from_pretrained(tmp_path / "hf" / task, output_loading_info=True)
        assert type(loaded).__name__.startswith({"albert": "Albert"}.get(name, "NomicBert"))
        assert not loading["missing_keys"], task
        assert not loading["unexpected_keys"], task


def test_a_model_of_no_family_is_named_before_the_training(tmp_path: Path) -> None:
    model = {**SIZES, "activation": {"type": "swiglu"}}
    base = make_pretrained(tmp_path / "base", model=model)
    config = make_finetune_config(base, tmp_path / "run")
    lines = "\n".join(plan_finetuning(config, 1, is_first=True).summary_lines(0))
    names = "animal, length, tags, where, next, inside"
    assert f"{names}: cannot be exported: no Hugging Face class" in lines
    assert "roberta: model.activation.type: gelu (now swiglu)" in lines
