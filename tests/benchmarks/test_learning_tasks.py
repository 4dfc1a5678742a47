"""The tasks of benchmarks.learning: what is read of each package, and how it is divided."""

from pathlib import Path

import pytest

from benchmarks.learning_studies import few_labels
from benchmarks.learning_studies.labelled import Labelled, Sizes, divided, read_examples, split_of
from benchmarks.learning_studies.linear import cut_texts, tagging_accuracy, text_accuracy
from benchmarks.learning_studies.task_sources import (
    parse_definitions,
    parse_descriptions,
    parse_movie_reviews,
    parse_tagged,
)
from benchmarks.learning_studies.tasks import labels_of, task_file, write_task
from data_prep.tokenization.train import train_tokenizer


def test_ratings_become_two_classes_and_neutral_ones_go() -> None:
    text = "7\t2.5\tA joy .\n8\t-0.1\tNot a\tjoy .\n9\t0.0\tA film .\n"
    found = [(e.group, e.text, e.labels) for e in parse_movie_reviews(text)]
    assert found == [("7", "A joy .", ("positive",)), ("8", "Not a\tjoy .", ("negative",))]


def test_descriptions_are_joined_by_their_hash_and_one_of_a_source_is_taken() -> None:
    packages = (
        "Package: a-bin\nSource: a (1.0)\nSection: games\nDescription: short\nDescription-md5: 11\n"
        "\nPackage: a-data\nSource: a\nSection: games\nDescription-md5: 12\n"
        "\nPackage: lib\nSection: libs\nDescription-md5: 13\n"
        "\nPackage: m\nSection: mail\nDescription-md5: 14\n"
        "\nPackage: gone\nSection: mail\nDescription-md5: 15\n"
    )
    descriptions = "".join(
        f"Package: x\nDescription-md5: {n}\nDescription-en: short {n}\n It is: long.\n .\n * a\n\n"
        for n in (11, 12, 13, 14)
    )
    found = [(e.group, e.text, e.labels) for e in parse_descriptions(packages, descriptions)]
    assert found == [
        ("a", "short 11 It is: long. * a", ("games",)),
        ("m", "short 14 It is: long. * a", ("mail",)),
    ]


def test_definitions_have_no_examples_and_no_words_that_they_define() -> None:
    text = (
        "  1 the licence\n"
        '00001 05 n 01 dog 0 000 | a small tame animal; "the dog barked"  \n'
        "00002 03 n 01 entity 0 000 | that which is perceived  \n"
        "00003 18 n 01 cook 0 000 | someone who; cooks food  \n"
    )
    found = [(e.text, e.labels) for e in parse_definitions(text)]
    assert found == [
        ("a small tame animal", ("animal",)),
        ("someone who; cooks food", ("person",)),
    ]


def test_tags_follow_the_last_slash() -> None:
    text = "and/or/CC 1/2/CD is/VBZ a/DT half/NN ./.\nToo/RB short/JJ\na/NN|JJ b/X c/X d/X e/X\n"
    (found,) = parse_tagged(text)
    assert found.words == ("and/or", "1/2", "is", "a", "half", ".")
    assert found.labels == ("CC", "CD", "VBZ", "DT", "NN", ".")


def examples(count: int) -> list[Labelled]:
    words = {"good": ("fine", "great"), "bad": ("poor", "dull")}
    return [
        Labelled(str(n // 3), (f"{words[label][n % 2]} number {n}",), (label,))
        for n in range(count)
        for label in ("good", "bad")
    ]


def test_groups_stay_together_and_repeated_texts_go() -> None:
    splits = divided([*examples(200), *examples(200)], Sizes(60, 20, 40), balanced=True)
    assert [len(found) for found in splits.values()] == [60, 20, 40]
    for name, found in splits.items():
        assert {split_of(e.group) for e in found} == {name}
        assert sum(e.labels == ("good",) for e in found) == len(found) / 2
    texts = [e.text for found in splits.values() for e in found]
    assert len(set(texts)) == len(texts)
    assert splits == divided(examples(200)[::-1], Sizes(60, 20, 40), balanced=True)


def test_files_are_read_back_and_unknown_labels_are_left_out(tmp_path: Path) -> None:
    train = [Labelled("1", ("a", "b"), ("X", "Y"))]
    other = [Labelled("2", ("c", "d"), ("X", "Z")), Labelled("3", ("e",), ("Y",))]
    write_task(tmp_path, "tagging", {"train": train, "dev": other, "test": other})
    assert [e.words for e in read_examples(task_file(tmp_path, "tagging", "dev"))] == [("e",)]
    assert labels_of(tmp_path, "tagging") == ["X", "Y"]


def test_linear_models_learn_words_and_their_neighbours() -> None:
    splits = divided(examples(100), Sizes(80, 20, 40), balanced=True)
    assert text_accuracy(splits) == 1.0
    pairs = [("to", "run", "VB"), ("a", "run", "NN"), ("to", "walk", "VB"), ("a", "walk", "NN")]
    sentences = [Labelled("", (w, v), ("X", tag)) for w, v, tag in pairs * 5]
    same = dict.fromkeys(("train", "dev", "test"), sentences)
    assert tagging_accuracy(same, neighbours=0) == 0.75  # half of the second words are ambiguous
    assert tagging_accuracy(same, neighbours=2) == 1.0


def test_linear_models_read_as_much_of_a_text_as_networks(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = train_tokenizer(["one two three four"] * 60, 270)
    tokenizer.save(str(path))
    example = Labelled("g", ("one two three four",), ("X",))
    tokens = len(tokenizer.encode("one two", add_special_tokens=False).ids)
    (cut,) = cut_texts([example], path, tokens)
    assert cut == Labelled("g", ("one two",), ("X",))
    assert cut_texts([example], path, 100) == [example]


def test_few_labels_are_the_first_examples_and_their_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_labels, "EXAMPLES", 3)
    labels = ["a", "b", "a", "c", "b"]
    examples = [Labelled("", (f"text {n}",), (label,)) for n, label in enumerate(labels)]
    write_task(tmp_path, "sentiment", dict.fromkeys(("train", "dev", "test"), examples))
    few_labels.write_few(tmp_path, tmp_path / "few", "sentiment")
    files = {split: task_file(tmp_path / "few", "sentiment", split) for split in ("train", "test")}
    texts = {split: [e.text for e in read_examples(path)] for split, path in files.items()}
    assert texts["train"] == ["text 0", "text 1", "text 2"]
    assert texts["test"] == ["text 0", "text 1", "text 2", "text 4"]  # not the unknown class
