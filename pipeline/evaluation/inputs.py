"""What an evaluation reads before any model is computed: probes and texts, checked."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import UserError, fingerprint
from data_prep.dataset.manifest import file_sha256
from pipeline.data.config import DataConfig
from pipeline.evaluation.config import EvaluationConfig, FileTexts, RunTexts
from pipeline.evaluation.embeddings import TextPair, read_text_pair
from pipeline.evaluation.fill_mask import Probe, read_probe
from pipeline.evaluation.heldout import MaskedTexts, mask_texts
from pipeline.evaluation.json_lines import Records, find_files, read_records
from pipeline.evaluation.made_pairs import half_pairs, word_order_pairs
from pipeline.evaluation.minimal_pairs import MinimalPair, read_pair
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.sample_sizes import HOLD_OUT_MORE, few_documents, few_items
from pipeline.evaluation.texts import Texts, read_texts

WORD_ORDER, HALVES = "word order", "halves"
"""Names of the probes that are made from texts."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Everything that is asked of the models."""

    texts: Texts | None
    masked: MaskedTexts | None
    """Held-out texts with masks, for the models that fill masks."""
    minimal_pairs: tuple[Records[MinimalPair], ...]
    probes: tuple[Records[Probe], ...]
    text_pairs: tuple[Records[TextPair], ...]
    files: Mapping[str, str]
    """The sha256 of each probe file."""
    notes: tuple[str, ...]
    """What could not be read, where nobody asked for it by name."""

    @property
    def fingerprint(self) -> str:
        """Hash of all texts and files."""
        return fingerprint([self.texts and self.texts.fingerprint, dict(self.files)])


def read_inputs(config: EvaluationConfig, models: Sequence[FoundModel]) -> Inputs:
    """The inputs of the checks that `config` asks for, for `models`.

    Raises UserError for files and texts that cannot be read, with bad records by line.
    """
    files: dict[str, str] = {}

    def paths(key: str, patterns: Sequence[str]) -> list[Path]:
        found = find_files(patterns, f"{key}.files")
        files.update({str(path): file_sha256(path) for path in found})
        return found

    pairs: list[Records[MinimalPair]] = []
    probes: list[Records[Probe]] = []
    text_pairs: list[Records[TextPair]] = []
    if "minimal_pairs" in config.checks:
        chosen = paths("minimal_pairs", config.minimal_pairs.files)
        limit = config.minimal_pairs.max_pairs_per_file
        pairs = [
            Records(one.name, one.records[:limit], one.bad)
            for one in read_records(chosen, read_pair, config.bad_records)
        ]
    if "fill_mask" in config.checks:
        chosen = paths("fill_mask", config.fill_mask.files)
        probes = read_records(chosen, read_probe, config.bad_records)
    if "embeddings" in config.checks:
        chosen = paths("embeddings", config.embeddings.files)
        text_pairs = read_records(chosen, read_text_pair, config.bad_records)
    texts, notes = _texts(config, models)
    masked = None
    filling = [model for model in models if not model.no_masks]
    if texts is not None:
        if "heldout" in config.checks and filling:
            masked = mask_texts(texts, filling, config.heldout)
            if not any(masked.sources.values()):
                reasons = ", ".join(f"{n:,} {reason}" for reason, n in masked.left_out.items())
                notes.append(f"held-out words: no word of the texts can be masked ({reasons})")
                masked = None
        if "minimal_pairs" in config.checks and config.minimal_pairs.from_texts:
            made = word_order_pairs(texts.all_texts(), config.minimal_pairs.from_texts)
            pairs += [Records(WORD_ORDER, tuple(made))] if made else []
            notes += [] if made else ["word order: the texts hold no whole sentence to swap in"]
        if "embeddings" in config.checks and config.embeddings.from_texts:
            halves = half_pairs(texts.all_texts(), config.embeddings.from_texts)
            text_pairs += [Records(HALVES, tuple(halves))] if len(halves) > 1 else []
            notes += [] if len(halves) > 1 else ["halves: the texts are too short to be halved"]
    counts = {
        ("minimal pairs", "pairs"): {one.name: len(one.records) for one in pairs},
        ("fill-mask", "gaps"): {one.name: len(one.records) for one in probes},
        ("embeddings", "pairs"): {one.name: len(one.records) for one in text_pairs},
    }
    for (check, items), by_name in counts.items():
        notes += few_items(check, items, by_name)
    for note in notes:
        logger.warning("%s", note)
    return Inputs(
        *(texts, masked, tuple(pairs), tuple(probes), tuple(text_pairs), files, tuple(notes))
    )


def _texts(
    config: EvaluationConfig, models: Sequence[FoundModel]
) -> tuple[Texts | None, list[str]]:
    counts = {
        "heldout": 1,
        "minimal_pairs": config.minimal_pairs.from_texts,
        "embeddings": config.embeddings.from_texts,
    }
    if not any(counts.get(check) for check in config.checks):
        return None, []

    def fits(text: str) -> bool:
        return all(
            len(model.tokenizer.encode(text, add_special_tokens=False).ids) <= model.max_text_tokens
            for model in models
        )

    run_data: DataConfig | None = next((m.run_data for m in models if m.run_data), None)
    limit = config.heldout.max_bytes_per_source
    by_choice = not isinstance(config.texts, RunTexts)
    try:
        texts = read_texts(config.texts, run_data, limit, config.bad_records, fits)
    except (UserError, OSError) as error:
        if by_choice:
            raise
        return None, [f"held-out texts of the run: {error}"]
    if texts is None:
        return None, [
            "no held-out texts, since no model is a pretraining run: set texts.files=FILE, or "
            "'texts: {type: rows, path: FOLDER}' in a config"
        ]
    more = "texts.files with more texts" if isinstance(config.texts, FileTexts) else HOLD_OUT_MORE
    return texts, few_documents(
        "the texts", texts.samples, f"a larger heldout.max_bytes_per_source (now {limit:,})", more
    )
