"""Fills masks with an exported model: ``python -m pipeline.fill_mask FOLDER "Some <mask>." ...``"""

from pathlib import Path
from typing import Any

import torch

from configs import command
from configs.load import UserError
from configs.terminal import visible
from pipeline.hugging_face.folder import load_exported

CANDIDATES = 5


def main() -> None:
    """Prints the most likely tokens for every mask of every sentence."""
    parser = command.plain_parser("Fill the masks in sentences.")
    parser.add_argument("folder", type=Path, help="a Hugging Face folder (RUN/hf)")
    parser.add_argument(
        "sentences",
        nargs="+",
        metavar="SENTENCE",
        help="text with the tokenizer's mask (<mask>, [MASK]) in it",
    )
    arguments = parser.parse_args()
    tokenizer, model = load_exported(arguments.folder)
    if tokenizer.mask_token_id is None:
        raise UserError(f"{arguments.folder}: its tokenizer has no mask token")
    for sentence in arguments.sentences:
        print(visible(sentence))
        for candidates in fill(tokenizer, model, sentence):
            print("    " + "  ".join(f"{text!r} {share:.0%}" for text, share in candidates))


def fill(tokenizer: Any, model: Any, text: str) -> list[list[tuple[str, float]]]:
    """For each mask in `text`, the most likely tokens and their probabilities.

    `tokenizer` and `model` are those of `load_exported`. Raises UserError for a text without a
    mask, or longer than the model's rows.
    """
    inputs = tokenizer(text, return_tensors="pt")
    ids = inputs["input_ids"][0]  # [S]
    places = (ids == tokenizer.mask_token_id).nonzero().flatten()
    if not len(places):
        raise UserError(f"{text!r}: no {tokenizer.mask_token} in it")
    if len(ids) > tokenizer.model_max_length:
        raise UserError(
            f"{text[:60]!r}...: {len(ids)} tokens, the model takes {tokenizer.model_max_length}"
        )
    with torch.no_grad():
        probabilities = model(**inputs).logits[0, places].softmax(-1)  # [masks, V]
    best = probabilities.topk(CANDIDATES)
    return [
        [(tokenizer.decode([i]), float(p)) for i, p in zip(row_ids, row_shares, strict=True)]
        for row_ids, row_shares in zip(best.indices, best.values, strict=True)
    ]


if __name__ == "__main__":
    command.run(main)
