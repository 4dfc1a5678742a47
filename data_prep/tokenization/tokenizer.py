"""The stage that makes the tokenizer of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from configs.load import UserError, fingerprint
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import SpecialTokens, file_sha256
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids
from data_prep.dedup.selection import Selection
from data_prep.documents.files import read_texts
from data_prep.engine.stage import Part, PartOutput, Reads, Stage, StageResult
from data_prep.tokenization.config import (
    LEARNED,
    ExtendedTokenizerConfig,
    TokenizerConfig,
    TokenizerFromFileConfig,
    TokenizerFromVocabularyConfig,
    TrainTokenizerConfig,
)
from data_prep.tokenization.encoder import EncoderKind, TokenizerContents
from data_prep.tokenization.existing import PreparedTokenizer, prepared_from_file
from data_prep.tokenization.extension import check_extensible, extended_tokenizer
from data_prep.tokenization.fast_encoder import REFERENCE_SPEED, fast_encoder_problem
from data_prep.tokenization.fertility import fertility
from data_prep.tokenization.train import tokenizer_from_vocabulary, train_tokenizer

TOKENIZER_FILE = "tokenizer.tokenizer.json"
_OWN_INPUTS = ("path", "vocab", "merges", "special_tokens")
_TRIED_DOCUMENTS = 20
"""Documents of each source that both encoders are tried on."""
_TRIED_BYTES = 1 << 11
"""Of such a document."""
_PROCESS_BYTES, _MEMORY_PER_BYTE = 1_000_000_000, 4
"""Memory of the process that learns a tokenizer: its own, and for each byte of the sample."""


@dataclass(frozen=True, kw_only=True)
class TokenizerStage(Stage[Part]):
    """Trains a byte-level BPE tokenizer, or takes over or extends an existing one."""

    name = "tokenizer"
    version = 1
    output = "`tokenizer.json`"
    source_settings = frozenset({"weights"})
    less_memory = "; or lower tokenizer.sample_mb"

    config: TokenizerConfig
    selection: Selection
    sample: Sequence[Path]
    """Files of the texts that it is learned from."""
    heldout_share: float
    encoder: EncoderKind

    @property
    def settings(self) -> Mapping[str, Any]:
        settings = self.config.model_dump(
            mode="json", exclude={"path", "vocab", "merges", "special_tokens"}, exclude_none=True
        )
        if isinstance(self.config, LEARNED):
            settings["heldout_share"] = self.heldout_share
        return settings

    @property
    def part_memory_bytes(self) -> int:
        if not isinstance(self.config, LEARNED):
            return 0
        return _PROCESS_BYTES + _MEMORY_PER_BYTE * self.config.sample_mb * 1_000_000

    @property
    def own_inputs(self) -> Mapping[str, str]:
        return {key: self.inputs[key] for key in _OWN_INPUTS if key in self.inputs}

    def reads_of(self, part: Part) -> Reads:
        # The sample, and some documents of each source with their hashes and verdicts.
        return Reads(len(self.sample) + 4 * len(self.selection.kept_bytes), part.num_bytes)

    def run_part(self, folder: Path, part: Part) -> PartOutput:
        """Writes tokenizer.json, its name preceded by the part's."""
        extension: dict[str, Any] = {}
        if isinstance(self.config, TrainTokenizerConfig):
            trained = train_tokenizer(self._sample(), self.config.vocab_size)
            prepared = _prepared(trained)
        else:
            prepared = existing_tokenizer(self.config)
        if isinstance(self.config, ExtendedTokenizerConfig):
            prepared, extension = self._extended(self.config, prepared)
        contents = _written(prepared, folder)
        counts: dict[str, Any] = {
            "vocab_size": prepared.vocab_size,
            "special_tokens": prepared.special.tree(),
            "notices": prepared.notices,
            **extension,
        }
        if self.encoder == "fast":
            tried = self._tried()
            counts["fast_problem"] = fast_encoder_problem(contents, prepared.tokenizer, tried)
        return PartOutput(counts, [TOKENIZER_FILE])

    def _extended(
        self, config: ExtendedTokenizerConfig, old: PreparedTokenizer
    ) -> tuple[PreparedTokenizer, dict[str, Any]]:
        """The extended tokenizer, and what its record says of it."""
        new = extended_tokenizer(old, self._sample(), config.new_tokens, config.path)
        about = {
            "parent_sha256": self.inputs["path"],
            "old_vocab_size": old.vocab_size,
            "fertility": fertility(old, new, self.selection, self.heldout_share),
        }
        return new, {"extension": about}

    def _tried(self) -> Iterator[bytes]:
        """The starts of some documents of every source, to try the encoders on."""
        seen: set[str] = set()
        for file in self.selection.files:
            flags = self.selection.kept(file)
            if file.source in seen or not flags.any():
                continue
            seen.add(file.source)
            flags &= np.cumsum(flags) <= _TRIED_DOCUMENTS
            for texts in self.selection.chosen_texts(file, flags):
                for text in texts:
                    yield text[:_TRIED_BYTES].decode("utf-8", "ignore").encode()

    def _sample(self) -> Iterator[str]:
        for path in self.sample:
            for _, texts in read_texts(path):
                for text in texts:
                    yield text.decode()


