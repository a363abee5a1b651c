"""Person ids: opaque, the same for a run that is repeated, never minted twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from concord.linkage.identity import mint_ids
from concord.privacy.hashing import Key
from concord.privacy.keys import mint_key
from concord.settings import Keys


def minted(
    key: Key, run_id: str, founders: Sequence[str], taken: Sequence[str] = ()
) -> list[str]:
    return mint_ids(founders, key=key, run_id=run_id, taken=pa.array(taken, pa.string()))


def test_a_run_that_is_repeated_mints_the_same_ids_and_no_run_an_old_one(tmp_path: Path) -> None:
    key = mint_key(Keys(path=tmp_path), create=True)
    ids = minted(key, "run-1", ["a", "b"])
    assert minted(key, "run-1", ["a", "b"]) == ids
    assert len({*ids, *minted(key, "run-2", ["a"])}) == 3
    # The same run id for another run: what was minted is known and not minted again.
    assert not {*minted(key, "run-1", ["a", "b"], ids)} & {*ids}


def test_ids_depend_on_the_key_and_tell_nothing(tmp_path: Path) -> None:
    one = mint_key(Keys(path=tmp_path / "one"), create=True)
    other = mint_key(Keys(path=tmp_path / "other"), create=True)
    ids = {*minted(one, "run", ["record"]), *minted(other, "run", ["record"])}
    assert len(ids) == 2
    assert all(len(value) == 32 and "record" not in value for value in ids)
