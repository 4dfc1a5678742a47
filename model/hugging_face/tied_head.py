"""The masked-language-model head of BERT's kind: dense layer, activation, norm, tied decoder."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.hugging_face.tensors import TensorPair, layer_norm, linear, may_be_equal

if TYPE_CHECKING:
    from torch import Tensor


NOT_TIED = (
    "tie_word_embeddings False is not supported (only True): only ModernBERT and EuroBERT have "
    "decoders of their own; set it to true in config.json, and leave out the head, by "
    "start.leave_out, if its decoder is another matrix: it then starts at random"
)
"""What config.json says of a model whose decoder cannot be imported."""


@dataclass(frozen=True)
class HeadNames:
    """Names of the masked-language-model head's parts."""

    dense: str
    norm: str
    bias: str
    decoder: str
    """The decoder tied to the word embedding; it is not written, and read only to be compared."""

    def pairs(self, hidden: int, width: int, vocab_size: int) -> Iterator[TensorPair]:
        """The head from hidden states of `hidden` values to a decoder of `width`."""
        yield from linear("head.dense", self.dense, width, hidden)
        yield from layer_norm("head.norm", self.norm, width)
        yield TensorPair("head.bias", (self.bias,), (vocab_size,))

    def is_among(self, tensor_names: Iterable[str]) -> bool:
        """Whether the tensors include the head."""
        parts = (f"{self.dense}.", f"{self.norm}.", self.bias, f"{self.decoder}.")
        return any(name.startswith(parts) for name in tensor_names)

    def take_bias_of_decoder(self, state: "dict[str, Tensor]") -> None:
        """Some folders hold the bias as that of the decoder only."""
        decoder_bias = f"{self.decoder}.bias"
        if self.bias not in state and decoder_bias in state:
            state[self.bias] = state[decoder_bias]

    def superfluous(
        self,
        tensors: "Mapping[str, Tensor]",
        state: "Mapping[str, Tensor]",
        expected: Mapping[str, tuple[int, ...]],
        embedding: str,
    ) -> Iterator[str]:
        """A line for each of `tensors` that is not expected, decoders that are not tied included.

        `state` are the tensors of the folder, `embedding` is the name of the word embedding's.
        """
        tied = {f"{self.decoder}.weight": embedding, f"{self.decoder}.bias": self.bias}
        for name, tensor in tensors.items():
            if name in expected:
                continue
            parts = (self.dense, self.norm, self.bias, self.decoder)
            if self.bias not in expected and name.startswith(parts):
                continue
            twin = state.get(tied.get(name, ""))
            if twin is None:
                yield f"{name}: superfluous (shape {list(tensor.shape)})"
            elif not may_be_equal(tensor, twin):
                head = f"{self.decoder.rpartition('.')[0]}."
                yield (
                    f"{name}: differs from {tied[name]}, and only tied decoders can be imported: "
                    f"leave out the head (start.leave_out: ['{head}']), which then starts at random"
                )
