"""MediaWiki XML dumps: articles, with the markup reduced to plain text."""

from collections.abc import Iterator
from typing import Literal, NamedTuple
from xml.etree.ElementTree import ParseError, fromstring

from data_prep.readers.archives import ArchiveReader
from data_prep.readers.content import open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, byte_spans
from data_prep.readers.reader import FilesConfig, Reader
from data_prep.readers.wiki_pages import DAMAGED_XML, can_be_cut, dump_pages
from data_prep.readers.wiki_site import WikiSite, site_of
from data_prep.readers.wikitext import is_redirect, plain_text

_MAX_ELEMENTS = 1_000_000
"""Of a page; those of its markup are escaped and do not count."""
_MAX_MARKUP_CHARACTERS = 1 << 22
"""MediaWiki itself stores up to 2 MiB (its default)."""
_WIKITEXT = "wikitext"


class MediaWikiReaderConfig(FilesConfig):
    """MediaWiki XML dumps (pages-articles), plain, compressed or in archives."""

    type: Literal["mediawiki"]
    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces to read; 0 holds the articles."""
    metadata_fields: tuple[Literal["title"], ...] = ()
    """What is stored with the documents, and what filters can use."""

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(MediaWikiReader(self), self)


class MediaWikiReader:
    """Reads MediaWiki dumps."""

    def __init__(self, config: MediaWikiReaderConfig) -> None:
        self._namespaces = set(config.namespaces)
        self._metadata_fields = config.metadata_fields

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a page belongs to the range in which it, or its bzip2 stream, starts.

        A file with another compression is one span, and so in effect is a .bz2 file of a single
        stream.
        """
        with open_content(file) as content:
            is_cut = can_be_cut(content)
        return byte_spans(file, part_bytes) if is_cut else [Span(file, 0, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The articles, without redirects; the title is the first line."""
        path = span.file.path
        with open_content(span.file) as opened:
            head, pages = dump_pages(opened, span, bad)
            site = site_of(head)
            for offset, content in pages:
                if bad.has_too_many(content, b"<", _MAX_ELEMENTS, path, offset):
                    continue
                try:
                    page = _page_of(content, site)
                except (ParseError, ValueError) as error:
                    bad.add(path, offset, DAMAGED_XML, str(error), len(content))
                    continue
                if page is None:
                    bad.add(path, offset, "page without title or text", num_bytes=len(content))
                elif len(page.markup) > _MAX_MARKUP_CHARACTERS:
                    bad.add(path, offset, "longer than a wiki page", num_bytes=len(content))
                elif page.text_is_elsewhere:
                    reason = "the text of the page is not in the dump"
                    bad.add(path, offset, reason, num_bytes=len(content))
                elif (text := self._text_of(page, site)).skipped:
                    bad.skip(text.skipped, len(content), path, offset)
                else:
                    document = f"{page.title}\n\n{text.text}"
                    metadata = {"title": page.title} if self._metadata_fields else None
                    name = f"{span.file.name}:{page.title}"
                    yield Document(document, name, offset, metadata)

    def _text_of(self, page: "_Page", site: WikiSite) -> "_Text":
        """The text of a page, or why it has none."""
        if page.namespace not in self._namespaces:
            return _Text(skipped=f"wiki page of namespace {page.namespace}")
        if page.is_redirect or is_redirect(page.markup, site):
            return _Text(skipped="wiki redirect")
        if page.model != _WIKITEXT:
            return _Text(skipped=f"wiki page of content model {page.model[:40]}")
        text = plain_text(page.markup, site, page.title)
        return _Text(text) if text else _Text(skipped="wiki page without text")


class _Text(NamedTuple):
    text: str = ""
    skipped: str = ""
    """The kind of page that it is, if it is not read."""


class _Page(NamedTuple):
    """A page of a dump, in its newest revision."""

    title: str
    namespace: int
    is_redirect: bool
    model: str
    markup: str
    text_is_elsewhere: bool
    """Whether the dump holds the size of the text only (a stub dump)."""


def _page_of(content: bytes, site: WikiSite) -> _Page | None:
    """The page of this XML; None if it lacks what every page has. Raises ParseError or ValueError
    if it is not XML."""
    page = fromstring(content)
    title, text = page.findtext("title"), page.find(".//text")
    if not title or text is None:
        return None
    namespace = _number(page.findtext("ns"))  # missing before version 0.6 of the format
    markup = text.text or ""
    return _Page(
        title,
        site.namespace_of(title) if namespace is None else namespace,
        page.find("redirect") is not None,
        page.findtext(".//model") or _WIKITEXT,
        markup,
        not markup and "deleted" not in text.attrib and (_number(text.get("bytes")) or 0) > 0,
    )


def _number(text: str | None) -> int | None:
    stripped = (text or "").strip()
    return int(stripped) if stripped.lstrip("-").isdecimal() else None
