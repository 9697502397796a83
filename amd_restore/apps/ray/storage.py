"""Files in object stores and on other machines, by URL, through fsspec."""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amd_restore.errors import AMDRestoreError

# In these stores files appear complete after sending; elsewhere a file is written under another name and renamed.
_WHOLE = {
    "abfs", "abfss", "adl", "az", "cos", "gcs", "gs", "hf", "memory", "oci", "oss", "r2", "s3", "s3a", "swift", "tos",
}  # fmt: skip
_FINAL = (
    FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, NotImplementedError, PermissionError,
)  # fmt: skip
_PASSING = {
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EDQUOT", "EHOSTDOWN", "EHOSTUNREACH",
        "EINTR", "EIO", "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENOSPC", "ENOTCONN", "EPIPE", "EREMOTEIO", "ESTALE",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
}  # fmt: skip


class StorageError(AMDRestoreError):
    """Temporary failure of a store."""


def is_url(name: object) -> bool:
    """Return whether ``name`` is a URL instead of a path."""
    return "://" in str(name)


def may_pass(error: BaseException | None) -> bool:
    """Return whether a retry may help, because a store or a disk failed and not the image."""
    while error is not None:
        # Pillow also raises OSError, but without a number.
        if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _PASSING):
            return True
        error = error.__cause__
    return False


def split_url(url: str) -> tuple[str, str]:
    """Split ``s3://bucket/a/b`` into ``s3://bucket`` and ``/a/b``."""
    scheme, rest = url.split("://", 1)
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", f"/{path}"


def list_folder(url: str, recursive: bool) -> list[str] | None:
    """Return names below the folder ``url``, relative to it and sorted; None if ``url`` is a file.

    A missing folder is empty, as in object stores.

    Raises:
        AMDRestoreError: it cannot be listed.
    """
    with _errors(url, "cannot be listed"):
        system, root = _open(url)
        system.invalidate_cache()  # Do not use cached listings, because others write there.
        try:
            if root.strip("/") and system.isfile(root) and not url.endswith("/"):
                return None
            found = system.find(root, maxdepth=None if recursive else 1)
        except FileNotFoundError:
            return []
        start = len(root.rstrip("/"))
        return sorted(name[start:].lstrip("/") for name in found if len(name) > start)


def fetch(url: str, path: Path) -> None:
    """Copy the file ``url`` to ``path``.

    Raises:
        StorageError: temporary failure.
        AMDRestoreError: missing file, no permission, or an invalid ``url``.
    """
    with _errors(url, "cannot be read"):
        system, name = _open(url)
        system.get_file(name, str(path))


def put(path: Path, url: str) -> None:
    """Copy ``path`` to ``url``, where it is complete or absent.

    Raises:
        StorageError: temporary failure.
        AMDRestoreError: an invalid ``url``, or no permission.
    """
    with _errors(url, "cannot be written"):
        system, name = _open(url)
        if url.split("://", 1)[0] in _WHOLE:
            system.put_file(str(path), name)
            return
        folder, _, last = name.rpartition("/")
        temporary = f"{folder}/.amd-restore-{secrets.token_hex(8)}.{last[-40:]}.part"
        if folder:
            system.makedirs(folder, exist_ok=True)
        try:
            system.put_file(str(path), temporary)
            system.mv(temporary, name)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                system.rm_file(temporary)
            raise


def check_url_writable(url: str, folder: Path) -> None:
    """Check that files can be written below ``url``, before a long run.

    Args:
        url: folder.
        folder: empty folder on this machine, for a test file.

    Raises:
        AMDRestoreError: nothing can be written there.
    """
    local = folder / "probe"
    local.touch()
    probe = f"{url.rstrip('/')}/.amd-restore.probe"
    try:
        put(local, probe)
    except AMDRestoreError as error:
        reason = str(error).removeprefix(f"{probe}: ")
        raise AMDRestoreError(f"{url}: {reason}; name another place with -o") from error
    # Permission to write need not include deletion; the test file then remains.
    with contextlib.suppress(AMDRestoreError), _errors(probe, "cannot be removed"):
        system, name = _open(probe)
        system.rm_file(name)


def _open(url: str) -> tuple[Any, str]:
    """Return the file system and the name in it."""
    try:
        import fsspec
    except ImportError as error:
        raise AMDRestoreError(f'{url}: URLs need the package fsspec; pip install "amd-restore[ray]"') from error
    if "::" in url:
        raise AMDRestoreError(f"{url}: chained URLs are not supported; name one store")
    try:
        system, name = fsspec.url_to_fs(url)
    except ImportError as error:
        raise AMDRestoreError(f"{url}: this store needs a further package ({error})") from error
    except ValueError as error:
        raise AMDRestoreError(f"{url}: not understood ({error})") from error
    return system, str(name)


@contextlib.contextmanager
def _errors(url: str, what: str) -> Iterator[None]:
    """Context that turns any error of a store into one line."""
    try:
        yield
    except AMDRestoreError:
        raise
    except _FINAL as error:
        raise AMDRestoreError(f"{url}: {what} ({_reason(error)}); check the URL and its permissions") from error
    except Exception as error:  # Each store raises different errors, mostly about the connection.
        raise StorageError(f"{url}: {what} ({_reason(error)}); check the connection and the credentials") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) if not isinstance(error, FileNotFoundError) else "no such file"
    return text or type(error).__name__