def tokenizer_stage(
    config: TokenizerConfig,
    selection: Selection,
    inputs: Mapping[str, str],
    heldout_share: float,
    encoder: EncoderKind,
    sample: Sequence[Path] = (),
) -> TokenizerStage:
    """A single part.

    `sample` are the files of the texts that it is learned from, if it is; `inputs` are the content
    fingerprints of the stages that decide which documents there are.
    UserError for a tokenizer file that does not exist or cannot be used.
    """
    if not isinstance(config, TrainTokenizerConfig):
        prepared = existing_tokenizer(config)
        files = {key: file_sha256(path) for key, path in _files_of(config).items()}
        inputs = {**inputs, **files} if isinstance(config, LEARNED) else files
        if prepared.special != roberta_places(prepared.vocab_size):
            # They may be given by the config or by files beside the tokenizer.
            inputs["special_tokens"] = fingerprint(prepared.special.tree())
    return TokenizerStage(
        parts=[Part(name="tokenizer")],
        inputs=inputs,
        config=config,
        selection=selection,
        sample=sample,
        heldout_share=heldout_share,
        encoder=encoder,
    )


def existing_tokenizer(
    config: TokenizerFromFileConfig | TokenizerFromVocabularyConfig,
) -> PreparedTokenizer:
    """The tokenizer that a config names; UserError for files that are missing or cannot be used."""
    for key, path in _files_of(config).items():
        if path.is_dir():
            raise UserError(f"tokenizer.{key}: {path} is a folder: name the file in it")
        if not path.is_file():
            raise UserError(f"tokenizer.{key}: {path}: no such file")
    if isinstance(config, TokenizerFromFileConfig):
        prepared = prepared_from_file(config)
        if isinstance(config, ExtendedTokenizerConfig):
            check_extensible(prepared, config.path)
        return prepared
    return _prepared(tokenizer_from_vocabulary(config.vocab, config.merges))


def roberta_places(vocab_size: int) -> SpecialTokens:
    """The special tokens of tokenizers that are trained here."""
    return SpecialTokens(bos=0, pad=1, eos=2, unk=3, mask=vocab_size - 1)


def tokenizer_contents(result: StageResult[Part]) -> TokenizerContents:
    """The tokenizer that a finished stage made."""
    path = result.folder / TOKENIZER_FILE
    (record,) = result.records
    vocab_size = record["vocab_size"]
    special = roberta_places(vocab_size)  # the only ones of older records
    if "special_tokens" in record:
        special = SpecialTokens.model_validate(record["special_tokens"])
    return TokenizerContents.of(path, special, vocab_size)


def parent_sha256(result: StageResult[Part]) -> str | None:
    """The sha256 of the file of the tokenizer that was extended, if one was."""
    extension: dict[str, str] = result.records[0].get("extension", {})
    return extension.get("parent_sha256")


def chosen_encoder(wanted: EncoderKind, result: StageResult[Part]) -> EncoderKind:
    """The encoder that gives right ids with the tokenizer of a finished stage."""
    return "reference" if wanted == "reference" or _fast_problem(result) else "fast"


def _fast_problem(result: StageResult[Part]) -> str | None:
    (record,) = result.records
    if "fast_problem" in record:
        problem: str | None = record["fast_problem"]
        return problem
    # An older record, or the config asked for the reference encoder then.
    contents = tokenizer_contents(result)
    return fast_encoder_problem(contents, load_tokenizer(contents.path))


def notices(wanted: EncoderKind, result: StageResult[Part]) -> list[str]:
    """What the user should know of the tokenizer of a finished stage."""
    found = list(result.records[0].get("notices", []))
    problem = _fast_problem(result) if wanted == "fast" else None
    return [*found, *_slow_notices(problem)]


def notices_before(config: TokenizerConfig, wanted: EncoderKind) -> list[str]:
    """What the user should know of a tokenizer before any work: it is tried on difficult texts.

    UserError for files that are missing or cannot be used. Nothing for one that is to be trained.
    """
    if isinstance(config, TrainTokenizerConfig):
        return []
    prepared = existing_tokenizer(config)
    problem = None
    if wanted == "fast":
        with TemporaryDirectory() as folder:
            contents = _written(prepared, Path(folder))
            problem = fast_encoder_problem(contents, prepared.tokenizer)
    return [*prepared.notices, *_slow_notices(problem)]


def _written(prepared: PreparedTokenizer, folder: Path) -> TokenizerContents:
    """Writes tokenizer.json, its name preceded by the part's."""
    path = folder / TOKENIZER_FILE
    write_atomic(path, prepared.tokenizer.to_str(pretty=True) + "\n")
    return TokenizerContents.of(path, prepared.special, prepared.vocab_size)


def _slow_notices(problem: str | None) -> list[str]:
    if problem is None:
        return []
    return [
        f"encoder: the library tokenizers encodes in place of gigatoken: {problem}; that is "
        f"{REFERENCE_SPEED}"
    ]


def _prepared(tokenizer: Tokenizer) -> PreparedTokenizer:
    """Of a tokenizer with RoBERTa's special tokens."""
    size = num_ids(tokenizer)
    return PreparedTokenizer(tokenizer, find_special_tokens(tokenizer, "tokenizer"), size)


def _files_of(
    config: TokenizerFromFileConfig | TokenizerFromVocabularyConfig,
) -> dict[str, Path]:
    if isinstance(config, TokenizerFromFileConfig):
        return {"path": Path(config.path)}
    return {"vocab": Path(config.vocab), "merges": Path(config.merges)}
