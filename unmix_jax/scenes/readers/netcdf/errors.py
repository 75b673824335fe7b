"""Text and raw errors of the libraries that read files, as one line that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["first_line", "readable", "text_of"]


def text_of(text: Any) -> str:
    """Text of a file up to its first zero byte; bytes that are no UTF-8 are taken for Latin-1, as in old products."""
    if isinstance(text, bytes):
        text = text.split(b"\0", 1)[0]
        try:
            return text.decode()
        except UnicodeDecodeError:
            return text.decode("latin-1")
    return str(text).split("\0", 1)[0]


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines and lines[0] else type(error).__name__


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Raw errors of a library as one line that names the file.

    Args:
        path: the file.
        what: that is read, for the message.

    Raises:
        ValueError: something inside failed.
    """
    try:
        yield
    except (
        OSError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        MemoryError,
    ) as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {what} cannot be read ({first_line(error)}): the file is damaged") from None
