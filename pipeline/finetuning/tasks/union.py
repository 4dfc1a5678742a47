"""The tasks that a model can be fine-tuned on, in one union."""

from typing import Annotated

from pydantic import Field

from pipeline.finetuning.tasks.classification import Classification
from pipeline.finetuning.tasks.multi_label_classification import MultiLabelClassification
from pipeline.finetuning.tasks.multiple_choice import MultipleChoice
from pipeline.finetuning.tasks.regression import Regression
from pipeline.finetuning.tasks.span_question_answering import SpanQuestionAnswering
from pipeline.finetuning.tasks.token_classification import TokenClassification

FinetuneTask = Annotated[
    Classification
    | MultiLabelClassification
    | Regression
    | TokenClassification
    | SpanQuestionAnswering
    | MultipleChoice,
    Field(discriminator="type"),
]
