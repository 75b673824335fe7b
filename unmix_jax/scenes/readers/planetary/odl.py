"""Labels of PDS3 and ISIS: text in ODL or PVL, ``KEYWORD = value`` lines in objects and groups.

pvl, the library for such labels, copies a quoted text once per character and calls itself once per level of lists and
objects: a label made for it takes the square of its length, or ends in a RecursionError. Here labels are read in one
pass.

References:
    Planetary Data System Standards Reference, version 3.8 (JPL D-7669, part 2), chapters 12 (ODL) and 14 (pointers);
    CCSDS 641.0-B-2 (PVL); ISIS, user documentation of cube labels.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmix_jax.scenes.reading import Entries

__all__ = [
    "ABSENT",
    "LABEL_BYTES",
    "Block",
    "Label",
    "Value",
    "beside",
    "finite",
    "line_of_text",
    "located",
    "parse_label",
    "radix_of",
    "read_label",
    "sibling",
    "single",
    "whole_number",
]

LABEL_BYTES = 2 * 2**20  # labels have some kilobytes; the largest, with a long list in them, have some hundred
FIRST_BYTES = 2**16  # the label area of a new ISIS cube
DEEPEST = 12  # objects in objects, lists in lists; real labels have four levels
LONGEST_NAME = 100  # letters of a keyword; the standard allows 30, with a mission's own prefix 61
MOST_ENTRIES = 20_000  # a table of a thousand columns has ten thousand
MOST_TOKENS = 200_000  # words and signs
ABSENT = ("", "N/A", "NA", "NULL", "UNK", "UNKNOWN", "NONE", "NOT APPLICABLE")  # words for "no value" in labels
# Words in names of entries that may change numbers or mark bad values. An entry outside the image that is named so, and
# that no reader uses, is listed as not understood; all others outside the image describe the observation.
WEIGHTY = re.compile(
    r"(?!.*(_NUMBER|_ID|_FLAG|_FILE|_NAME|_DESC|_COUNT|_TYPE|_TEMPERATURE)$)"
    r".*(\b|_)(SCALE|SCALING|FACTOR|OFFSET|GAIN|CONSTANT|NULL|INVALID|MISSING|BAD|SATURATION|MULTIPLIER)(\b|_)"
)


class Value(NamedTuple):
    """A value of a label.

    Attributes:
        content: a word, or a list of words (and of lists).
        unit: what stands in angle brackets behind it, or behind the first word of a list; empty: nothing does.
    """

    content: Any
    unit: str = ""


class Block:
    """An object or a group of a label: its entries and the blocks in it.

    Attributes:
        name: as in ``OBJECT = name``.
        path: name with those of the blocks around it, which is the first part of the names of its entries.
        entries: values under upper-case names.
        twice: names that stand more than once, with different values.
        blocks: those inside, in order.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        self.entries: dict[str, Value] = {}
        self.twice: set[str] = set()
        self.blocks: list[Block] = []
        self._titles: dict[str, int] = {}
        self._first: dict[str, Block] = {}

    def put(self, name: str, value: Value) -> None:
        """Take an entry; one that stands twice with different values is kept under a second name."""
        if self.entries.setdefault(name, value) != value:
            self.twice.add(name)
            self.entries[f"{name} ({len(self.entries) + 1})"] = value

    def open(self, title: str) -> "Block":
        """A new block inside, with a path of its own."""
        count = self._titles[title.upper()] = self._titles.get(title.upper(), 0) + 1
        named = title if count == 1 else f"{title} {count}"
        self.blocks.append(Block(title, f"{self.path}.{named}" if self.path else named))
        self._first.setdefault(title.upper(), self.blocks[-1])
        return self.blocks[-1]

    def child(self, name: str) -> "Block | None":
        """The first block of this name directly inside."""
        return self._first.get(name.upper())

    def walk(self) -> "Iterator[Block]":
        """This block and all inside, level by level."""
        level = [self]
        while level:
            yield from level
            level = [inner for block in level for inner in block.blocks]

    def find(self, *names: str) -> "Block | None":
        """The first block of one of these names, this one or one inside."""
        wanted = {name.upper() for name in names}
        return next((block for block in self.walk() if block.name.upper() in wanted), None)


