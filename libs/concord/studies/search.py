"""Every file that is left, opened and looked through for pseudonyms that must not be there.

A pseudonym is looked for by its 128 bits as hexadecimal digits, whatever stands beside them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from concord import tracking
from concord.lake.run import Run
from concord.lake.storage import Storage
from concord.privacy.hashing import HASH_HEX
from concord.privacy.opening import digit_runs, texts

# The version of its key, and 32 hexadecimal digits; older ones and record ids are digits alone.
PSEUDONYM = r"^([0-9]{1,4}-)?[0-9a-f]{32}$"
# Files looked into side by side: most of it is Arrow's work, which does not wait for Python.
AT_ONCE = 2


@dataclass(frozen=True)
class Searched:
    """How many files were opened, and of these the names of those with something in them that was
    searched for, and of those that do not open."""

    files: int
    found: tuple[str, ...]
    closed: tuple[str, ...]


def search(run: Run, digits: AbstractSet[str], *, besides: str) -> Searched:
    """Looks into every file of the lake, of MLflow's store and of a warehouse beside the run, but
    for the table `besides`, for runs of 32 hexadecimal digits of the set."""
    storage = run.lake.storage

    def look(file: tuple[str, str]) -> tuple[str, bool, bool] | None:
        name, path = file
        try:
            content = _content(storage, path)
        except FileNotFoundError:
            return None  # another job's upkeep took it meanwhile
        try:
            said, opens = tokens(content, name), True
        except Exception:  # whatever a torn file makes a reader raise
            said, opens = _windows(content), False
        return name, not digits.isdisjoint(said), opens

    some = [(name, path) for name, path in _files(run) if not name.startswith(f"/{besides}/")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looked = [each for each in pool.map(look, some) if each]
    found = tuple(name for name, there, _ in looked if there)
    return Searched(len(looked), found, tuple(name for name, _, opens in looked if not opens))


def tokens(content: bytes, name: str) -> set[str]:
    """All 128-bit hexadecimal numbers that a file says, whatever it is packed in. Raises whatever
    its reader does for one that does not open."""
    if not content.startswith(b"PAR1"):
        return set[str]().union(*(_windows(text.encode()) for text in texts(content, name)))
    # Most of a lake's bytes: by columns, and only of text. A number cannot be one, and what a
    # footer keeps of text stands there in clear.
    found = _windows(content)
    file = pq.ParquetFile(io.BytesIO(content))
    said = [each.name for each in file.schema_arrow if not pa.types.is_primitive(each.type)]
    for column in file.read(columns=said).columns:
        for values in _texts_of(column):
            # Most are pseudonyms, which need no look at every window.
            whole = pc.match_substring_regex(values, PSEUDONYM)
            found.update(pc.utf8_slice_codeunits(values.filter(whole), -HASH_HEX).to_pylist())
            rest = values.filter(pc.invert(whole)).to_pylist()
            found |= _windows("\n".join(rest).encode())
    return found


def _windows(content: bytes) -> set[str]:
    """Every 32 digits in a row. In a binary file what stands beside may look like more of them."""
    return {
        run[at : at + HASH_HEX]
        for run in map(bytes.decode, digit_runs(content, HASH_HEX))
        for at in range(len(run) - HASH_HEX + 1)
    }


def _texts_of(column: pa.ChunkedArray | pa.Array) -> Iterator[pa.Array]:
    """The distinct texts of a column that can hold 32 digits, those inside lists, maps and structs
    too."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        some = column.filter(pc.greater_equal(pc.binary_length(column), HASH_HEX))
        if len(some):
            yield pc.unique(some)
    elif pa.types.is_binary(kind):
        # Blobs of the person index: numbers and hashes, looked at as they stand.
        whole = b"\n".join(value for value in column.to_pylist() if value)
        yield pa.array(map(bytes.decode, digit_runs(whole, HASH_HEX)), pa.string())
    elif pa.types.is_struct(kind):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        for chunk in chunks:
            for number in range(kind.num_fields):
                yield from _texts_of(chunk.field(number))
    elif pa.types.is_map(kind):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        for chunk in chunks:
            yield from _texts_of(chunk.keys)
            yield from _texts_of(chunk.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts_of(pc.list_flatten(column))


def _files(run: Run) -> Iterator[tuple[str, str]]:
    """Each file's name and path."""
    roots = [run.lake.root]
    address, artifacts = tracking.address(run.settings)
    if address.startswith("sqlite:///"):
        roots.append(str(Path(address.removeprefix("sqlite:///")).parent))
    elif artifacts:
        roots.append(artifacts)
    warehouse = run.lake.spark.conf.get("spark.sql.warehouse.dir", "")
    roots += [warehouse] if warehouse else []
    for root in roots:
        for entry in run.lake.storage.walk(root):
            yield entry.path.rpartition(urlparse(root).path)[2] or entry.path, entry.path


def _content(storage: Storage, path: str) -> bytes:
    place = urlparse(path)
    # A local file at once: through Java it would be copied three times.
    local = place.scheme in {"", "file"}
    return Path(unquote(place.path)).read_bytes() if local else storage.read(path)
