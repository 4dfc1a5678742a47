"""Bad starts are reported before anything is allocated, and what a plan says of a good one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.load import ConfigError, UserError
from data_prep.dataset.manifest import read_manifest as read_rows
from data_prep.dataset.manifest import write_manifest
from model.config import ModelConfig
from pipeline.checkpoint.manifest import find_checkpoint, manifest_json, read_manifest
from pipeline.finetuning.run_config import load_run
from pipeline.run.config import TrainConfig
from pipeline.run.plan import RunPlan, plan_run
from pipeline.run.train_config import complete_config, load_train
from pipeline.start.record import write_record
from pipeline.start.start import read_start
from pipeline.tracking import lineage
from tests.gloo import run_ranks
from tests.pipeline.hugging_face.folders import (
    SAME_SIZES,
    change_config,
    tiny_folder,
    tiny_tokenizer,
)
from tests.pipeline.plan_lines import report
from tests.pipeline.start.continuing import (
    TOKENIZER,
    child_config,
    child_tree,
    make_data,
    parent_config,
    write_yaml,
)
from tests.pipeline.training_run import VOCAB_SIZE, pretrain


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "rows")


@pytest.fixture(scope="module")
def parent(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = parent_config(rows, tmp_path_factory.mktemp("parent") / "run")
    run_ranks(pretrain, 1, config)
    return config


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("folder") / "hf", TOKENIZER, **SAME_SIZES)


def of_run(parent: TrainConfig, **keys: Any) -> dict[str, Any]:
    return {"type": "run", "path": str(parent.output), **keys}


def plan_of(tree: dict[str, Any]) -> RunPlan:
    return plan_run(complete_config(tree, "test"), 1)


def refused(tree: dict[str, Any], *messages: str) -> None:
    """By train.py and by `pipeline.plan`, with the same message."""
    with pytest.raises(UserError) as error:
        plan_of(tree)
    with pytest.raises(UserError) as of_the_planner:
        list(report(complete_config(tree, "test"), 1, 1))
    assert str(error.value) == str(of_the_planner.value)
    for message in messages:
        assert message in str(error.value)


def test_a_model_section_gives_training_choices_and_may_repeat_the_rest(
    rows: Path, parent: TrainConfig, hf: Path, tmp_path: Path
) -> None:
    given = {"attention_dropout": 0.0, "packed_rows": {"type": "inside"}, "hidden_size": 32}
    start = of_run(parent, step=10)
    tree = child_tree(rows, tmp_path / "run", start, model=given)
    config = load_train(write_yaml(tmp_path / "run.yaml", tree))
    assert config.model.packed_rows.type == "inside"
    assert (
        config.model.model_copy(
            update={"packed_rows": parent.model.packed_rows, "attention_dropout": 0.1}
        )
        == parent.model
    )
    assert load_run(tmp_path / "run.yaml") == config
    plan = plan_of(tree)
    assert plan.start is not None
    first, changes, *_ = plan.summary_lines(0)
    assert "(step 10)" in first
    assert changes == (
        "  changed from the start: model.packed_rows.restart_positions True, "
        "model.packed_rows.type across -> inside, model.attention_dropout 0.1 -> 0.0"
    )
    folder = {"type": "hugging_face", "path": str(hf)}
    assert child_config(rows, tmp_path / "other", folder).model.type_vocab_size == 2
    assert plan_of(child_tree(rows, tmp_path / "other", folder)).start is not None


def test_differences_in_architecture_are_named(
    rows: Path, parent: TrainConfig, tmp_path: Path
) -> None:
    model = {"hidden_size": 64, "type_vocab_size": 2, "norm": {"type": "rms_norm"}}
    tree = child_tree(rows, tmp_path / "run", of_run(parent), model=model)
    refused(
        tree,
        "model.hidden_size is 64, the start's 32 (start.grow: tiling",
        "model.type_vocab_size is 2, the start's 1",
        "model.norm.type is 'rms_norm', the start's 'layer_norm'",
    )
    tree["model"] = {"hiden_size": 32}
    refused(tree, "model.hiden_size")
    refused({**tree, "start": {"type": "scratch"}, "model": {}}, "model.num_layers")


def test_a_step_that_is_gone_is_named_with_those_that_are_there(
    rows: Path, parent: TrainConfig, tmp_path: Path
) -> None:
    tree = child_tree(rows, tmp_path / "run", of_run(parent, step=15))
    refused(tree, "no checkpoint of step 15 (start.step); steps: 10, 20")
    refused({**tree, "start": {"type": "run", "path": str(tmp_path)}}, "no checkpoint: train first")
    best = plan_of(child_tree(rows, tmp_path / "run", of_run(parent, step="best"))).start
    assert best is not None
    assert best.record.step == 20


def test_paths_that_name_something_else_than_the_type_says(
    rows: Path, parent: TrainConfig, hf: Path, tmp_path: Path
) -> None:
    checkpoints = parent.output / "checkpoints"
    for kind, path, message in (
        ("run", checkpoints, f"set start.path to the folder of the run, {parent.output}"),
        ("run", checkpoints / "step-00000010", f"run, {parent.output}, and start.step: 10"),
        ("run", hf, "Set start.type: hugging_face"),
        ("hugging_face", parent.output, "the folder of a run: set start.type: run"),
    ):
        refused(child_tree(rows, tmp_path / "x", {"type": kind, "path": str(path)}), message)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"type": "runn", "path": "x"}, "start: unknown type 'runn'; did you mean 'run'?"),
        ({"type": "run"}, "start.path: required"),
        ({"type": "hugging_face", "path": "x", "moments": True}, "start.moments: unknown key"),
        (
            {"path": "x"},
            "start.path: unknown key of the type 'scratch'; 'path' is one of 'hugging_face' and "
            "'run': set start.type",
        ),
        ("x", "start: should be a mapping"),
        (None, "start: "),
        ({}, "model: required"),
    ],
)
def test_a_start_with_errors_is_what_is_reported(
    rows: Path, tmp_path: Path, start: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=r": 1 error\(s\)") as error:
        child_config(rows, tmp_path / "run", start)
    assert message in str(error.value)


def test_folders_that_cannot_be_continued(rows: Path, hf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(hf, folder)
    tree = child_tree(rows, tmp_path / "run", {"type": "hugging_face", "path": str(folder)})
    change_config(folder, model_type="gpt2")
    refused(tree, "model_type 'gpt2' cannot be imported")
    change_config(folder, model_type="bert")
    refused(tree, "bert.embeddings.word_embeddings.weight: missing")
    change_config(folder, model_type="roberta")
    tensors = load_file(folder / "model.safetensors")
    del tensors["roberta.encoder.layer.1.output.dense.bias"]
    tensors["lm_head.bias"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    refused(tree, "layer.1.output.dense.bias: missing", "lm_head.bias: shape [7], expected [131]")
    (folder / "config.json").unlink()
    refused(tree, "no config.json")


def test_another_tokenizer_is_refused_with_the_way_to_the_right_one(
    rows: Path, hf: Path, tmp_path: Path
) -> None:
    swapped = tiny_tokenizer(VOCAB_SIZE, a7=9, a9=7)
    other = make_data(tmp_path / "swapped", tokenizer=swapped)
    tree = child_tree(other, tmp_path / "run", {"type": "hugging_face", "path": str(hf)})
    refused(
        tree, "'a7' is 9 for the rows, 7", f"tokenizer: {{type: file, path: {hf}/tokenizer.json}}"
    )
    larger = make_data(tmp_path / "larger", tokenizer=tiny_tokenizer(VOCAB_SIZE + 4))
    data = {"path": str(larger)}
    refused({**tree, "data": data}, "the vocabulary has 135 ids, 131 in the start")
    new = {**tree["start"], "new_tokens": "mean"}
    assert plan_of({**tree, "start": new, "data": data}).vocab_size == 135
    folder = tmp_path / "padded"
    shutil.copytree(hf, folder)
    tiny_tokenizer(VOCAB_SIZE - 3).save(str(folder / "tokenizer.json"))
    start = {"type": "hugging_face", "path": str(folder)}
    refused({**tree, "start": start}, "tokenizer.json, vocab_size: 131}")


def test_special_tokens_of_another_vocabulary(rows: Path, hf: Path, tmp_path: Path) -> None:
    """The advice works, also that on positions, whose weights are those of the start."""
    tokenizer = tiny_tokenizer(VOCAB_SIZE, (), **{"<s>": 1, "<pad>": 0})
    other = make_data(tmp_path / "rows", tokenizer=tokenizer)
    manifest = read_rows(other)
    special = manifest.special_tokens.model_copy(update={"bos": 1, "pad": 0})
    write_manifest(other, manifest.model_copy(update={"special_tokens": special}))
    start = {"type": "hugging_face", "path": str(hf), "new_tokens": "mean"}
    tree = child_tree(other, tmp_path / "run", start)
    refused(tree, "set model.pad_token_id to 0", "{type: learned, offset: 1} for an export")
    model = {"pad_token_id": 0, "positions": {"type": "learned", "offset": 1}}
    assert plan_of({**tree, "model": model, "export": "hugging_face"}).start is not None
    out_of_range = {**model, "begin_token_id": VOCAB_SIZE}
    refused({**tree, "model": out_of_range}, "set model.begin_token_id to 1")
    own = {**tree, "start": {**start, "new_tokens": None}}
    refused(own, "prepare the rows with the tokenizer of the start, or set start.new_tokens")
    kept = {**own, "model": model}
    refused(kept, "model.positions.offset is 1, the start's 2")


def test_a_folder_with_a_vocabulary_and_no_tokenizer_json(
    rows: Path, hf: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(hf, folder)
    vocabulary = TOKENIZER.get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tree = child_tree(rows, tmp_path / "run", {"type": "hugging_face", "path": str(folder)})
    assert plan_of(tree).start is not None
    vocabulary["a7"], vocabulary["a9"] = vocabulary["a9"], vocabulary["a7"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    refused(tree, "'a7' is 7 for the rows, 9 in the folder")


def test_moments_need_the_same_optimizer_and_the_same_weights(
    rows: Path, parent: TrainConfig, tmp_path: Path
) -> None:
    start = of_run(parent, step=10, moments=True)
    tree = child_tree(rows, tmp_path / "run", start)
    refused(
        {**tree, "optimizer": {"type": "muon"}},
        "start.moments: written by optimizer.type adamw, this run has muon: set optimizer.type to",
    )
    frozen = {"frozen": {"type": "lower", "num_layers": 1}}
    refused({**tree, "model": frozen}, "model.frozen is lower, in the start nothing")
    refused({**tree, "start": {**start, "grow": "tiling"}}, "moments true does not go with grow")
    refused({**tree, "start": {**start, "new_tokens": "mean"}}, "does not go with new_tokens")


def test_rows_longer_than_the_positions_of_the_start(
    rows: Path, parent: TrainConfig, tmp_path: Path
) -> None:
    longer = make_data(tmp_path / "longer", row_tokens=64)
    tree = child_tree(longer, tmp_path / "run", of_run(parent))
    refused(tree, "longer than the 32 positions of the start", "start.grow to tiling")
    grown = {**tree, "start": of_run(parent, grow="tiling"), "model": {"max_row_tokens": 64}}
    assert plan_of(grown).config.model.max_row_tokens == 64
    refused({**tree, "model": {"max_row_tokens": 64}}, "model.max_row_tokens is 64")


def test_a_damaged_checkpoint_is_named(rows: Path, parent: TrainConfig, tmp_path: Path) -> None:
    shutil.copytree(parent.output, tmp_path / "parent")
    step = tmp_path / "parent" / "checkpoints" / "step-00000010"
    start = {"type": "run", "path": str(tmp_path / "parent"), "step": 10}
    tree = child_tree(rows, tmp_path / "run", start)
    manifest = read_manifest(step)
    parameters = dict(manifest.parameters)
    del parameters["encoder.layers.1.mlp.up.bias"]
    changed = manifest.model_copy(update={"parameters": parameters})
    (step / "manifest.json").write_text(manifest_json(changed))
    refused(tree, "weights, its model has")
    (step / "manifest.json").write_text(manifest_json(manifest))
    [tensors] = step.glob("*.safetensors")
    tensors.unlink()
    refused(tree, "missing, or not of")


def test_a_restart_takes_the_weights_of_the_first_start(
    rows: Path, parent: TrainConfig, hf: Path, tmp_path: Path
) -> None:
    """Before its first checkpoint, also while the parent goes on."""
    newest = child_config(rows, tmp_path / "run", of_run(parent))
    assert newest.start.type == "run"
    old = child_config(rows, tmp_path / "run", of_run(parent, step=10))
    assert old.start.type == "run"
    write_record(tmp_path / "run", read_start(old.start).record)
    plan = plan_run(newest, 1)
    assert plan.start_record is not None
    assert plan.start_record.step == 10
    folder = child_config(rows, tmp_path / "run", {"type": "hugging_face", "path": str(hf)})
    with pytest.raises(UserError, match="does not hold the weights that this run started from"):
        plan_run(folder, 1)


def test_lineage_names_the_data_of_all_runs_before(
    rows: Path, parent: TrainConfig, tmp_path: Path
) -> None:
    plan = plan_of(child_tree(rows, tmp_path / "run", of_run(parent, step=10)))
    assert plan.origin.start == plan.start_record
    assert plan.start_record is not None
    grandchild = plan.start_record.model_copy(update={"name": "child", "start": plan.start_record})
    assert [record.name for record in grandchild.ancestors()] == ["child", "test"]
    described = lineage.describe_ancestors(grandchild)
    assert [each["context"] for each in described] == ["start", "start of the start, 1"]
    assert json.loads(described[1]["source"])["uri"] == [str(rows)]
    own, *before = lineage.describe_datasets(plan)
    assert own["context"] == "pretraining"
    assert [each["digest"] for each in before] == [own["digest"]]
    parameters = lineage.describe_parameters(plan)
    assert parameters["start.fingerprint"] == plan.start_record.fingerprint


def test_a_config_without_a_start_is_as_before(rows: Path, parent: TrainConfig) -> None:
    stored = parent.model_dump(mode="json")
    del stored["start"]
    before = TrainConfig.from_stored(stored, "older")
    assert before.identity() == parent.identity()
    assert isinstance(before.model, ModelConfig)


def test_the_plan_of_a_run_with_checkpoints_says_where_it_resumes(parent: TrainConfig) -> None:
    newest = find_checkpoint(parent.output / "checkpoints")[0]
    assert newest is not None
    first = report(parent, 1, 1)[0]
    assert first.startswith(f"{parent.name} resumes from step {newest.manifest.step:,}: ")
