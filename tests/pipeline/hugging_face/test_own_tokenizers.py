"""Folders of BERT, XLM-R and CamemBERT are continued and exported as what they are."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from model.parallel.grid import make_grid
from pipeline.export import export_run
from pipeline.hugging_face.weights import build_from_hf, read_hf_folder
from tests.gloo import run_ranks
from tests.pipeline.hugging_face.test_kinds import FOLDERS, hf_folder
from tests.pipeline.start.continuing import child_config
from tests.pipeline.tokenizer_runs import newest, prepared
from tests.pipeline.training_run import metrics, pretrain
from tests.tokenizer_kinds import texts

NAMES = {"wordpiece": "bert", "xlm_roberta": "xlm-roberta", "camembert": "camembert"}
SPECIAL = ("bos", "pad", "eos", "mask", "unk", "cls", "sep")


def our_logits(folder: Path, tokens: torch.Tensor, tp_size: int) -> torch.Tensor:
    with torch.no_grad():
        return build_from_hf(read_hf_folder(folder), make_grid(tp_size)).eval().logits(tokens)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_continued_and_exported_as_its_own_family(kind: str, tmp_path: Path) -> None:
    manifest = prepared(kind, tmp_path)
    special = manifest.special_tokens
    tokenizer = tmp_path / "tokenizer/tokenizer.json"
    folder = hf_folder(kind, tokenizer, manifest.vocab_size, tmp_path / "hf")

    given = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokens = torch.randint(0, manifest.vocab_size, (2, 30), generator=torch.manual_seed(0))
    tokens[tokens == special.pad] = special.mask
    tokens[:, 0], tokens[1, -7:] = special.bos, special.pad
    is_text = tokens != special.pad
    with torch.no_grad():
        expected = given(tokens, attention_mask=is_text.long()).logits[is_text]
    for logits in run_ranks(our_logits, 2, folder, tokens, 2):
        torch.testing.assert_close(logits[is_text], expected, rtol=1e-5, atol=1e-5)

    config = child_config(
        tmp_path / "rows",
        tmp_path / "run",
        {"type": "hugging_face", "path": str(folder)},
        total_rows=2 * 16,
        parallel={"tensor": 2, "zero_stage": 2},
        model={"begin_token_id": special.bos, "packed_rows": {"type": "inside"}},
    )
    run_ranks(pretrain, 2, config)
    assert len(metrics(config, "loss")) == 2
    (differences,) = run_ranks(export_run, 1, config, newest(config), tmp_path / "out")
    assert differences[tmp_path / "out"] < 1e-5

    settings = json.loads((tmp_path / "out/config.json").read_text())
    assert settings["model_type"] == NAMES[kind]
    assert settings["max_position_embeddings"] == given.config.max_position_embeddings
    assert [settings[f"{role}_token_id"] for role in ("bos", "pad", "eos")] == [
        *(special.bos, special.pad, special.eos)
    ]
    model, loading = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(model) is type(given)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    before = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    after = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in texts(4):
        assert after(text)["input_ids"] == before(text)["input_ids"]
    ids = {role: getattr(after, f"{role}_token_id") for role in SPECIAL}
    assert ids == {
        **{role: getattr(special, role) for role in ("bos", "pad", "eos", "mask", "unk")},
        "cls": special.bos,
        "sep": special.eos,
    }
