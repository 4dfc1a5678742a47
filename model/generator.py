"""The sizes of the generator of replaced-token detection. Imports no torch."""

import itertools
from collections.abc import Iterator

from pydantic import ValidationError

from configs.load import ConfigError
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.grid_check import check_grid
from model.head_options import NoHeadTransform, NoPooler
from model.objectives.replaced_tokens import ReplacedTokensConfig, SmallGenerator
from model.size import count_head_parameters, count_parameters, count_vectors
from model.weight_options import RandomEmbeddings

INNER_WIDTH_MULTIPLE = 8
"""The generator's inner width is a multiple of this."""


def generator_config(model: ModelConfig, generator: SmallGenerator) -> ModelConfig:
    """The architecture of the generator of `model`: the same with fewer heads and layers.

    Where it uses vectors of the model's embeddings, it has their width, with a linear layer from
    there to its own hidden width and the dense layer of the head back. What stands on the encoder
    besides that head belongs to the model. Raises ValueError where no such model exists.
    """
    groups, heads = _heads(model, generator.width)
    hidden = heads * model.head_size
    inner = model.ffn_hidden_size * hidden / model.hidden_size / INNER_WIDTH_MULTIPLE
    layers = max(1, round(model.num_layers * generator.depth))
    embedding_size = model.embedding_size
    if generator.embeddings != "separate" and hidden != model.embedding_width:
        embedding_size = model.embedding_width
    sharing = model.parameter_sharing
    if sharing.type == "groups":
        fewer = {"num_groups": min(sharing.num_groups, layers), "pooler": False}
        sharing = sharing.model_copy(update=fewer)
    changes = {
        "num_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": groups if model.num_key_value_heads is not None else None,
        "ffn_hidden_size": max(1, round(inner)) * INNER_WIDTH_MULTIPLE,
        "embedding_size": embedding_size,
        "head_layers": model.head_layers or embedding_size is not None,
        "pooler": NoPooler(),
        "head_transform": NoHeadTransform(),
        "parameter_sharing": sharing,
        "embedding_start": RandomEmbeddings(),
    }
    return ModelConfig.model_validate({**model.model_dump(), **changes})


def _heads(model: ModelConfig, width: float) -> tuple[int, int]:
    """(key/value heads, heads) of a generator of `width`, at least one each."""
    groups = max(1, round(model.key_value_heads * width))
    return groups, groups * max(1, round(model.num_attention_heads * width / groups))


def generator_of(model: ModelConfig, objective: ReplacedTokensConfig) -> ModelConfig:
    """The architecture of the generator of `objective`: `model` itself if it is shared."""
    if objective.generator.type == "shared":
        return model
    return generator_config(model, objective.generator)


def has_summed_vectors(objective: ReplacedTokensConfig) -> bool:
    """Whether the discriminator's word vectors are the generator's plus its own."""
    generator = objective.generator
    return generator.type == "small" and generator.embeddings == "disentangled"


def count_generator_parameters(
    model: ModelConfig, vocab_size: int, objective: ReplacedTokensConfig
) -> int:
    """Parameters that the objective adds to those of a masked language model, with the head of the
    discriminator, which has no vocabulary."""
    added = model.hidden_size * (model.hidden_size + 1) + model.hidden_size + 1
    if objective.generator.type == "shared":
        return added
    generator = generator_config(model, objective.generator)
    added += count_parameters(generator, vocab_size) - count_head_parameters(model, vocab_size)
    if objective.generator.embeddings == "shared":
        added -= count_vectors(generator, vocab_size) * model.embedding_width
    return added


def check_generator(
    model: ModelConfig, compute: ComputeConfig, objective: ReplacedTokensConfig, tp_size: int
) -> None:
    """Raises ConfigError for what replaced-token detection does not work with on `tp_size` ranks,
    by name."""
    errors = list(_disagreements(model, objective))
    if objective.generator.type == "small":
        try:
            check_grid(generator_config(model, objective.generator), compute, tp_size)
        except ValueError as error:
            errors.append(
                f"objective.generator with width {objective.generator.width:g}: "
                f"{_reason(error)}; change "
                "objective.generator.width or parallel.tensor"
            )
    if errors:
        raise ConfigError("\n".join(errors))


def _reason(error: ValueError) -> str:
    """What is wrong, in one line, without pydantic's frame."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())


def _disagreements(model: ModelConfig, objective: ReplacedTokensConfig) -> Iterator[str]:
    if model.frozen.type != "nothing":
        yield (
            f"objective replaced_tokens does not go with model.frozen {model.frozen.type}: its "
            "generator and its discriminator are trained whole"
        )
    generator = objective.generator
    if generator.type != "small":
        return
    if generator.width < 1 and _heads(model, generator.width)[1] == model.num_attention_heads:
        enough = next(n for n in itertools.count(2) if max(1, round(n * generator.width)) < n)
        yield (
            f"objective.generator.width {generator.width:g} would be as wide as the model, which "
            f"has {model.num_attention_heads} attention head(s), and a generator only whole ones: "
            f"set model.num_attention_heads to {enough} or more, or objective.generator.width to 1"
        )
    if generator.embeddings == "shared":
        return
    if model.embedding_start.type != "random":
        yield (
            f"model.embedding_start {model.embedding_start.type} does not go with "
            f"objective.generator.embeddings {generator.embeddings}: use shared"
        )
