"""What a folder says in clear, whatever its files are packed in, to search it for identifiers.

A byte search of compressed files finds nothing, and proves nothing: each kind of file is opened
first. tests/unit/test_canary.py plants a word in each kind and sees it found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from concord.privacy.opening import texts

WORD = re.compile(r"[\w-]+")
# In a binary file letters may touch a number.
NUMBER = re.compile(r"\d(?:-?\d)+")


def words(folder: Path, *, leave_out: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Each file below `folder` and the words of all that it says, lower case.

    `leave_out` are paths below it that are not looked at. A value's digits are a word of their
    own, so that `123-45-6789` is found as `123456789`.
    """
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        out = any(name == one or name.startswith(f"{one}/") for one in leave_out)
        if out or not path.is_file() or path.is_symlink():
            continue
        yield name, words_of(path.read_bytes(), name)


def words_of(content: bytes, name: str) -> set[str]:
    """The words of one file's content; its name tells how it is packed."""
    found: set[str] = set()
    for text in texts(content, name):
        for word in WORD.findall(text.lower()):
            found.add(word)
            found.update(part for part in re.split("[-_]", word) if part)
        for number in NUMBER.findall(text):
            found.update((number, number.replace("-", "")))
    return found
