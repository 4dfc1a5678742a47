"""The names of the heads that objectives train."""

MLM_HEAD = "mlm"
"""The masked-language-model head among the heads of a model."""
REPLACED_HEAD = "replaced"
"""The discriminator's head: was this token replaced?"""
KEPT_SHARE = "kept"
"""The share of tokens that were not replaced, as a head: what always saying "not" gets right."""
