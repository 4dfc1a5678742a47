"""The kinds of task heads, by name. Imports no torch."""

from typing import Literal

HeadType = Literal[
    "sequence_classification",
    "sequence_regression",
    "token_classification",
    "span_question_answering",
    "multiple_choice",
]
"""`type` of the config of a head, see `model.task_heads`."""
