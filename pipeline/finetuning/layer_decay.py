"""Layer-wise decay of the learning rate: which share of it each parameter takes.

Clark et al. 2020 (ELECTRA), appendix B; the powers are those of BEiT (Bao et al. 2022, its code):
with n layers and the decay d, 1 for pooler and heads, d for the last layer, d^n for the first one,
d^(n+1) for the embeddings. ELECTRA's own code has one power of d more everywhere below the heads.
"""

import re

from torch import nn

from pipeline.optim.lr_shares import declare_lr_share

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
_EMBEDDINGS = "encoder.embeddings."


def declare_layer_decay(model: nn.Module, decay: float) -> None:
    """Writes its share of the learning rate on every parameter of `model`.

    Layers that share their parameters count once. What follows the last layer (its norm, the
    masked-language-model head) has the full rate; a decoder that is tied is an embedding.
    """
    names = [name for name, _ in model.named_parameters()]
    num_layers = 1 + max(int(found[1]) for name in names if (found := _LAYER.match(name)))
    for name, parameter in model.named_parameters():
        declare_lr_share(parameter, decay ** (num_layers + 1 - depth_of(name, num_layers)))


def depth_of(name: str, num_layers: int) -> int:
    """0 for the embeddings, 1 for the first layer, `num_layers` + 1 for what follows the last."""
    found = _LAYER.match(name)
    if found:
        return int(found[1]) + 1
    return 0 if name.startswith(_EMBEDDINGS) else num_layers + 1