# Every part of a text ends where its own class of characters ends, so that it is read once from left to right.
TOKEN = re.compile(
    r"[\s\x00]*(?:(?P<comment>/\*|#)|(?P<open>[\"'<])|(?P<sign>[=(){},;>])|(?P<word>[^\s=(){},;<>\"'\x00]+))"
)
CLOSING = {"/*": "*/", "#": "\n", "<": ">", '"': '"', "'": "'"}
RADIX = re.compile(r"([+-]?)(\d{1,2})#([+-]?[0-9A-Za-z]+)#")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token: ``word``, ``quoted``, ``unit`` or a sign of its own.

    Raises:
        ValueError: a text or a comment that does not end; more tokens than any label has.
    """
    at = count = 0
    while (found := TOKEN.match(text, at)) is not None:
        kind, token, at = found.lastgroup, found[found.lastgroup or 0], found.end()
        count += 1
        if count > MOST_TOKENS:
            raise ValueError(f"the label is damaged: it has more than {MOST_TOKENS} words")
        if kind == "word":
            yield "word", token
        elif kind == "sign":
            yield token, token
        else:
            end = text.find(CLOSING[token], at)
            if end < 0 and token != "#":
                raise ValueError(f"the label is damaged: {token} has no end")
            if kind == "open":
                yield "unit" if token == "<" else "quoted", " ".join(text[at:end].split())
            at = len(text) if end < 0 else end + len(CLOSING[token])


class _Reader:
    """Statements out of tokens."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next: tuple[str, str] | None = None

    def peek(self) -> tuple[str, str]:
        """The next token, kind empty at the end; it stays."""
        if self._next is None:
            self._next = next(self._tokens, ("", ""))
        return self._next

    def take(self) -> tuple[str, str]:
        """The next token."""
        token, self._next = self.peek(), None
        return token

    def value(self, depth: int = 0) -> Value:
        """A word, a quoted text, or a list of values, with its unit."""
        kind, text = self.take()
        content: Any = text
        unit = ""
        if kind in ("(", "{"):
            if depth >= DEEPEST:
                raise ValueError(f"the label is damaged: lists stand {DEEPEST} deep in each other")
            content, closing = [], ")" if kind == "(" else "}"
            while True:
                kind = self.peek()[0]
                if kind == closing:
                    self.take()
                    break
                if kind == ",":
                    self.take()
                    continue
                if kind not in ("word", "quoted", "(", "{"):
                    raise ValueError("the label is damaged: a list has no end")
                item = self.value(depth + 1)
                content.append(item.content)
                unit = unit or item.unit
        elif kind not in ("word", "quoted"):
            raise ValueError(f"the label is damaged: {text or 'nothing'} stands where a value should")
        if self.peek()[0] == "unit":
            unit = self.take()[1]
        return Value(content, unit)


def parse_label(text: str) -> tuple[Block, bool]:
    """The blocks of a label in ODL or PVL.

    Args:
        text: beginning with the label; what follows its END is not looked at.

    Returns:
        The block around all, and whether END was met.

    Raises:
        ValueError: the text is no label, or a damaged one.
    """
    reader, root = _Reader(text), Block("", "")
    open_blocks, ended, count = [root], False, 0
    while True:
        kind, word = reader.take()
        if kind == "":
            break
        if kind == ";":
            continue
        if kind != "word":
            raise ValueError(f"the label is damaged: {word[:40]!r} stands where a keyword should")
        name = word.upper()
        if name in ("END_OBJECT", "END_GROUP", "ENDOBJECT", "ENDGROUP"):
            if reader.peek()[0] == "=":
                reader.take()
                reader.value()
            if len(open_blocks) == 1:
                raise ValueError(f"the label is damaged: {word} closes nothing")
            open_blocks.pop()
            continue
        opens = name in ("OBJECT", "GROUP", "BEGIN_OBJECT", "BEGIN_GROUP")
        if reader.peek()[0] != "=":
            if name == "END":
                ended = True
                break
            raise ValueError(f"the label is damaged: {word[:40]!r} has no value")
        reader.take()
        value = reader.value()
        inside, count = open_blocks[-1], count + 1
        if max(len(name), len(str(value.content)) if opens else 0) > LONGEST_NAME or count > MOST_ENTRIES:
            raise ValueError(f"the label is damaged: {name[:40]} is no keyword, or there are more than {MOST_ENTRIES}")
        if opens:
            if len(open_blocks) > DEEPEST:
                raise ValueError(f"the label is damaged: objects stand {DEEPEST} deep in each other")
            open_blocks.append(inside.open(str(value.content)))
        else:
            inside.put(name, value)
    if len(open_blocks) > 1:
        raise ValueError(f"the label is damaged or cut off: {open_blocks[-1].name[:40]} is not closed")
    return root, ended


