"""Folders that transformers writes of every family are imported, trained on and exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from model.config import ModelConfig
from model.hugging_face.families import FAMILIES
from model.hugging_face.family import Family, PairedFamily, auto_class
from model.hugging_face.tensors import to_theirs
from pipeline.export import export_run
from pipeline.hugging_face.vocabulary import read_vocabulary
from pipeline.hugging_face.weights import read_hf_folder
from pipeline.import_hf import model_tree, start_run
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.start.config import FromHuggingFace
from tests.gloo import in_one_rank, run_ranks
from tests.model.hugging_face.test_parity import MODELS, SAME_NETWORK
from tests.pipeline.hugging_face.folders import tiny_tokenizer
from tests.pipeline.tokenizer_runs import newest
from tests.pipeline.training_run import VOCAB_SIZE, make_config, make_rows, metrics, pretrain

SIZES = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 32}
by_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)


def hf_folder(
    family: Family, path: Path, auto: str = "AutoModelForMaskedLM", **changes: Any
) -> Any:
    """The model that transformers has written to the folder `path`."""
    model = {**SIZES, **(MODELS | SAME_NETWORK)[family.model_type], **changes}
    settings = family.hf_config(ModelConfig(**model), VOCAB_SIZE)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**settings)
    written = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for parameter in written.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    written.save_pretrained(path)
    return written


@by_family
def test_the_files_of_transformers_return_to_the_bit(family: Family, tmp_path: Path) -> None:
    """They have other names than its models in memory, for some families."""
    written = hf_folder(family, tmp_path / "hf")
    found = read_hf_folder(tmp_path / "hf")
    assert found.family is family
    assert found.has_head
    state = written.state_dict()
    for name, tensor in family.to_hf(found.state, found.config).items():
        assert torch.equal(tensor, state[name]), name
    hf_folder(family, tmp_path / "encoder", auto="AutoModel")
    assert ModelConfig.model_validate(model_tree(None, found)) == found.config
    encoder = read_hf_folder(tmp_path / "encoder")
    assert not encoder.has_head
    assert encoder.config == found.config
    assert encoder.state.keys() < found.state.keys()


@by_family
def test_the_encoder_of_a_fine_tuned_folder_is_read(family: PairedFamily, tmp_path: Path) -> None:
    """The layers before a task's output are not the masked-language-model head."""
    leave_out = FromHuggingFace(path=tmp_path).leave_out
    for head in family.heads:
        folder = tmp_path / head
        written = hf_folder(family, folder, auto_class(head)).state_dict()
        found = read_hf_folder(folder, leave_out)
        assert not found.has_head
        with_encoder = family.pairs(found.config, VOCAB_SIZE, with_head=False)
        for name, tensor in to_theirs(found.state, with_encoder).items():
            assert torch.equal(tensor, written[name]), name


@in_one_rank
def write_step_0(config: TrainConfig, folder: Path) -> None:
    from model.parallel.grid import make_grid

    plan = plan_run(config, config.parallel.tensor)
    start_run(plan, read_hf_folder(folder), read_vocabulary(folder), make_grid(1))


@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        ("albert", {"tensor": 2, "zero_stage": 1}),
        ("nomic_bert", {"tensor": 1, "zero_stage": 3}),
        ("gte", {"tensor": 2, "zero_stage": 2}),
    ],
)
def test_a_family_is_continued_and_exported_to_its_class(
    name: str, parallel: dict[str, int], tmp_path: Path
) -> None:
    (family,) = (one for one in FAMILIES if one.model_type == name)
    tokenizer = tiny_tokenizer(VOCAB_SIZE)
    make_rows(tmp_path / "rows", tokenizer=tokenizer)
    hf_folder(family, tmp_path / "hf", pad_token_id=1)
    tokenizer.save(str(tmp_path / "hf/tokenizer.json"))
    config = make_config(
        tmp_path / "rows",
        tmp_path / "run",
        model=model_tree(None, read_hf_folder(tmp_path / "hf")),
        total_rows=3 * 16,
        schedule={"type": "linear", "warmup_rows": 16},
        parallel=parallel,
        export="hugging_face",
    )
    write_step_0(config, tmp_path / "hf")
    run_ranks(pretrain, 2, config)
    assert len(metrics(config, "loss")) == 3
    (differences,) = run_ranks(export_run, 1, config, newest(config), tmp_path / "out")
    assert differences[tmp_path / "out"] < 1e-5
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == name
    auto = transformers.AutoModelForMaskedLM
    model, loading = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(model).__name__ == family.masked_lm_class
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    again = read_hf_folder(tmp_path / "out")
    assert again.family is family
    assert again.config.for_loaded_weights() == config.model
