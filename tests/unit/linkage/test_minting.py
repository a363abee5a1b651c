"""Person ids: opaque, the same for a run that is repeated, never minted twice."""

from __future__ import annotations

from pathlib import Path

from concord.linkage.job import minting
from concord.privacy.keys import mint_key
from concord.settings import Keys


def test_a_run_that_is_repeated_mints_the_same_ids_and_no_run_an_old_one(tmp_path: Path) -> None:
    key = mint_key(Keys(path=tmp_path), create=True)
    first = minting(key, "run-1", set())
    ids = [first("a"), first("b")]
    again = minting(key, "run-1", set())
    assert [again("a"), again("b")] == ids
    assert len({*ids, minting(key, "run-2", set())("a")}) == 3
    # The same run id for another run: what was minted is known and not minted again.
    later = minting(key, "run-1", set(ids))
    assert later("a") not in ids
    assert len({later("a"), later("a"), *ids}) == 4


def test_ids_depend_on_the_key_and_tell_nothing(tmp_path: Path) -> None:
    one = mint_key(Keys(path=tmp_path / "one"), create=True)
    other = mint_key(Keys(path=tmp_path / "other"), create=True)
    ids = {minting(key, "run", set())("record") for key in (one, other)}
    assert len(ids) == 2
    assert all(len(value) == 32 and "record" not in value for value in ids)