class Label:
    """A label whose entries are used, carried or not understood, one by one.

    Attributes:
        root: the block around all.
        entries: of all blocks, under ``BLOCK.BLOCK.KEYWORD``.
        size: bytes of the text that was looked at.
    """

    def __init__(self, root: Block, size: int = 0) -> None:
        self.root, self.size = root, size
        flat: dict[str, Any] = {}
        for block in root.walk():
            for name, value in block.entries.items():
                flat[f"{block.path}.{name}" if block.path else name] = _plain(value)
        self.entries = Entries(flat)

    def value(self, block: Block | None, *names: str) -> Value | None:
        """The value of the first of these entries that is there and says something; all of them are marked as used.

        Raises:
            ValueError: an entry stands twice, with different values.
        """
        found = None
        for name in names if block is not None else ():
            assert block is not None
            if name in block.twice:
                raise ValueError(f"{name} stands twice in {block.path or 'the label'}, with different values")
            value = block.entries.get(name)
            if value is None:
                continue
            self.entries.use(f"{block.path}.{name}" if block.path else name)
            if found is None and not _says_nothing(value.content):
                found = value
        return found

    def word(self, block: Block | None, *names: str) -> str:
        """An entry as upper-case text, spaces as underscores; empty where it is not there."""
        value = self.value(block, *names)
        if value is None:
            return ""
        content = value.content[0] if isinstance(value.content, list) and value.content else value.content
        return "_".join(str(content).upper().split())

    def text(self, block: Block | None, *names: str) -> str:
        """An entry as it stands; empty where it is not there."""
        value = self.value(block, *names)
        return "" if value is None else line_of_text(value.content)

    def number(self, block: Block | None, *names: str, remedy: str = "") -> float | None:
        """An entry as a finite number.

        Raises:
            ValueError: it is none; the message ends with the remedy.
        """
        value = self.value(block, *names)
        return None if value is None else finite(single(value.content), names[0], remedy)

    def numbers(self, block: Block | None, *names: str, remedy: str = "") -> np.ndarray | None:
        """An entry as a list of finite numbers; one number is a list of one."""
        value = self.value(block, *names)
        if value is None:
            return None
        listed = value.content if isinstance(value.content, list) else [value.content]
        return np.asarray([finite(item, names[0], remedy) for item in listed])

    def pointed(self) -> Iterator[tuple[Block, Block, str]]:
        """Blocks that pointers name: the block, the one that holds its pointer, and the pointer such as ``^IMAGE``."""
        first: dict[str, Block] = {}
        for block in self.root.walk():
            first.setdefault(block.name.upper(), block)
        for holder in self.root.walk():
            for pointer in [name for name in holder.entries if name.startswith("^")]:
                found = holder.child(pointer[1:]) or first.get(pointer[1:])
                if found is not None and found is not holder:
                    yield found, holder, pointer

    def whole(self, block: Block | None, *names: str, default: int | None = None) -> int:
        """An entry as a whole number that is not negative.

        Raises:
            ValueError: it is none, or it is not there and there is no default.
        """
        value = self.value(block, *names)
        if value is None:
            if default is None:
                raise ValueError(f"{(block.name if block is not None else '') or 'the label'} has no {names[0]}")
            return default
        return whole_number(single(value.content), names[0])

    def carry_outside(self, *inside: Block | None) -> None:
        """Mark as carried what describes the observation, or other images and tables, and not these blocks."""
        kept = [block.path for block in inside if block is not None]
        others = {
            block.path for block in self.root.walk()
            if {"LINES", "CORE_ITEMS", "ROWS"} & set(block.entries)
            and not any(path == block.path or path.startswith(f"{block.path}.") for path in kept)
        }  # fmt: skip
        for name in self.entries.header():
            above, _, keyword = name.rpartition(".")
            if any(above == path or above.startswith(f"{path}.") for path in kept if path):
                continue
            parts = above.split(".")
            foreign = any(".".join(parts[: i + 1]) in others for i in range(len(parts)))
            empty = _says_nothing(str(self.entries.peek(name)).strip("(), "))
            if foreign or empty or not WEIGHTY.match(keyword.upper()):
                self.entries.carry(name)


