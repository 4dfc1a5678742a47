"""The text of wiki markup: what is text, what is not, and in what time."""

import time
from collections.abc import Callable

import pytest

from data_prep.readers.wiki_site import site_of
from data_prep.readers.wikitext import is_redirect, plain_text

GERMAN = site_of(
    b"<mediawiki xml:lang='de'><siteinfo><namespaces><namespace key='6'>Datei</namespace>"
    b"<namespace key='10'>Vorlage</namespace><namespace key='100'>Portal</namespace></namespaces>"
    b"</siteinfo>"
)

MARKUP = {
    # bold and italic
    "l'''eau''": "l'eau",
    "L''''homme'''": "L'homme",
    "'''''x''''' and ''y''": "x and y",
    "it's ''a b's''": "it's a b's",
    # what is no markup
    "<nowiki>''[[x]]'' {{y}}</nowiki>": "''[[x]]'' {{y}}",
    "<nowiki>== no heading ==</nowiki>\nText": "== no heading ==\nText",
    "<pre>\n* [[b]]\n= c =</pre>": "* [[b]]\n= c =",
    "&lt;ref&gt; &#91;&#91;a]] &amp;amp; &euro;": "<ref> [[a]] &amp; €",
    "a<b and std::vector<int> <foo>": "a<b and std::vector<int> <foo>",
    "main() f(x)": "main() f(x)",
    # comments, tags, references
    "a<!-- [[b]] -->c": "ac",
    "a\n<!-- a line -->\nb": "a\nb",
    "a<!-- not closed": "a not closed",
    "a<ref name=x/>b<ref>c {{d}} <!-- e --></ref>f": "abf",
    "<ref>not closed": "not closed",
    "<gallery>\nA.jpg|b\n</gallery>c<math>x^2</math>": "c",
    "a<br/>b <small>c</small> <code>d = e</code>": "a\nb c d = e",
    # tables
    "a\n{|\n| b\n{| class=c\n| d\n|}\n|}\ne": "a\n\ne",
    "{{Box|\n{|\n| a\n|}\n}}b": "b",
    "{||border=0\n| a || b\n|}\nc": "c",
    "<table><tr><td><table>a</table>b</td></tr></table>c": "c",
    "a\n{| not closed\n|-\n| b\n! c\nthe rest": "a\nthe rest",
    # links
    "[[bus]]es [[a|b]] [[a|b|c]] [[Foo (bar)|]]": "buses b b|c Foo",
    "[http://a.b ''text''] [http://a.b] http://c.d [[http://e.f g]]": "text  http://c.d g",
    "[not a link] [[a\nb]]": "[not a link] [[a\nb]]",
    "[[Datei:a.jpg|mini|b [[c]] [http://d e]]]f": "f",
    "[[Bild:a.jpg]][[File:b]][[ image : c|d]][[Medium:x]]g": "g",
    "[[:Datei:a.jpg|b]] [[:Kategorie:c]]": "b Kategorie:c",
    "[[Kategorie:a]]\n[[Category:b|c]]\nd": "d",
    "[[en:Bread]][[zh-min-nan:x]]a [[:fr:Pain]] [[wikt:b|c]] [[Portal:D]]": "a fr:Pain c Portal:D",
    # templates
    "{{Infobox|a={{b|c}}|d=[[e]]}}F": "F",
    "{{lang|fr|texte}} {{Lang-ru|Москва́}} {{transl|ja|ISO|kana}}": "texte Москва́ kana",
    "{{Lang|en|E = mc}} {{lang|en|[http://a?b=c d=e]}}": "E = mc d=e",
    "{{nobr|1=a b}} {{Vorlage:small|c}} {{abbr|d|e}} {{sup|2}}": "a b c d 2",
    "{{convert|5|km}}, {{cvt|5|-|10|km|mi|abbr=on}}": "5 km, 5–10 km",
    "{{convert|6|ft|2|in|m}}, {{convert|100|km2|0}}": "6 ft 2 in, 100 km²",
    "{{convert|1.5|e6acre}} {{convert|7|and(-)|8|C}}": "1.5 million acre 7 and 8 °C",
    "{{formatnum:1234}} {{uc:a}} {{PAGENAME}} {{!}}": "1234 A Titel |",
    "{{nihongo|Tokyo|東京|Tōkyō}} {{as of|2011|6|20}}": "Tokyo (東京, Tōkyō) As of 20 June 2011",
    "a\n{{Zitat|Text=Ja.|Autor=B}}\n{{quote|No.|C}}": "a\n\nJa.\n\nNo.",
    "{{s-|XIX|e}} {{nombre|5|hab.}} {{circa|1900}} {{US$|5}}": "XIXe siècle 5 hab. c. 1900 US$5",
    '{{HMS|Victory|1765|6}} {{"|Ja}} {{citation needed span|text=b}}': "HMS Victory (1765) Ja b",
    "{{color|red|a}} {{resize|b}} {{sfn|c}}{{flagicon|d}}e": "a b e",
    "{{unité|5|km}} {{XIXe siècle}} {{Citation|mot}}": "5 km XIXe siècle \nmot",
    "{{{1|default}}} {{{2}}}a": "default a",
    "Rome ({{IPA-it|x}}; born 3) lies ({{x}}, {{y}}) here": "Rome (born 3) lies here",
    "{{not closed [[a]]\nText": "{{not closed a\nText",
    "a }} b ]] c |} d": "a }} b ]] c |} d",
    # magic words
    "__INHALTSVERZEICHNIS__ a __NOTOC__ __notoc__ __目次__ __БЕЗ_ОГЛ__": "a",
    "__init__ and __FILE__ and __VA_ARGS__": "__init__ and __FILE__ and __VA_ARGS__",
    # variants of Chinese
    "-{zh-hant:繁; zh-hans:简}-体-{H|zh-cn:a;zh-tw:b}-": "简体",
    "-{zh-tw:a}- -{R|b}- -{c}- x-{{small|y}}": "a b c x-y",
    # lines
    "* a\n** b\n# c\n:: d\n; e\n----\n*": "a\n b\n c\n d\n e",
    "== A ==\n=== B ===\n{{x}}\n== C ==\nText\n=== D ===\n": "C\nText",
    "== A ==\n\n=== B ===\nText": "A\n\nB\nText",
}


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_becomes_text(markup: str) -> None:
    assert plain_text(markup, GERMAN, "Titel") == MARKUP[markup]


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("#REDIRECT [[A]]", True),
        ("#redirect: [[A]] {{R}}\n\nmore", True),
        ("#WEITERLEITUNG[[A]]", True),
        ("＃転送 [[A]]", True),
        ("#OFANAWORDNOBODYKNOWS [[A]]\n[[Category:B]]", True),
        ("# [[A]]", False),
        ("#First [[A]] was", False),
        ("A", False),
    ],
)
def test_redirects_are_known_in_every_language(markup: str, expected: bool) -> None:
    assert is_redirect(markup, GERMAN) is expected


