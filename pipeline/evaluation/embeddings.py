"""Vectors of texts: whether paraphrases are closer than other pairs, and how they are spread.

n texts, H hidden, B rows, S tokens in a row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.config import Pooling
from pipeline.evaluation.intervals import wilson
from pipeline.evaluation.json_lines import BadRecordError, Records, text_field
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.results import CheckResult, Measure

if TYPE_CHECKING:
    from model.heads import MaskedLanguageModel

LABELS = {1: True, 0: False, "1": True, "0": False}
"""Values of `label`; true and false equal 1 and 0."""
MAX_OTHER_PAIRS = 1_000_000
"""Pairs of texts that are compared where no file says which are no paraphrases."""


@dataclass(frozen=True)
class TextPair:
    """Two texts."""

    first: str
    second: str
    is_paraphrase: bool = True


def read_text_pair(record: dict[str, Any]) -> TextPair:
    """The pair of a line; raises BadRecordError."""
    label = record.get("label", 1)
    if isinstance(label, float | list | dict) or label not in LABELS:
        raise BadRecordError(f"label {str(label)[:40]!r} is none of 0, 1, true, false")
    return TextPair(text_field(record, "text_a"), text_field(record, "text_b"), LABELS[label])


def embeddings_check(
    model: FoundModel,
    module: "MaskedLanguageModel",
    files: Sequence[Records[TextPair]],
    pooling: Sequence[Pooling],
    batch_tokens: int,
) -> CheckResult:
    """The measures of each file and pooling; texts longer than a row are cut and counted."""
    left_out: Counter[str] = Counter()
    measures: list[Measure] = []
    for file in files:
        left_out += file.bad
        texts = list(dict.fromkeys(t for pair in file.records for t in (pair.first, pair.second)))
        numbers = {text: number for number, text in enumerate(texts)}
        vectors, num_cut = embed(model, module, texts, pooling, batch_tokens)
        if num_cut:
            left_out["texts cut to the model's longest row"] += num_cut
        pairs = np.array([(numbers[pair.first], numbers[pair.second]) for pair in file.records])
        labels = np.array([pair.is_paraphrase for pair in file.records])
        for kind, matrix in vectors.items():
            group = f"{file.name}, {kind}" if len(files) > 1 else kind
            measures += _measures(matrix, pairs, labels, group)
    return CheckResult(tuple(measures), dict(left_out))


def embed(
    model: FoundModel,
    module: "MaskedLanguageModel",
    texts: Sequence[str],
    pooling: Sequence[Pooling],
    batch_tokens: int,
) -> tuple[dict[Pooling, NDArray[np.float64]], int]:
    """(by pooling, the vectors [n, H] of `texts`; texts that were cut).

    The mean is over all tokens of the last layer, begin and end included, as in
    sentence-transformers.
    """
    import torch

    from pipeline.evaluation.scoring import batches, padded

    encodings = [model.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    rows = [model.row(ids[: model.max_text_tokens]) for ids in encodings]
    num_cut = sum(len(ids) > model.max_text_tokens for ids in encodings)
    size = model.config.hidden_size
    found = {kind: np.empty((len(texts), size)) for kind in pooling}
    device = next(module.parameters()).device
    with torch.no_grad():
        for batch in batches([len(row) for row in rows], batch_tokens):
            tokens = padded([rows[n] for n in batch], model.config.pad_token_id).to(device)
            hidden = module.hidden_states(tokens).double()  # [B, S, H]
            lengths = torch.tensor([len(rows[n]) for n in batch], device=device)
            is_text = torch.arange(tokens.shape[1], device=device) < lengths[:, None]  # [B, S]
            for kind, matrix in found.items():
                vectors = hidden[:, 0]
                if kind == "mean":
                    vectors = (hidden * is_text[..., None]).sum(dim=1) / lengths[:, None]
                matrix[batch] = vectors.cpu().numpy()
    return found, num_cut


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """The probability that a positive value is above a negative one, ties counted as half.

    The area under the ROC curve, by the Mann-Whitney statistic; NaN without either.
    """
    from scipy.stats import mannwhitneyu

    if not len(positive) or not len(negative):
        return float("nan")
    statistic = mannwhitneyu(positive, negative).statistic
    return float(statistic) / (len(positive) * len(negative))


def isoscore(vectors: NDArray[np.float64]) -> float:
    """How evenly `vectors` [n, H] use all dimensions: 1 all equally, 0 only one.

    IsoScore of Rudman et al. 2022 (Algorithm 1, definitions 4 to 6): the distance of the variances
    along the principal components, normalised, from those of an isotropic space. NaN for vectors
    that are all equal. Needs many more vectors than dimensions: with fewer, at most
    (n - 2) / (H - 1) of the dimensions can have variance.
    """
    size = vectors.shape[1]
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(vectors, rowvar=False))).clip(min=0)
    length = np.linalg.norm(variances)
    if size < 2 or not length:
        return float("nan")
    normalised = variances * size**0.5 / length
    defect = np.linalg.norm(normalised - 1) / (2 * (size - size**0.5)) ** 0.5
    used = (size - defect**2 * (size - size**0.5)) ** 2 / size**2  # share of dimensions
    return float((size * used - 1) / (size - 1))


def _measures(
    vectors: NDArray[np.float64],
    pairs: NDArray[np.int64],
    labels: NDArray[np.bool_],
    group: str,
) -> list[Measure]:
    """The measures of the `vectors` [n, H], and of `pairs` [pairs, 2] of them with `labels`."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths > 0, lengths, 1.0)
    cosines = (directions[pairs[:, 0]] * directions[pairs[:, 1]]).sum(axis=1)
    positive, negative = cosines[labels], cosines[~labels]
    firsts, seconds = pairs[labels].T
    if not len(negative):
        negative = _other_cosines(directions, firsts, seconds)
    found = [Measure("pair_auc", auc(positive, negative), group, count=len(positive))]
    if len(positive) > 1:
        similar = directions[firsts] @ directions[seconds].T  # [positive, positive]
        right = similar.diagonal() >= similar.max(axis=1)
        share = float(right.mean())
        interval = wilson(share, len(right))
        found.append(Measure("nearest", share, group, *interval, len(right)))
    found.append(Measure("paraphrase_cosine", _mean(positive), group, count=len(positive)))
    found.append(Measure("other_cosine", _mean(negative), group, count=len(negative)))
    found.append(Measure("isoscore", isoscore(vectors), group, count=len(vectors)))
    return found


def _other_cosines(
    directions: NDArray[np.float64], firsts: NDArray[np.int64], seconds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The cosines of first texts and second texts of other pairs."""
    limit = int(MAX_OTHER_PAIRS**0.5)
    firsts, seconds = firsts[:limit], seconds[:limit]
    cosines = directions[firsts] @ directions[seconds].T
    is_other = (firsts[:, None] != firsts) & (seconds[:, None] != seconds)
    is_other &= firsts[:, None] != seconds[None]
    result: NDArray[np.float64] = cosines[is_other]
    return result


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
