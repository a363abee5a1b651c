"""Disclosure profiles: the rules that a release must meet, each under a name.

`conf/disclosure.yaml` holds them; an agreement names one, a product may name a stricter one.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field as Setting
from pydantic import RootModel

from concord.settings import Typed, load


class Profile(Typed):
    """A minimum frequency rule. Counts from 1 to `minimum` - 1 are never shown nor inferable.

    Zeros are shown: that nobody is in a cell says nothing of anybody who is.
    """

    minimum: int = Setting(gt=1, description="the smallest count of people or cases that is shown")
    source: str = Setting(min_length=1, description="the rule that it follows")


class Profiles(RootModel[dict[str, Profile]]):
    """Profiles by name."""


def load_profiles(conf: Path) -> dict[str, Profile]:
    """The profiles of `conf/disclosure.yaml`; none without the file, which is fine until a product
    needs one. Raises ConfigError with every mistake."""
    if not (conf / "disclosure.yaml").exists():
        return {}
    return dict(load(conf / "disclosure.yaml", Profiles).root)
