"""What the default filters keep of one manual in many languages.

``python -m benchmarks.data_languages [FOLDER] [--pages 400]``

LibreOffice's help pages in the languages of Debian (apt-get download, dpkg-deb), kept in FOLDER. A
page is measured if it exists in all of them and has 100 words and more in English. Prints a
Markdown table: for each language the share of its pages that is kept, and the most frequent reasons
to drop one.
"""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.data_corpus import debian_package
from configs import command
from data_prep.filters.language import DETECTION, language_of
from data_prep.filters.quality import FiltersConfig, drop_reasons
from data_prep.filters.verdicts import KEPT
from data_prep.readers.html import text_of_html
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise

LANGUAGES = (
    "en-us ca cs da de el es et eu fi fr gl hi hu id it ja km ko nl pl pt pt-br ru sl sv tr vi "
    "zh-cn zh-tw"
)
HELP = "usr/share/libreoffice/help"


def main() -> None:
    """Fetches the missing packages and prints the table."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("folder", nargs="?", type=Path, help="where the packages are kept")
    parser.add_argument("--pages", type=int, default=400, help="pages of each language")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        pages = {code: pages_of(folder, code) for code in LANGUAGES.split()}
        names = sorted(set.intersection(*(set(of) for of in pages.values())))
        names = [name for name in names if len(text_of(pages["en-us"][name]).split()) >= 100]
        names = names[:: max(len(names) // arguments.pages, 1)][: arguments.pages]
        print(f"{len(names)} pages\n\n| language | detected | kept | dropped |\n|---|---|---|---|")
        for code, of in pages.items():
            print_row(code, normalise([text_of(of[name]) for name in names]))


def pages_of(folder: Path, code: str) -> dict[str, Path]:
    """The help pages in a language by name."""
    root = folder / f"libreoffice-help-{code}"
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        debian_package(root.name, folder)
    text = min(
        (root / HELP).glob("*/text"), key=lambda path: len(path.parts[-2])
    )  # not ca-valencia
    return {str(path.relative_to(text)): path for path in text.rglob("*.html")}


def text_of(path: Path) -> str:
    """The text of a page."""
    return text_of_html(path.read_bytes(), "utf-8")


def print_row(code: str, texts: list[bytes]) -> None:
    """A row of the table."""
    reasons = drop_reasons(TextBatch(texts), FiltersConfig())
    detected = Counter(language_of(text, DETECTION) for text in texts).most_common(1)[0][0]
    dropped = Counter(reason for reason in reasons if reason != KEPT).most_common(3)
    kept = np.mean([reason == KEPT for reason in reasons])
    why = ", ".join(f"{reason} {number / len(texts):.1%}" for reason, number in dropped)
    print(f"| {code} | {detected} | {kept:.1%} | {why} |", flush=True)


if __name__ == "__main__":
    command.run(main)
