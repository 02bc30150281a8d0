"""Files that are either whole or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


class WriteError(OSError):
    """A file could not be written; nothing half-written is left."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name to write to; rename it to ``path`` on success, remove it on failure.

    >>> import tempfile
    >>> with atomic_path(Path(tempfile.mkdtemp()) / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")

    Raises:
        WriteError: The file could not be written; ``path`` is as it was before.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a rename must not reach the disk before the content
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if is_write_failure(error):
            raise WriteError(_explain(path, error)) from error
        raise


def write_text(path: Path | str, text: str) -> None:
    """Replace the content of ``path`` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_write_failure(error: BaseException) -> bool:
    """Whether the system refused to write a file (torch's zip writer raises RuntimeError)."""
    if isinstance(error, WriteError):
        return False  # already explained
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error))


def _explain(path: Path, error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    free = f"{shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free there" if path.parent.exists() else ""
    return f"cannot write {path}: {reason}; {free}. Nothing half-written was left; free some space and resume"
