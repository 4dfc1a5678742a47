"""Exported folders in other versions of transformers and in sentence-transformers.

``python -m benchmarks.export_versions --python VENV/bin/python`` writes a tiny folder of every
family with random weights, with a masked-language-model head and with two task heads, loads each in
this interpreter and in the given one, and compares ids and outputs with our own network's.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs import command
from configs.load import ConfigError
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, text_tokenizer
from data_prep.tokenization.train import train_tokenizer
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.families import family_of_model, head_transform_of
from model.hugging_face.family import auto_class
from model.multi_task import build_multi_task
from model.parallel.grid import Grid, single_rank_grid
from model.parameters import parameter_specs, shard_tensor
from model.task_heads import SequenceClassification, TaskHeadConfig, TokenClassification
from pipeline.hugging_face.comparison import random_state
from pipeline.hugging_face.folder import ExportedTokenizer, ExportSource
from pipeline.hugging_face.publish import publish
from pipeline.hugging_face.sentence_encoder import PoolingKind, SentenceEncoder, plain_pooler
from tests.model.hugging_face.test_parity import MODELS
from tests.tokenizer_kinds import KINDS, texts

PEER = Path(__file__).with_name("export_versions_peer.py")
MAX_ROW_TOKENS = 256
TEXTS = (*texts(4), "the oven", "", "Übung 1984 don't (yes)  #tag")
TOKENIZERS = {
    **dict.fromkeys(("bert", "nomic_bert", "albert"), "wordpiece"),
    **{"modernbert": "modernbert", "xlm-roberta": "xlm_roberta", "camembert": "camembert"},
}
"""The kind of a family's tokenizer; RoBERTa's for all others."""
NUM_LABELS = 3
POOLINGS: tuple[PoolingKind, ...] = ("first", "mean")
TASKS: dict[str, TaskHeadConfig] = {
    "classes": SequenceClassification(num_labels=NUM_LABELS),
    "words": TokenClassification(num_labels=NUM_LABELS),
}


@dataclass(frozen=True)
class Written:
    """A folder, and what our network computes from its texts."""

    folder: Path
    class_name: str
    tokens: Tensor
    """[texts, tokens] ids with padding."""
    model: ModelConfig
    outputs: Tensor
    """[texts, tokens, V or L], or [texts, L]."""
    vectors: Tensor | None = None


def main() -> None:
    """Prints a table of differences by folder and interpreter."""
    parser = command.plain_parser("Load exported folders of every family in other environments.")
    parser.add_argument(
        "--python",
        type=Path,
        metavar="FILE",
        help="another interpreter, with torch and transformers (and sentence-transformers)",
    )
    arguments = parser.parse_args()
    interpreters = [Path(sys.executable), *([arguments.python] if arguments.python else [])]
    print("| folder | transformers | ids | outputs | vectors (sentence-transformers) |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary, single_rank_grid() as grid, torch.no_grad():
        folders = list(_folders(Path(temporary), grid))
        for python in interpreters:
            for line in _lines(folders, python, Path(temporary)):
                print(line, flush=True)


def _folders(root: Path, grid: Grid) -> Iterator[Written]:
    for name, settings in {**MODELS, "xlm-roberta": {}, "camembert": {}}.items():
        kind = TOKENIZERS.get(name)
        file = root / name / "tokenizer.json"
        file.parent.mkdir()
        tokenizer = KINDS[kind]() if kind else train_tokenizer(texts(), 300)
        tokenizer.save(str(file))
        special = find_special_tokens(tokenizer, file)
        yield from _Family(name, file, special, _model(settings, special), grid).folders()


def _model(settings: dict[str, Any], special: SpecialTokens) -> ModelConfig:
    """A tiny model of the `settings`, with the special ids of a tokenizer."""
    tree = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, **settings}
    tree |= {"max_row_tokens": MAX_ROW_TOKENS, "pad_token_id": special.pad}
    tree |= {"begin_token_id": special.bos, "pooler": {"type": "first"}}
    if tree.get("positions") is None:
        tree["positions"] = {"type": "learned", "offset": special.pad + 1}
    transform = {"type": head_transform_of(ModelConfig.model_validate(tree))}
    return ModelConfig.model_validate({**tree, "head_transform": transform})


class _Family:
    """One network with random weights, and its folders."""

    def __init__(
        self, name: str, file: Path, special: SpecialTokens, model: ModelConfig, grid: Grid
    ) -> None:
        self._name, self._file, self._special, self._model = name, file, special, model
        self._family = family_of_model(model)
        self._vocab_size = num_ids(load_tokenizer(file))
        self._ours = build_multi_task(model, TASKS, self._vocab_size, grid, seed=0).eval()
        self._state = random_state(self._ours)
        specs = parameter_specs(self._ours)
        for key, parameter in self._ours.named_parameters():
            parameter.copy_(shard_tensor(specs[key], self._state[key], 0, 1))
        encoder = text_tokenizer(file, special)
        ids = [encoder.encode(text, add_special_tokens=False).ids for text in TEXTS]
        rows = [[special.bos, *found, special.eos] for found in ids]
        self._tokens = torch.full((len(rows), max(map(len, rows))), special.pad)
        for number, row in enumerate(rows):
            self._tokens[number, : len(row)] = torch.tensor(row)

    def folders(self) -> Iterator[Written]:
        """All of them."""
        for pooling in POOLINGS:
            yield self._masked_lm(pooling)
        for name, head in TASKS.items():
            try:
                self._family.check_task(self._model, head.type)
            except ConfigError:
                continue  # transformers has no class for it
            yield self._task(name, head.type)

    def _masked_lm(self, pooling: PoolingKind) -> Written:
        model, tokens = self._model, self._tokens
        dense = None
        if pooling == "first" and "pooler.dense.weight" in self._state:
            dense = (self._state["pooler.dense.weight"], self._state["pooler.dense.bias"])
        encoder = SentenceEncoder(pooling, model.hidden_size, model.max_row_tokens, dense)
        pooler = self._ours.pooler if dense else plain_pooler(model, pooling)
        folder = self._write(
            f"masked-lm, {pooling}",
            self._family.to_hf(self._state, model),
            self._family.hf_config(model, self._vocab_size),
            encoder,
        )
        vectors = pooler(self._ours.hidden_states(tokens), tokens, self._ours.encoder)
        outputs = self._ours.logits(tokens)
        return Written(folder, "AutoModelForMaskedLM", tokens, model, outputs, vectors)

    def _task(self, name: str, head: HeadType) -> Written:
        settings = {
            **self._family.hf_config(self._model, self._vocab_size),
            "architectures": [self._family.task_class(head)],
            "id2label": {str(n): f"label {n}" for n in range(NUM_LABELS)},
        }
        tensors = self._family.task_to_hf(self._state, self._model, name, head)
        folder = self._write(name, tensors, settings, None)
        outputs = self._ours.scores(self._tokens, [name])[name]
        return Written(folder, auto_class(head), self._tokens, self._model, outputs)

    def _write(
        self,
        kind: str,
        tensors: dict[str, Tensor],
        settings: dict[str, Any],
        encoder: SentenceEncoder | None,
    ) -> Path:
        folder = self._file.parent / f"{self._name}, {kind}"
        publish(
            folder,
            tensors=tensors,
            config=settings,
            tokenizer=ExportedTokenizer.of(self._file, self._special, self._model),
            source=ExportSource(0, None),
            quantity="logit",
            compare=lambda _: {"logit": 0.0},  # here, by every interpreter
            card=lambda _: "",
            write_more=encoder.write if encoder else None,
        )
        return folder


def _lines(folders: Sequence[Written], python: Path, temporary: Path) -> Iterator[str]:
    """The lines of the table for an interpreter."""
    outputs = [temporary / f"{number}.npz" for number in range(len(folders))]
    jobs = [
        {"folder": str(f.folder), "class": f.class_name, "texts": TEXTS, "output": str(output)}
        for f, output in zip(folders, outputs, strict=True)
    ]
    (temporary / "jobs.json").write_text(json.dumps(jobs))
    words = [str(python), str(PEER), str(temporary / "jobs.json")]
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    for written, output in zip(folders, outputs, strict=True):
        with np.load(output) as found:
            cells = (written.folder.name, str(found["version"]), *_cells(written, found))
        yield f"| {' | '.join(cells)} |"


def _cells(written: Written, found: Any) -> tuple[str, str, str]:
    """Of ids, outputs and vectors: how they agree with ours."""
    if "error" in found:
        return "", str(found["error"])[:80], ""
    ids, logits = torch.from_numpy(found["ids"]), torch.from_numpy(found["logits"])
    if ids.shape != written.tokens.shape or not bool((ids == written.tokens).all()):
        return "differ", "", ""
    is_text = written.tokens != written.model.pad_token_id
    ours, theirs = written.outputs, logits
    if ours.dim() == 3:
        ours, theirs = ours[is_text], theirs[is_text]
    vectors = ""
    if written.vectors is not None and "vectors" in found:
        error = (written.vectors - torch.from_numpy(found["vectors"])).abs().max()
        vectors = f"{float(error):.1e} ({found['sentence_version']})"
    return "same", f"{float((ours - theirs).abs().max()):.1e}", vectors


if __name__ == "__main__":
    command.run(main)
