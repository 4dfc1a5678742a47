"""A folder of EuroBERT as it is published, whose padding is its end token, is continued."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from configs.load import validate
from data_prep.dataset.manifest import Manifest, read_manifest
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.run import prepare
from model.parallel.grid import single_rank_grid
from pipeline.export import export_run
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.plan import plan_finetuning
from pipeline.hugging_face.vocabulary import read_vocabulary
from pipeline.hugging_face.weights import read_hf_folder
from pipeline.import_hf import model_tree, start_run
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from tests.data_prep.corpora import forum_config, write_forum
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import write_lines
from tests.pipeline.tokenizer_runs import newest
from tests.pipeline.training_run import make_config, metrics, pretrain
from tests.tokenizer_kinds import texts

SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"),
    *("<|reserved_special_token_1|>", "<|reserved_special_token_2|>"),
)


def save_tokenizer(folder: Path) -> Path:
    """EuroBERT's: byte-level BPE, special ids at the end, the end token is the padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    begin, end, mask = SPECIAL[:3]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B {end}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in (begin, end)],
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": begin, "eos_token": end, "pad_token": end, "mask_token": mask}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """(A folder with the rows and the Hugging Face folder, the manifest of the rows)."""
    root = tmp_path_factory.mktemp("eurobert")
    file = save_tokenizer(root / "hf")
    ids = load_tokenizer(file).get_vocab(with_added_tokens=True)
    torch.manual_seed(0)
    config = transformers.EuroBertConfig(
        vocab_size=len(ids),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=ids[SPECIAL[0]],
        eos_token_id=ids[SPECIAL[1]],
        pad_token_id=ids[SPECIAL[1]],
        mask_token_id=ids[SPECIAL[2]],
        rope_theta=250_000.0,
    )
    transformers.EuroBertForMaskedLM(config).save_pretrained(root / "hf")
    write_forum(root / "raw", texts(60))
    prepare(forum_config(root, tokenizer={"type": "file", "path": str(file)}))
    return root, read_manifest(root / "rows")


def train_from_folder(config: TrainConfig, folder: Path) -> None:
    hf = read_hf_folder(folder)
    with single_rank_grid() as grid:
        start_run(plan_run(config, config.parallel.tensor), hf, read_vocabulary(folder), grid)


def test_padding_gets_an_id_of_its_own(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    root, manifest = made
    ids = load_tokenizer(root / "hf/tokenizer.json").get_vocab(with_added_tokens=True)
    special = manifest.special_tokens
    roles = (special.bos, special.eos, special.mask, special.pad)
    assert roles == tuple(ids[name] for name in SPECIAL[:4])
    hf = read_hf_folder(root / "hf")
    assert hf.config.pad_token_id == special.pad
    without = tmp_path / "tokenizer.json"
    without.write_bytes((root / "hf/tokenizer.json").read_bytes())
    given = find_special_tokens(load_tokenizer(without), without, {"pad": SPECIAL[4]})
    assert given.pad == ids[SPECIAL[4]]


def test_a_run_starts_from_the_folder_and_returns_to_its_class(
    made: tuple[Path, Manifest], tmp_path: Path
) -> None:
    root, manifest = made
    config = make_config(
        root / "rows",
        tmp_path / "run",
        model=model_tree({"packed_rows": {"type": "inside"}}, read_hf_folder(root / "hf")),
        export="hugging_face",
        total_rows=2 * 16,
        schedule={"type": "linear", "warmup_rows": 16},
        parallel={"tensor": 2},
    )
    run_ranks(train_from_folder, 1, config, root / "hf")
    run_ranks(pretrain, 2, config)
    assert len(metrics(config, "loss")) == 2
    [differences] = run_ranks(export_run, 1, config, newest(config), tmp_path / "out")
    assert max(differences.values()) < 1e-5
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    special = manifest.special_tokens
    assert type(model).__name__ == "EuroBertForMaskedLM"
    assert (model.config.bos_token_id, model.config.eos_token_id) == (special.bos, special.eos)
    assert (model.config.pad_token_id, model.config.mask_token_id) == (special.pad, special.mask)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer(["the oven", "the oven was hot"], padding=True, return_tensors="pt")
    assert inputs["input_ids"][0, -1] == special.pad
    again = read_hf_folder(tmp_path / "out")
    assert again.config == read_hf_folder(root / "hf").config


def test_fine_tuning_starts_from_the_folder(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    root, manifest = made
    lines = [{"text": "the oven was hot", "label": "a"}, {"text": "the kitchen", "label": "b"}]
    task = {"type": "classification", "labels": ["a", "b"], "examples_per_step": 2}
    tree: dict[str, Any] = {
        "name": "test",
        "output": str(tmp_path / "run"),
        "start": {"type": "hugging_face", "path": str(root / "hf")},
        "tasks": {"pair": {**task, "train": str(write_lines(tmp_path / "lines.jsonl", lines))}},
        "steps": 2,
        "tracking": {"enabled": False},
    }
    plan = plan_finetuning(validate(tree, FinetuneConfig, origin="test"), 1, is_first=True)
    assert plan.start.special == manifest.special_tokens
    assert plan.model.pad_token_id == manifest.special_tokens.pad
    (row,) = plan.train["pair"].examples[0].rows
    assert (row[0], row[-1]) == (manifest.special_tokens.bos, manifest.special_tokens.eos)
    assert plan.model.head_transform.type == "dense"
