"""Files of the lake and the landing area, through Hadoop's FileSystem.

Every path is a URI or plain path that Spark understands (`/data/lake`, `s3a://…`, `abfss://…`,
`viewfs://…`); nothing here assumes a local disk, though `write` and `put_if_absent` do better where
there is one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from concord.errors import InfrastructureError

COPY_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class FileInfo:
    """One entry of a folder. `modified` is the store's own milliseconds since 1970."""

    path: str
    name: str
    bytes: int
    modified: int
    is_folder: bool


def join(root: str, *parts: str) -> str:
    """`root` and `parts` as one path, with single slashes between."""
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts)])


class Storage:
    """The file operations that Concord needs, over one Spark session's Hadoop configuration.

    Every method raises InfrastructureError (exit 20) when the store fails, and what `check` raises
    of a path that is not to be read, or (True) written.
    """

    def __init__(self, spark: SparkSession, check: Callable[[str, bool], None] | None = None):
        self._check = check
        self._jvm: Any = spark._jvm
        # By its whole name: step by step, Java looks for a class `org`, `org.apache`, ... in every
        # jar, a millisecond for each file that is asked for.
        self._path = self._class("org.apache.hadoop.fs.Path")
        self._io = self._class("org.apache.commons.io.IOUtils")
        self._conf: Any = spark._jsc.hadoopConfiguration()
        self._local = str(self._conf.get("fs.defaultFS", "file:///")).startswith("file:")
        self._spark_conf: Any = spark._jsc.getConf()

    @cached_property
    def _log_store(self) -> Any:
        stores = self._class("org.apache.spark.sql.delta.storage.LogStore")
        return stores.apply(self._spark_conf, self._conf)

    @cached_property
    def _as_scala(self) -> Any:
        return self._class("scala.jdk.javaapi.CollectionConverters").asScala

    def _class(self, name: str) -> Any:
        return getattr(self._jvm, name)

    def exists(self, path: str) -> bool:
        local = self._here(path)
        if local is not None:
            return local.exists()
        fs, target = self._open(path)
        return bool(_try(path, lambda: fs.exists(target)))

    def list(self, path: str) -> list[FileInfo]:
        """Entries of a folder by name; empty when it does not exist."""
        local = self._here(path)
        if local is not None and not local.is_file():
            return _entries(local)
        fs, target = self._open(path)
        if not _try(path, lambda: fs.exists(target)):
            return []
        found = _try(path, lambda: list(fs.listStatus(target)))
        # Few questions to Java for each: a log soon has a hundred files.
        entries = [
            FileInfo(
                path=(place := status.getPath().toString()),
                name=place.rpartition("/")[2],
                bytes=status.getLen(),
                modified=status.getModificationTime(),
                is_folder=status.isDirectory(),
            )
            for status in found
        ]
        return sorted(entries, key=lambda entry: entry.name)

    def names(self, path: str) -> Sequence[str]:
        """Names in a folder as they are at one moment, those too that are gone when looked at."""
        local = self._here(path)
        if local is not None and not local.is_file():
            try:
                return sorted(entry.name for entry in local.iterdir())
            except FileNotFoundError:
                return []
        return [entry.name for entry in self.list(path)]

    def walk(self, path: str) -> Iterator[FileInfo]:
        """All files below a folder."""
        for entry in self.list(path):
            if entry.is_folder:
                yield from self.walk(entry.path)
            else:
                yield entry

    def read(self, path: str, limit: int | None = None) -> bytes:
        """The file's bytes, or its first `limit`. For small files: the bytes cross to Python."""
        local = self._here(path)
        if local is not None:
            try:
                with local.open("rb") as file:
                    return file.read(limit)
            except OSError as error:
                raise InfrastructureError(f"{path}: {error.strerror}") from None
        fs, target = self._open(path)

        def get() -> bytes:
            stream = fs.open(target)
            try:
                if limit is not None:
                    bounded = self._class("org.apache.commons.io.input.BoundedInputStream")
                    return bytes(self._io.toByteArray(bounded(stream, limit)))
                return bytes(self._io.toByteArray(stream))
            finally:
                stream.close()

        return bytes(_try(path, get))

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a small file.

        A reader sees the old content or the new. Hadoop empties a local file before it fills it
        (a killed writer would leave an empty one), so a rename does it there; on other stores a
        file appears when it is closed.
        """
        self._may(path, write=True)
        local = self.local_path(path)
        if local is not None:
            mine = local.with_name(f".{local.name}.{os.getpid()}-{threading.get_ident()}")
            try:
                local.parent.mkdir(parents=True, exist_ok=True)
                mine.write_bytes(content)
                # Hadoop's checksum of what stood here before would make the new content unreadable.
                local.with_name(f".{local.name}.crc").unlink(missing_ok=True)
                mine.replace(local)
            except OSError as error:
                mine.unlink(missing_ok=True)
                raise InfrastructureError(f"{path}: {error.strerror}") from None
            return
        fs, target = self._open(path)

        def put() -> None:
            stream = fs.create(target, True)
            try:
                stream.write(content)
            finally:
                stream.close()

        _try(path, put)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Create the file unless it exists; False when it does. Atomic between processes.

        Hadoop's local file system checks first and creates after, so the kernel's exclusive create
        is used there. Elsewhere Delta's LogStore of the scheme does it, the same primitive that
        Delta's commits stand on; it writes lines of text, so the file ends with a newline.
        """
        self._may(path, write=True)
        local = self.local_path(path)
        if local is not None:
            try:
                local.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(local, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
            except FileExistsError:
                return False
            except OSError as error:
                raise InfrastructureError(f"{path}: {error.strerror}") from None
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
            except OSError as error:
                local.unlink(missing_ok=True)
                raise InfrastructureError(f"{path}: {error.strerror}") from None
            return True
        # It writes lines of text.
        return self.commit(path, [content.decode("utf-8")])

    def commit(self, path: str, lines: Sequence[str]) -> bool:
        """Create a file of lines unless it exists, by Delta's LogStore; False when it does."""
        self._may(path, write=True)
        fs, target = self._open(path)
        # As one line, which the store ends: line by line they would be a call each.
        whole = self._class("java.util.Collections").singletonList("\n".join(lines)).iterator()
        try:
            fs.mkdirs(target.getParent())
            self._log_store.write(target, self._as_scala(whole), False, self._conf)
        except Py4JJavaError as error:
            if "FileAlreadyExists" in error.java_exception.getClass().getName():
                return False
            raise InfrastructureError(f"{path}: {_reason(error)}") from None
        return True

    def sha256(self, path: str) -> str:
        """SHA-256 of the file's bytes, hex. Read inside the JVM."""
        fs, target = self._open(path)
        digest = self._class("org.apache.commons.codec.digest.DigestUtils")

        def compute() -> str:
            stream = fs.open(target)
            try:
                return str(digest.sha256Hex(stream))
            finally:
                stream.close()

        return str(_try(path, compute))

    def gzip_is_whole(self, path: str) -> bool:
        """Whether a gzip file can be read to its end with its checksum right."""
        fs, target = self._open(path)
        stream = _try(path, lambda: fs.open(target))
        try:
            unzipped = self._class("java.util.zip.GZIPInputStream")(stream, COPY_BUFFER_BYTES)
            self._io.consume(unzipped)
        except Py4JJavaError as error:
            name = error.java_exception.getClass().getSimpleName()
            if name in {"EOFException", "ZipException"}:
                return False
            raise InfrastructureError(f"{path}: {_reason(error)}") from None
        finally:
            stream.close()
        return True

    def copy(self, source: str, target: str) -> None:
        """Copy one file, replacing the target. The bytes stay inside the JVM."""
        self._may(target, write=True)
        from_fs, from_path = self._open(source)
        to_fs, to_path = self._open(target)
        utils = self._class("org.apache.hadoop.fs.FileUtil")
        try:
            utils.copy(from_fs, from_path, to_fs, to_path, False, True, self._conf)
        except Py4JJavaError as error:
            raise InfrastructureError(
                f"{source} could not be copied to {target}: {_reason(error)}. Check space and "
                "permissions there, then run this again"
            ) from None

    def delete(self, path: str) -> None:
        """Delete a file or a folder with all below it; nothing happens when it is absent."""
        self._may(path, write=True)
        fs, target = self._open(path)
        _try(path, lambda: fs.delete(target, True))

    def local_path(self, path: str) -> Path | None:
        """The path on this machine's disk when the store is a local one, else None."""
        parts = urlparse(path)
        if parts.scheme == "file":
            return Path(unquote(parts.path))
        return Path(path) if not parts.scheme and self._local else None

    def _here(self, path: str) -> Path | None:
        """`local_path` of what both call the same, to be read: it takes no question to Java."""
        self._may(path, write=False)
        return None if "%" in path else self.local_path(path)

    def _may(self, path: str, *, write: bool) -> None:
        if self._check is not None:
            self._check(path, write)

    def _open(self, path: str) -> tuple[Any, Any]:
        self._may(path, write=False)
        target = self._path(path)
        return _try(path, lambda: target.getFileSystem(self._conf)), target


def _entries(folder: Path) -> list[FileInfo]:
    """A local folder's entries, as Hadoop tells them: without its own checksum files.

    Of Java each is half a dozen questions, and a table's log soon has hundreds.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and entry.name.endswith(".crc"):
                    continue
                # Gone since it was listed: a writer's own temporary file.
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append(
                        FileInfo(
                            path=f"file:{folder.absolute() / entry.name}",
                            name=entry.name,
                            bytes=status.st_size,
                            modified=status.st_mtime_ns // 1_000_000,
                            is_folder=entry.is_dir(),
                        )
                    )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InfrastructureError(f"{folder}: {error.strerror}") from None
    return sorted(found, key=lambda entry: entry.name)


def _try(path: str, action: Any) -> Any:
    try:
        return action()
    except Py4JJavaError as error:
        raise InfrastructureError(f"{path}: {_reason(error)}") from None


def _reason(error: Py4JJavaError) -> str:
    """The store's own words: they name paths and permissions, never rows."""
    java = error.java_exception
    return f"{java.getClass().getSimpleName()}: {java.getMessage()}"
