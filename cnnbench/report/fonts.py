"""Fonts for names in any script: those that are installed, and the letters that each of them has."""

from functools import cache

from matplotlib import font_manager

FAMILIES = (
    "DejaVu Sans",  # comes with matplotlib
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # by this name matplotlib knows the file of all Noto CJK fonts
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti TC",
    "Microsoft YaHei",
    "SimHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
)
"""What is looked for, in this order. The first one draws all letters that it has, the next ones what is missing."""


def families() -> list[str]:
    """The installed ones of `FAMILIES`."""
    installed = set(font_manager.get_font_names())
    return [name for name in FAMILIES if name in installed]


def drawable(text: str) -> bool:
    """Whether the installed fonts together have all letters of a text."""
    fonts = [_letters(_file(name)) for name in families()]
    return all(any(ord(letter) in font for font in fonts) for letter in text)


def file_for(text: str) -> str:
    """The file of the first installed font that has all letters of a text; without one that of the first font."""
    files, wanted = [_file(name) for name in families()], set(map(ord, text))
    return next((file for file in files if wanted <= _letters(file)), files[0])


def class_labels(names: list[str]) -> list[str]:
    """Names of classes as figures show them: `#3` for the third one if no font has its letters."""
    return [name if drawable(name) else f"#{i}" for i, name in enumerate(names, 1)]


def _file(family: str) -> str:
    return str(font_manager.findfont(family))


@cache
def _letters(file: str) -> frozenset[int]:
    """The code points that a font has."""
    return frozenset(font_manager.get_font(file).get_charmap())
