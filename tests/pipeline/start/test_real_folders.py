"""Real pretrained weights from the package index are continued and exported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import BertWordPieceTokenizer

from data_prep.run import prepare
from pipeline.export import export_run
from pipeline.hugging_face.weights import read_hf_folder
from tests.data_prep.corpora import forum_config, write_forum
from tests.gloo import run_ranks
from tests.pipeline.start.continuing import (
    checkpoint_at,
    child_config,
    child_tree,
    run_tree,
    state_at,
)
from tests.pretrained import weights_folder
from tests.tokenizer_kinds import texts

AMINO_ACIDS = list("ACDEFGHIKLMNPQRSTVWY")
LEAVE_OUT = {"antiberty": ["cls.species.", "cls.chain.", "cls.graft."]}


def proteins(count: int) -> list[str]:
    """Texts of amino acids, which antiberty has tokens for."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(AMINO_ACIDS, 80)) for _ in range(count)]


@pytest.mark.packages
@pytest.mark.parametrize("name", ["rxnfp", "antiberty", "minilm"])
def test_real_weights_are_continued_and_exported(name: str, tmp_path: Path) -> None:
    """Folders with a vocab.txt and no tokenizer.json; that of minilm has no head either."""
    folder = weights_folder(name)
    tokenizer = tmp_path / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir()
    is_cased = name == "antiberty"
    BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=not is_cased).save(str(tokenizer))
    write_forum(tmp_path / "raw", proteins(60) if name == "antiberty" else texts(60))
    prepare(forum_config(tmp_path, tokenizer={"type": "file", "path": str(tokenizer)}))
    start = {"type": "hugging_face", "path": str(folder), "leave_out": LEAVE_OUT.get(name, [])}
    tree = child_tree(tmp_path / "rows", tmp_path / "run", start, total_rows=16)
    run_ranks(run_tree, 1, tree)
    config = child_config(tmp_path / "rows", tmp_path / "run", start)
    hf = read_hf_folder(folder, tuple(LEAVE_OUT.get(name, ())))
    state = state_at(config, 0, "weight")
    different = [n for n, t in hf.state.items() if not torch.equal(state[f"weight/{n}"], t.float())]
    assert not different
    assert ("head.bias" in hf.state) == hf.has_head == (name != "minilm")
    (differences,) = run_ranks(export_run, 1, config, checkpoint_at(config, 1), tmp_path / "hf")
    assert differences[tmp_path / "hf"] < 1e-4
