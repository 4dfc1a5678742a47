"""SQuAD's JSON, versions 1.1 and 2.0, as published."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from configs.load import Config
from pipeline.finetuning.inputs.fields import Fields
from pipeline.finetuning.inputs.json_files import items_of, read_json_file, record_of
from pipeline.finetuning.inputs.record import BadRecord, Record


class Squad(Config):
    """Articles with paragraphs with questions; `plausible_answers` are not read."""

    type: Literal["squad"] = "squad"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The questions of a file, each with its context."""
        articles = items_of(read_json_file(path), path)
        for number, article in enumerate(articles):
            paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
            if not isinstance(paragraphs, list):
                error = BadRecord("syntax", "an article without a list of paragraphs")
                yield Record(f"data[{number}]", error=error)
                continue
            for at, paragraph in enumerate(paragraphs):
                place = f"data[{number}].paragraphs[{at}]"
                yield from _questions(place, paragraph, fields)


def is_squad(tree: Any) -> bool:
    """Whether the value of a JSON file has SQuAD's form."""
    data = tree.get("data") if isinstance(tree, Mapping) else None
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, Mapping) and "paragraphs" in first


def _questions(place: str, paragraph: Any, fields: Fields) -> Iterator[Record]:
    questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
    if not isinstance(questions, list):
        yield Record(place, error=BadRecord("syntax", "a paragraph without a list of qas"))
        return
    for number, question in enumerate(questions):
        where = f"{place}.qas[{number}]"
        if isinstance(question, Mapping):
            if "id" in question:
                where += f" (id {question['id']})"
            question = {**question, "context": paragraph.get("context")}
        yield record_of(where, question, fields)