def finite(text: Any, name: str, remedy: str = "") -> float:
    """A finite number out of its text.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float(radix_of(text) if isinstance(text, str) and "#" in text else text)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {line_of_text(text)[:60]!r}{remedy}")
    return number


def whole_number(text: Any, name: str) -> int:
    """A whole number that is not negative, out of its text.

    Raises:
        ValueError: it is none.
    """
    number = finite(text, name)
    if number != int(number) or not 0 <= number < 2**63:
        raise ValueError(f"{name} must be a whole number, got {line_of_text(text)[:60]!r}")
    return int(number)


def radix_of(text: str) -> int:
    """The bits that a text such as ``16#FF7FFFFB#`` names.

    Raises:
        ValueError: it names none.
    """
    found = RADIX.fullmatch(text.strip())
    if found is None or len(found[3]) > 70:
        raise ValueError(f"{text[:60]!r} is no number")
    bits = int(found[3], int(found[2])) if 2 <= int(found[2]) <= 36 else 0
    return -bits if found[1] == "-" else bits


def line_of_text(content: Any) -> str:
    """A value of a label as one line."""
    if isinstance(content, list):
        return "(" + ", ".join(line_of_text(item) for item in content) + ")"
    return " ".join(str(content).split())


def _plain(value: Value) -> str:
    """A value with its unit, as one line."""
    return line_of_text(value.content) + (f" <{value.unit}>" if value.unit else "")


def single(content: Any) -> Any:
    """The item of a list of one; anything else as it is."""
    return content[0] if isinstance(content, list) and len(content) == 1 else content


def _says_nothing(content: Any) -> bool:
    """Whether a value is one of the words for "no value", or a list of nothing else."""
    if isinstance(content, list):
        return all(_says_nothing(item) for item in content)
    return str(content).strip().upper() in ABSENT


def read_label(path: Path) -> Label:
    """The label at the beginning of a file, or that is the whole of it.

    Raises:
        ValueError: there is none, it is damaged, or it has no END within two megabytes.
    """
    size, problem = path.stat().st_size, ""
    for wanted in (FIRST_BYTES, LABEL_BYTES):
        with path.open("rb") as file:
            read = file.read(wanted)
        try:
            root, ended = parse_label(read.decode("latin-1"))
        except ValueError as error:  # perhaps because what was read ends within the label
            problem = str(error)
        else:
            if ended or (wanted >= size and root.entries):  # the END of detached labels is forgotten now and then
                return Label(root, len(read))
            problem = "the label has no END" + ("" if wanted >= size else f" within {wanted} bytes")
        if wanted >= size:
            break
    raise ValueError(problem)


def beside(path: Path, name: str, keyword: str) -> Path:
    """The file that a label points to, which lies beside it.

    Args:
        path: of the label.
        name: of the file, as the label has it.
        keyword: of the label, for messages.

    Raises:
        ValueError: the name leads out of the folder of the label, or to the label itself.
        FileNotFoundError: there is no such file.
    """
    name = name.strip()
    if not name or name in (".", "..") or any(sign in name for sign in "/\\:\x00\n"):
        raise ValueError(f"{keyword} names {name[:80]!r}; a label names a file in its own folder, without a path")
    # Names are in capitals in labels and often in small letters in the file system.
    for spelling in (name, name.lower(), name.upper()):
        candidate = path.with_name(spelling)
        if candidate.is_file():
            if candidate == path or candidate.samefile(path):
                raise ValueError(f"{keyword} points to the label itself")
            return candidate
    raise FileNotFoundError(f"{path}: {keyword} names {name}, and there is no such file beside the label")


def located(label: Label, path: Path, block: Block, name: str) -> tuple[Path, int]:
    """The file and the byte that a pointer of PDS3 names (Standards Reference, chapter 14).

    Args:
        label: the label.
        path: of the label.
        block: that holds the pointer.
        name: of the pointer, such as ``^IMAGE``.

    Raises:
        ValueError: no pointer of the standard, or one that leads out of the folder.
        FileNotFoundError: there is no such file.
    """
    value = label.value(block, name)
    if value is None:
        raise ValueError(f"{name} points to nothing")
    parts = value.content if isinstance(value.content, list) else [value.content]
    file, count = path, 1
    if not parts or len(parts) > 2 or any(isinstance(part, list) for part in parts):
        raise ValueError(f"{name} is no pointer: {line_of_text(value.content)[:80]}")
    if re.fullmatch(r"\d{1,18}", parts[0]) and len(parts) == 1:
        count = int(parts[0])
    else:
        if parts[0].lower().endswith((".gz", ".zip", ".z", ".jp2")):
            raise ValueError(f"{name} names {parts[0][:80]}, which is compressed: unpack it first")
        file = beside(path, parts[0], name)
        count = whole_number(parts[1], name) if len(parts) == 2 else 1
    if value.unit.upper() in ("BYTE", "BYTES"):
        return file, max(count - 1, 0)
    if count <= 1:
        return file, 0
    holder = block if "RECORD_BYTES" in block.entries else label.root
    return file, (count - 1) * label.whole(holder, "RECORD_BYTES")


def sibling(path: Path, *names: str) -> Path | None:
    """The first of these files that lies beside a file, in any of the usual spellings; None: none does."""
    for name in names:
        for spelling in dict.fromkeys((name, name.lower(), name.upper())):
            if (candidate := path.with_name(spelling)) != path and candidate.is_file():
                return candidate
    return None
