"""The stage that makes the tokenizer of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import UserError
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import file_sha256
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.dedup.selection import SAMPLE, Selection, chosen
from data_prep.engine.stage import Part, PartOutput, Stage
from data_prep.tokenization.config import TokenizerConfig, TrainTokenizerConfig
from data_prep.tokenization.train import tokenizer_from_vocabulary, train_tokenizer

TOKENIZER_FILE = "tokenizer.tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class TokenizerStage(Stage[Part]):
    """Trains a byte-level BPE tokenizer, or takes over an existing one."""

    name = "tokenizer"
    version = 1
    output = "`tokenizer.json`"
    source_settings = frozenset({"weights"})

    config: TokenizerConfig
    selection: Selection
    heldout_share: float

    @property
    def settings(self) -> Mapping[str, Any]:
        settings = self.config.model_dump(mode="json", exclude={"path", "vocab", "merges"})
        if isinstance(self.config, TrainTokenizerConfig):
            settings["heldout_share"] = self.heldout_share
        return settings

    @property
    def own_inputs(self) -> Mapping[str, str]:
        return {} if isinstance(self.config, TrainTokenizerConfig) else self.inputs

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes tokenizer.json, its name preceded by the part's."""
        if isinstance(self.config, TrainTokenizerConfig):
            tokenizer = train_tokenizer(self._sample(self.config), self.config.vocab_size)
        elif self.config.type == "file":
            tokenizer = load_tokenizer(self.config.path)
        else:
            tokenizer = tokenizer_from_vocabulary(self.config.vocab, self.config.merges)
        write_atomic(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True) + "\n")
        return PartOutput({"vocab_size": tokenizer.get_vocab_size()}, [TOKENIZER_FILE])

    def _sample(self, config: TrainTokenizerConfig) -> Iterator[str]:
        """Training documents of all sources, each source by its weight."""
        weights = config.weights or self.selection.kept_bytes
        scale = config.sample_mb * 1_000_000 / max(sum(weights.values()), 1e-9)
        for file in self.selection.files:
            share = scale * weights[file.source] / max(self.selection.kept_bytes[file.source], 1)
            sampled = chosen(self.selection.hashes(file), share, SAMPLE)
            sampled &= self.selection.kept(file)
            sampled &= ~self.selection.heldout(file, self.heldout_share)
            for texts in self.selection.chosen_texts(file, sampled):
                for text in texts:
                    yield text.decode()


def tokenizer_stage(
    config: TokenizerConfig, selection: Selection, inputs: Mapping[str, str], heldout_share: float
) -> TokenizerStage:
    """A single part.

    `inputs` are the content fingerprints of the stages that decide which documents there are.
    UserError for a tokenizer file that does not exist.
    """
    if not isinstance(config, TrainTokenizerConfig):
        inputs = {}
        for key, path in config.model_dump(exclude={"type"}).items():
            if not Path(path).is_file():
                raise UserError(f"tokenizer.{key}: {path}: no such file")
            inputs[key] = file_sha256(Path(path))
    return TokenizerStage(
        parts=[Part(name="tokenizer")],
        inputs=inputs,
        config=config,
        selection=selection,
        heldout_share=heldout_share,
    )
