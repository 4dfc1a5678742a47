"""An encoder-decoder of transformers whose two halves start from an exported encoder.

Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks": the decoder
takes all weights that it shares with the encoder; only its cross-attention starts at random.
"""

from pathlib import Path
from typing import Any

import torch

from configs.load import UserError
from data_prep.dataset.files import read_json
from pipeline.hugging_face.folder import CONFIG_NAME, load_auto_tokenizer, transformers_name

DECODERS = ("bert", "roberta", "xlm-roberta", "camembert", "roberta-prelayernorm")
"""Families whose classes in transformers have cross-attention."""


def check_decoder(folder: Path) -> None:
    """Raises UserError for a folder whose family has no decoder in transformers."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"{folder}: no {CONFIG_NAME}: give an exported folder (RUN/hf)")
    family = read_json(path).get("model_type")
    if family not in DECODERS:
        raise UserError(
            f"{folder}: a {family} model cannot be a decoder: transformers has cross-attention "
            f"only for {', '.join(DECODERS)}: pretrain one of these (configs/base.yaml), or keep "
            "this encoder and give --decoder FOLDER with one of them and the same tokenizer"
        )


def warm_start(encoder: Path, decoder: Path, is_random: bool, seed: int) -> tuple[Any, Any]:
    """(tokenizer, encoder-decoder model) from two exported folders, often the same one.

    The cross-attention is drawn from `seed`; with `is_random`, all other weights are too. Raises
    UserError for a decoder without cross-attention, and for two tokenizers that differ.
    """
    check_decoder(decoder)
    tokenizer = load_auto_tokenizer(encoder)
    if load_auto_tokenizer(decoder).get_vocab() != tokenizer.get_vocab():
        raise UserError(f"{decoder}: its tokenizer is not that of {encoder}")
    for name in ("cls_token_id", "sep_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is None:
            raise UserError(f"{encoder}: its tokenizer has no {name.removesuffix('_id')}")
    model_class = transformers_name("EncoderDecoderModel")
    torch.manual_seed(seed)
    model = model_class.from_encoder_decoder_pretrained(str(encoder), str(decoder))
    if is_random:
        torch.manual_seed(seed)
        model = model_class(config=model.config)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.cls_token_id
        config.eos_token_id = tokenizer.sep_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model
