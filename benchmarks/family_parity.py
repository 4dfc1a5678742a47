"""Every Hugging Face family: our logits against the stock class's, and the round trip.

    python -m benchmarks.family_parity [--layers 12] [--hidden-size 768] [--family NAME]

Builds the stock class of each family with random weights, reads them into our model at tensor
parallel 1, 2 and 4 on CPU ranks, and prints a table: the largest absolute difference of a logit in
fp32 on two rows of 128 tokens (one padded, two segments where the family has them), and whether
its tensors, from memory and from the files that transformers writes, return equal to the bit.
Exits with 1 where a difference is above 1e-5 of the largest logit or a tensor does not return.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from configs import command
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.hugging_face.families import FAMILIES
from model.hugging_face.family import Family
from model.hugging_face.nearest import with_changes
from model.parallel.grid import close_grid, make_grid
from model.parameters import parameter_specs, shard_tensor
from pipeline.hugging_face.weights import read_hf_folder
from pipeline.launch.local_ranks import run_ranks

TENSOR_PARALLEL = (1, 2, 4)
VOCAB_SIZE = 30_000
ROW_TOKENS = 128
NUM_ROWS = 2
PADDED_TOKENS = 40
SPREAD = 0.02
"""Standard deviation of what is added to every tensor, so that none keeps its initial value."""
TOLERANCE = 1e-5
RANK_TIMEOUT_S = 1800.0
STARTS: tuple[Mapping[str, Any], ...] = (
    {"type_vocab_size": 2},
    {"type_vocab_size": 2, "positions": {"type": "learned", "offset": 0}, "pad_token_id": 0},
    {
        "type_vocab_size": 2,
        "norm_placement": {"type": "pre"},
        "activation": {"type": "geglu"},
        "positions": {"type": "rotary", "base": 160_000.0, "local_base": 10_000.0},
        "attention_pattern": {"type": "alternating", "neighbours": 16},
        "num_key_value_heads": 4,
    },
    {
        "type_vocab_size": 2,
        "positions": {"type": "learned", "offset": 0},
        "embedding_size": 128,
        "parameter_sharing": {"type": "groups", "num_groups": 1},
        "activation": {"type": "gelu_tanh"},
        "head_activation": "gelu_tanh",
    },
)
"""A family is compared in the model nearest to one of these, so that what it has is switched on."""


def main() -> int:
    """Prints the table."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=12, help="layers (default: 12)")
    parser.add_argument("--hidden-size", type=int, default=768, help="width (default: 768)")
    parser.add_argument("--family", help="compare this model_type only")
    arguments = parser.parse_args()
    sizes = {
        "num_layers": arguments.layers,
        "hidden_size": arguments.hidden_size,
        "num_attention_heads": 12,
        "max_row_tokens": 512,
    }
    columns = [f"TP {size}" for size in TENSOR_PARALLEL]
    print(f"| class | parameters | {' | '.join(columns)} | largest logit | round trip |")
    print(f"|---|---|{'---|' * len(columns)}---|---|")
    is_right = True
    for family in FAMILIES:
        if arguments.family in (None, family.model_type):
            is_right &= compare(family, nearest_config(family, sizes))
    return 0 if is_right else 1


def nearest_config(family: Family, sizes: Mapping[str, Any]) -> ModelConfig:
    """The model of `family` that needs the fewest changes of one of `STARTS`."""
    starts = [ModelConfig(**{**sizes, **start}) for start in STARTS]
    found = [(family.changes(start), start) for start in starts]
    changes, start = min(found, key=lambda pair: len(pair[0]))
    return with_changes(start, changes)


def compare(family: Family, config: ModelConfig) -> bool:
    """Prints the row of a family; whether all of it is right."""
    torch.manual_seed(0)
    settings = family.hf_config(config, VOCAB_SIZE)
    theirs = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(**settings), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * SPREAD)
        tokens, segments = rows_of(config)
        is_text = tokens != config.pad_token_id
        inputs = {} if segments is None else {"token_type_ids": segments}
        expected = theirs(tokens, attention_mask=is_text.long(), **inputs).logits[is_text]
    given = theirs.state_dict()
    state = family.from_hf(given, config, VOCAB_SIZE)
    returns = returned(family.to_hf(state, config), given) and returned(
        written_and_read(theirs), given
    )
    largest, differences = float(expected.abs().max()), []
    for tp_size in TENSOR_PARALLEL:
        arguments = (config, state, tokens, segments, tp_size)
        found = run_ranks(our_logits, tp_size, *arguments, timeout_s=RANK_TIMEOUT_S)
        differences.append(max(float((part[is_text] - expected).abs().max()) for part in found))
    shown = " | ".join(f"{difference:.1e}" for difference in differences)
    print(
        f"| {type(theirs).__name__} | {sum(p.numel() for p in theirs.parameters()):,} | {shown} | "
        f"{largest:.1f} | {'equal to the bit' if returns else 'DIFFERENT'} |",
        flush=True,
    )
    return returns and all(one <= TOLERANCE * max(largest, 1.0) for one in differences)


def rows_of(config: ModelConfig) -> tuple[Tensor, Tensor | None]:
    """Random tokens, and segment ids where the model has more than one."""
    generator = torch.Generator().manual_seed(1)
    shape = (NUM_ROWS, ROW_TOKENS)
    tokens = torch.randint(4, VOCAB_SIZE - 1, shape, generator=generator)
    tokens[-1, -PADDED_TOKENS:] = config.pad_token_id
    if config.type_vocab_size < 2:
        return tokens, None
    return tokens, (torch.arange(ROW_TOKENS) >= ROW_TOKENS // 2).long().expand(shape)


def our_logits(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokens: Tensor,
    segments: Tensor | None,
    tp_size: int,
) -> Tensor:
    """[B, S, V] of our model with the weights `state` on this rank."""
    grid = make_grid(tp_size)
    model = build_masked_lm(config, VOCAB_SIZE, grid, seed=0).eval()
    specs = parameter_specs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(shard_tensor(specs[name], state[name], *grid.tp_shard))
        logits = model.logits(tokens, segments)
    close_grid()
    return logits


def written_and_read(theirs: Any) -> dict[str, Tensor]:
    """Hugging Face's tensors after transformers wrote them and we read them."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        found = read_hf_folder(Path(folder))
    return found.family.to_hf(found.state, found.config)


def returned(back: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    """Whether `back` holds every tensor of `given`, apart from tied ones, equal to the bit."""
    if not all(torch.equal(tensor, given[name]) for name, tensor in back.items()):
        return False
    memory = {given[name].data_ptr() for name in back}
    return all(given[name].data_ptr() in memory for name in given.keys() - back.keys())


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gloo on CPU ranks, whatever the machine has
    transformers.utils.logging.disable_progress_bar()
    command.run(main)
