"""MediaWiki dumps: which pages are read, by what the dump says of its wiki."""

import bz2
import gzip
import re
import time
from pathlib import Path

import pytest

from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import WHOLE_BYTES, read_documents, reader_config

GERMAN = """<siteinfo><dbname>dewiki</dbname><namespaces>
<namespace key="-2" case="first-letter">Medium</namespace>
<namespace key="0" case="first-letter" />
<namespace key="1" case="first-letter">Diskussion</namespace>
<namespace key="6" case="first-letter">Datei</namespace>
<namespace key="14" case="case-sensitive">Kategorie</namespace>
<namespace key="100" case="first-letter">Portal</namespace></namespaces></siteinfo>
"""
MARKUP = """[[Datei:Bild.jpg|mini|Ein [[Bild]]]]
Das [[Haus]] ist [[Bild:Alt.png|links]] alt. [[:Kategorie:Haus|Siehe]] [[en:House]]
[[Kategorie: Haus]] [[category:Haus]]"""


def page(title: str, markup: str = "Some text.", ns: int | None = 0, rest: str = "") -> str:
    number = "" if ns is None else f"<ns>{ns}</ns>"
    escaped = markup.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f"<page><title>{title}</title>{number}<id>1</id>{rest}"
        f'<revision><id>1</id><text xml:space="preserve">{escaped}</text></revision></page>\n'
    )


def dump(*pages: str, siteinfo: str = "") -> str:
    return f"<mediawiki>\n{siteinfo}{''.join(pages)}</mediawiki>\n"


def read(
    folder: Path, content: str | bytes, part_bytes: int = WHOLE_BYTES, name: str = "a.xml"
) -> tuple[dict[str, str], BadRecords]:
    """The texts by title, without it, and what was not read."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    config = reader_config({"type": "mediawiki", "files": [str(path)]})
    reader, bad = config.build(), BadRecords("skip")
    texts = {}
    for file in list_files(config.files, "files"):
        for span in reader.spans(file, part_bytes):
            for document in reader.read(span, bad):
                title, _, text = document.text.partition("\n\n")
                texts[title] = text
    return texts, bad


@pytest.mark.parametrize("part_bytes", [WHOLE_BYTES, 300])
@pytest.mark.parametrize("suffix", ["", ".bz2", ".gz"])
def test_namespaces_are_those_of_the_dump(tmp_path: Path, suffix: str, part_bytes: int) -> None:
    """Wherever the file is cut: the names are in its head."""
    head = dump(siteinfo=GERMAN).removesuffix("</mediawiki>\n").encode()
    pages = [page(f"Haus {n}", MARKUP).encode() for n in range(20)]
    pieces = [head, *pages, b"</mediawiki>\n"]
    content = b"".join(bz2.compress(p) if suffix == ".bz2" else p for p in pieces)
    content = gzip.compress(content) if suffix == ".gz" else content
    texts, bad = read(tmp_path, content, part_bytes, f"a.xml{suffix}")
    assert list(texts) == [f"Haus {n}" for n in range(20)]
    assert {" ".join(text.split()) for text in texts.values()} == {"Das Haus ist alt. Siehe"}
    assert not bad.counts


@pytest.mark.parametrize(
    "markup", ["[[Fichier:a.jpg|vignette]]", "[[カテゴリ:パン]]", "[[Bild:a|b]]"]
)
def test_without_siteinfo_the_names_of_all_languages_are_known(tmp_path: Path, markup: str) -> None:
    texts, _ = read(tmp_path, dump(page("A", f"Text.\n{markup}")))
    assert texts == {"A": "Text."}


def test_pages_of_old_dumps_have_their_namespace_in_the_title(tmp_path: Path) -> None:
    pages = [
        page(title, ns=None)
        for title in ("Haus", "diskussion:Haus", "Datei:A", "Bild:A", "Portal:A", "Talk:A", "A: b")
    ]
    texts, bad = read(tmp_path, dump(*pages, siteinfo=GERMAN))
    assert list(texts) == ["Haus", "A: b"]
    assert bad.skipped == {
        "wiki page of namespace 1": 2,
        "wiki page of namespace 6": 2,
        "wiki page of namespace 100": 1,
    }


def test_pages_without_text_to_train_on_are_counted_by_kind(tmp_path: Path) -> None:
    module = page("M").replace("<text", "<model>Scribunto</model><format>text/plain</format><text")
    deleted = re.sub("<text.*</text>", '<text deleted="deleted" />', page("D"))
    stub = re.sub("<text.*</text>", '<text id="7" bytes="90" />', page("S"))
    pages = [
        page("R", "#REDIRECT [[A]]"),
        page("W", "#Weiterleitung[[A]] {{x}}"),
        page("П", "#перенаправление [[A]]"),
        page("E", "anything", rest='<redirect title="A" />'),
        page("U", "Hello", ns=3),
        module,
        deleted,
        page("T", "{{Infobox|a=b}}"),
        stub,
        page("L", "# [[A]]\n# [[B]]"),
    ]
    texts, bad = read(tmp_path, dump(*pages))
    assert list(texts) == ["L"]
    assert bad.skipped == {
        "wiki redirect": 4,
        "wiki page of namespace 3": 1,
        "wiki page of content model Scribunto": 1,
        "wiki page without text": 2,
    }
    assert bad.skipped_bytes["wiki page of namespace 3"] == len(pages[4].strip())
    assert bad.counts == {"the text of the page is not in the dump": 1}


@pytest.mark.parametrize("part_bytes", [WHOLE_BYTES, 500])
def test_of_several_revisions_the_last_one_is_read(tmp_path: Path, part_bytes: int) -> None:
    revision = "<revision><id>{0}</id><text>{1}</text></revision>"
    history = "".join(revision.format(n, f"version {n} " * 99) for n in range(30))
    many = f"<page><title>A</title><ns>0</ns>{history}</page>\n"
    texts, bad = read(tmp_path, dump(page("B"), many, page("C")), part_bytes)
    assert {title: text[:10] for title, text in texts.items()} == {
        "B": "Some text.",
        "A": "version 29",
        "C": "Some text.",
    }
    assert bad.skipped == {"older revision of a wiki page": 29}
    older = "".join(revision.format(n, f"version {n} " * 99) for n in range(29))
    assert bad.skipped_bytes == {"older revision of a wiki page": len(older)}


def test_older_revisions_are_not_held_in_memory(tmp_path: Path) -> None:
    """A page's history may be far longer than a document."""
    revision = "<revision><id>1</id><text>" + "old " * 100_000 + "</text></revision>"
    last = "<revision><id>2</id><text>new</text></revision>"
    content = dump(f"<page><title>A</title><ns>0</ns>{revision * 30}{last}</page>")
    (tmp_path / "a.xml").write_text(content)
    documents, bad = read_documents(
        tmp_path / "a.xml", type="mediawiki", max_document_bytes=300_000
    )
    assert (documents, bad) == ([("A\n\nnew", "a.xml:A")], {})