Repeat = Callable[[int], str]
REPEATED: dict[str, Repeat] = {
    **{
        mark: lambda n, mark=mark: mark * n  # type: ignore[misc]
        for mark in (
            *(
                "{{",
                "{{{",
                "[[",
                "''",
                "'''' ",
                "{|\n",
                "<ref>",
                "<!--",
                "-{",
                "[",
                "|",
                "&a",
                "__a",
            ),
            *("{{a|", "[[a|", "{{a|[[b|", "[http://a ", "<ref a='", "{|\n|-\n| a || b\n", "== a\n"),
            *(
                "{{lang|a|",
                "[[File:",
                "<table>",
                "''a\n",
                "-{zh:a;",
                "({{x}}",
                "{{convert|1|-|",
                "#a",
            ),
            *("<nowiki>", "{{a}", "[[a]", "}}", "]]", "\n|}", "= a =\n", "( ", "{{nobr|(;"),
        )
    },
    "nested templates": lambda n: "{{nobr|x" * n + "}}" * n,
    "nested links": lambda n: "[[a|" * n + "]]" * n,
    "nested tables": lambda n: "{|\n|" * n + "\n|}" * n,
    "braces": lambda n: "{" * n + "a" + "}" * n,
    "a heading": lambda n: "=" * n + " " * n + "=",
    "open links, ends of templates": lambda n: "[[" * 99 + "}}" * n,
    "open templates, ends of links": lambda n: "{{" * 99 + "]]" * n,
    "one reference": lambda n: "<ref>" * n + "</ref>",
    "variants": lambda n: "-{zh:a" + ";b" * n + "}-",
}


@pytest.mark.parametrize("name", REPEATED)
def test_no_markup_takes_time_that_grows_faster_than_its_length(name: str) -> None:
    """Four times as much may take ten times as long, as it may no longer fit a cache of the
    processor; where the time grew with the square, sixteen times. A time too short to be measured
    is taken for 10 ms."""

    def seconds(number: int) -> float:
        markup = REPEATED[name](number)
        times = []
        for _ in range(2):
            start = time.process_time()
            plain_text(markup)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(8_000) < 10 * max(seconds(2_000), 0.01)


def test_text_in_deep_templates_is_text() -> None:
    depth = 90
    assert plain_text("{{nobr|" * depth + "a" + "}}" * depth) == "a"


def test_apostrophes_of_entities_are_text() -> None:
    assert plain_text("&#39;&#39;a&#39;&#39; ''b''") == "''a'' b"
