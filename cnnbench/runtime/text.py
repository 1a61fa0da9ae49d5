"""Text from outside, made safe for a terminal and for files."""

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters other than tab and line feed, and halves of characters: what no name should have."""


def legible(text: str) -> str:
    """The text with a replacement character for each control character, which could command the terminal."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def is_name(text: str) -> bool:
    """Whether a text may be the name of a class: it has no control character, tab or line break."""
    return not _UNSAFE.search(text) and not {"\t", "\n"}.intersection(text)
