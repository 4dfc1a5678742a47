"""Word vectors of a discriminator that are stored as a sum, as one parameter.

With `objective.generator.embeddings: disentangled`, the discriminator's word vectors are those of
the generator plus its own.
"""

from dataclasses import replace

from pipeline.checkpoint.manifest import Checkpoint

WORD = "encoder.embeddings.word.weight"
SUMMANDS = (
    "generator.encoder.embeddings.word.weight",
    "encoder.embeddings.word.delta.weight",
)


def with_plain_vectors(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` with the sum among its parameters, if it holds the summands."""
    parameters = checkpoint.manifest.parameters
    if not set(SUMMANDS) <= parameters.keys():
        return checkpoint
    plain = {**parameters, WORD: parameters[SUMMANDS[1]]}
    manifest = checkpoint.manifest.model_copy(update={"parameters": plain})
    return replace(checkpoint, manifest=manifest)
