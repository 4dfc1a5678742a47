"""How a model is computed, as a frozen config: what changes speed and memory, not what is trained.

`model.config` says what is computed; that is the identity of a run. The choices here may differ
from start to start of one run, and between a model and those that start from its weights. Imports
no torch.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from configs.load import Config

SLOTS_AT_ONCE = 1024
"""Label slots whose logits exist at a time under an objective that predicts nearly all tokens."""

AttentionBackend = Literal["auto", "explicit", "sdpa", "flex", "varlen"]
SPARSE_BACKENDS = ("flex", "varlen")
"""Those that skip what no token sees, and read the keys and values of groups as they are."""


@dataclass(frozen=True)
class BreaksBitEquality:
    """Marks a config field that may change on resume, but gives up bit equality.

    The run continues from the same state, but its results differ from those of an uninterrupted
    run: by rounding, or by the dropout masks drawn. On the `type` of one of several configs, it
    concerns a change from or to that one.
    """

    where: str = ""
    """Of which results, if not of all."""


class KeepActivations(Config):
    """Activations of all layers are kept for the backward pass."""

    type: Literal["none"] = "none"


class CheckpointLayers(Config):
    """Only the input of every n-th layer is kept; the rest is computed again (Chen et al. 2016)."""

    type: Literal["layers"] = "layers"
    every: int = Field(1, gt=0)
    """n: the inputs of layers 0, n, 2n, ... are kept, and n layers are computed again at a time."""


class KeepProducts(Config):
    """The results of linear maps and of attention's kernel are kept; what is cheap to compute from
    them is computed again (selective recomputation, Korthikanti et al. 2022)."""

    type: Annotated[Literal["selective"], BreaksBitEquality("compiled layers")] = "selective"


ActivationCheckpointing = Annotated[
    KeepActivations | KeepProducts | CheckpointLayers, Field(discriminator="type")
]


def _word_of_switch(value: Any) -> Any:
    """YAML reads the bare words on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class ComputeConfig(Config):
    """How the model is computed. Every key may change when a run is resumed.

    Precision is not here: it decides results far beyond rounding, together with `loss_scale`.
    """

    activation_checkpointing: ActivationCheckpointing = KeepActivations()
    """Memory saved by computing layers again in the backward pass. Results stay bit-equal, but for
    the rounding of compiled layers under selective."""
    attention_backend: Annotated[AttentionBackend, BreaksBitEquality()] = "auto"
    """explicit: scores and softmax, fastest on a CPU; sdpa: torch's kernels, flash attention on
    CUDA; flex: FlexAttention, which skips masked blocks; varlen: flash attention of pieces, windows
    and grouped heads as they are (a CPU computes it slowly); auto: chosen by device and pattern."""
    sequence_parallel: Annotated[bool, BreaksBitEquality()] = False
    """Between blocks, shard hidden states by tokens over tensor-parallel ranks (Korthikanti et al.
    2022)."""
    vocabulary_multiple: Annotated[int, BreaksBitEquality()] = Field(128, gt=0)
    """The vocabulary is padded in memory to a multiple of this, the same at every tensor-parallel
    size; checkpoints hold no padding."""
    compile: Annotated[
        Literal["auto", "on", "off"], BeforeValidator(_word_of_switch), BreaksBitEquality()
    ] = "auto"
    """on: layers are compiled in training by torch.compile, which fuses dropout, bias, residual
    and norm; needs ZeRO 1 or 2, and on a CPU a C++ compiler; at parallel.tensor above 1 it is
    the parts of layers between the linears; off: they are not; auto: in pretraining on a GPU at
    parallel.tensor 1."""
    cuda_graphs: Annotated[Literal["auto", "on", "off"], BeforeValidator(_word_of_switch)] = "auto"
    """on: a micro-batch of pretraining is launched as one CUDA graph, so that the host does not
    hold up the GPU; needs ZeRO 1 and parallel.tensor 1; off: kernel by kernel; auto: off, until
    a GPU has run it. The kernels are the same, so results should stay bit-equal."""
    deterministic: Annotated[bool, BreaksBitEquality()] = True
    """True: only CUDA kernels that give the same bits every time, so that a resumed run is equal to
    an uninterrupted one. False: the fastest kernels, which add in varying order."""

    def in_fp32(self) -> "ComputeConfig":
        """The same for tools that compute in fp32, for which varlen has no kernels on a GPU."""
        if self.attention_backend != "varlen":
            return self
        return self.model_copy(update={"attention_backend": "auto"})

    def padded_vocab_size(self, vocab_size: int) -> int:
        """Rows of the embedding matrix, over all tensor-parallel ranks."""
        return -(-vocab_size // self.vocabulary_multiple) * self.vocabulary_multiple


def compiles_layers(compute: ComputeConfig, device_type: str, tp_size: int) -> bool:
    """Whether layers are compiled; megatron-core's linears at `tp_size` > 1 cannot be."""
    chosen = device_type == "cuda" if compute.compile == "auto" else compute.compile == "on"
    return chosen and tp_size == 1


def compiles_parts(compute: ComputeConfig, tp_size: int) -> bool:
    """Whether the parts of layers between megatron-core's linears are compiled."""
    return compute.compile == "on" and tp_size > 1


MOVED_KEYS = {
    "model.activation_checkpointing": "compute.activation_checkpointing",
    "model.attention_backend": "compute.attention_backend",
    "model.sequence_parallel": "compute.sequence_parallel",
    "model.vocabulary_multiple": "compute.vocabulary_multiple",
    "deterministic": "compute.deterministic",
}
"""New paths of a run's config keys by their old ones, which stay readable."""
