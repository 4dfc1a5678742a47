"""The colours of charts: one for each series, which the style of a page sets for light and dark."""

LIGHT = ("#35618e", "#c8823b", "#5b8c5a", "#a14f5b", "#7a6a9b", "#4c9ca3", "#8a7b52")
DARK = ("#79a9dc", "#e3a763", "#8fc48d", "#dd8a96", "#b3a3d8", "#7fcbd2", "#c4b482")
_DASHES = ("", "6 3", "2 2", "8 3 2 3")


def colour(number: int) -> str:
    """The colour of series `number`, 0 for the first; after the last they begin again."""
    return f"var(--c{number % len(LIGHT)})"


def dashes(number: int) -> str:
    """The pattern of the line of series `number`: another one each time the colours begin again."""
    return _DASHES[number // len(LIGHT) % len(_DASHES)]


def style_sheet(colours: tuple[str, ...]) -> str:
    """The declarations that give `colour` its meaning."""
    return " ".join(f"--c{number}: {value};" for number, value in enumerate(colours))
