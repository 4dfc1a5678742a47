"""The tags and magic words of wiki markup."""

_MAGIC_WORDS = """
    archivedtalk disambig expectedunconnectedpage expectunusedcategory expectunusedtemplate forcetoc
    hiddencat index newsectionlink nocc nocontentconvert noeditsection nogallery noglobal noindex
    nonewsectionlink notc notitleconvert notoc staticredirect toc
"""
_NAMES_IN_CODE = """
    CLASS COUNTER DATA DATE DIR END FILE FUNC FUNCTION LINE METHOD MODULE NAMESPACE PACKAGE STDC SUB
    TIME TIMESTAMP TRAIT VERSION
"""
_PREFIXES_IN_CODE = ("ARM", "CUDA", "GNUC", "STDC_", "VA_")
_MIN_CHARACTERS = 3
_BLOCKS = """
    blockquote br caption center dd div dl dt h1 h2 h3 h4 h5 h6 hr li ol p poem td th tr ul
"""
_INLINE = """
    abbr b bdi bdo big cite code data del dfn em font i ins kbd langconvert mark noinclude
    onlyinclude q rb rp rt rtc ruby s samp small span strike strong sub sup tbody tfoot thead
    time translate tt tvar u var wbr
"""
_DROPPED = """
    categorytree ce charinsert chem dynamicpagelist gallery graph hiero imagemap includeonly
    indicator inputbox mapframe maplink math ref references score script section source style
    syntaxhighlight templatedata templatestyles timeline
"""

BLOCK_TAGS = frozenset(_BLOCKS.split())
"""Tags at which a line ends."""
INLINE_TAGS = frozenset(_INLINE.split())
"""Tags that say how their content looks."""
DROPPED_TAGS = frozenset(_DROPPED.split())
"""Tags whose content is dropped; it holds no markup up to the closing tag."""
LITERAL_TAGS = frozenset(("nowiki", "pre"))
"""Tags whose content is text without markup."""
_MAGIC = frozenset(_MAGIC_WORDS.split())
_CODE = frozenset(_NAMES_IN_CODE.split())


def is_magic_word(word: str) -> bool:
    """Whether ``__word__`` is a magic word: one of MediaWiki, in any case, or a name in capitals,
    of any script, that is no macro of C, PHP, Perl or Ruby."""
    if word.casefold() in _MAGIC:
        return True
    if word != word.upper() or not any(map(str.isalpha, word)):
        return False
    if not word.isascii():
        return True
    is_code = word in _CODE or word.startswith(_PREFIXES_IN_CODE)
    return len(word) >= _MIN_CHARACTERS and not is_code