def test_a_page_that_damage_cuts_is_counted(tmp_path: Path) -> None:
    content = dump(page("A"), page("B"), page("C"))
    cut = content.index("<title>B") + 5
    streams = [
        content[:cut].encode(),
        content[cut : cut + 40].encode(),
        content[cut + 40 :].encode(),
    ]
    packed = [bytearray(bz2.compress(stream)) for stream in streams]
    packed[1][20] ^= 0xFF
    texts, bad = read(tmp_path, b"".join(packed), name="a.xml.bz2")
    assert list(texts) == ["A", "C"]
    assert bad.counts == {"damaged or truncated compression": 1, "damaged or truncated XML": 1}
    assert bad.not_read_bytes == {"damaged or truncated compression": len(packed[1])}


def test_a_dump_without_its_end_is_a_cut_file(tmp_path: Path) -> None:
    content = dump(page("A"), page("B"))
    texts, bad = read(tmp_path, content[: content.index("<title>B")])
    assert list(texts) == ["A"]
    assert list(bad.cut_files.values()) == ["the file does not end with </mediawiki>"]
    assert bad.counts["damaged or truncated XML"] == 1


@pytest.mark.parametrize("suffix", ["", ".bz2", ".gz"])
def test_a_dump_in_utf_16_is_read(tmp_path: Path, suffix: str) -> None:
    content = dump(page("Ä"), page("Б", MARKUP), siteinfo=GERMAN).encode("utf-16")
    packed = {"": content, ".bz2": bz2.compress(content), ".gz": gzip.compress(content)}
    texts, bad = read(tmp_path, packed[suffix], part_bytes=50, name=f"a.xml{suffix}")
    assert list(texts) == ["Ä", "Б"]
    assert "Bild" not in texts["Б"]
    assert not bad.counts


@pytest.mark.parametrize("part_bytes", [WHOLE_BYTES, 100])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_page_without_its_end_costs_that_page(
    tmp_path: Path, suffix: str, part_bytes: int
) -> None:
    """Its title never gets the text of the page after it."""
    cut = page("B", "Text of B.").removesuffix("</page>\n")
    content = dump(page("A"), cut, cut, page("C")).encode()
    content = gzip.compress(content) if suffix else content
    texts, bad = read(tmp_path, content, part_bytes, f"a.xml{suffix}")
    assert list(texts) == ["A", "C"]
    assert bad.counts == {"damaged or truncated XML": 2}
    assert bad.num_bytes.total() == 2 * len(cut)
    assert not bad.skipped


def test_a_file_that_is_no_dump_is_counted_with_its_bytes(tmp_path: Path) -> None:
    content = b"<html><p>This is no dump.</p></html>" * 99
    texts, bad = read(tmp_path, content, 500)
    assert not texts
    assert bad.counts == {"no MediaWiki dump": 1}
    assert bad.not_read_bytes.total() == len(content)


def test_many_pages_without_an_end_take_linear_time(tmp_path: Path) -> None:
    num_pages = 300_000
    start = time.process_time()
    _, bad = read(tmp_path, b"<mediawiki>" + b"<page>" * num_pages + b"</mediawiki>")
    assert time.process_time() - start < 20
    assert bad.counts == {"damaged or truncated XML": num_pages}
