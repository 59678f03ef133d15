"""Damage of Ogg and Matroska files that FFmpeg passes over in silence.

FFmpeg skips an Ogg page with a wrong checksum, and reads what is left of a WebM that was cut. Both
containers state more than that: Ogg marks a stream's last page, numbers its pages and has a
checksum of each; elements of Matroska state their sizes, and some programs write checksums of
clusters. These readers accept the bytes of a file in pieces of any size, and need little memory.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Inspector", "inspector"]

_OGG, _EBML = b"OggS", b"\x1aE\xdf\xa3"
_MAX_STREAMS = 1000  # FFmpeg's own limit
# zlib computes the CRC of reversed bits; Ogg's is of the same polynomial, but of bits as they are.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Inspector(Protocol):
    """A reader of a container's structure."""

    @property
    def stated(self) -> float:
        """The seconds of all tracks together that the header states, 0 where it states none."""

    def feed(self, data: bytes) -> None:
        """Read the file's next bytes."""

    def damaged(self) -> bool:
        """Return whether the bytes so far are damaged, or are not a whole file."""


def inspector(head: bytes) -> Inspector | None:
    """Return the reader for a file that starts with ``head``, None where there is none."""
    if head.startswith(_OGG):
        return _Ogg()
    return _Matroska() if head.startswith(_EBML) else None


class _Ogg:
    """Reads the pages of an Ogg file (RFC 3533, section 6)."""

    stated = 0.0

    def __init__(self) -> None:
        self._data = bytearray()
        self._damaged = False
        # The number of the last page of each open stream. It is None after headers, since the
        # recording of a radio station continues with the number that its stream has reached.
        self._open: dict[int, int | None] = {}

    def feed(self, data: bytes) -> None:
        """Read the file's next bytes."""
        if self._damaged:
            return
        self._data += data
        at = 0
        while not self._damaged and (size := self._page_size(at)):
            self._page(bytes(self._data[at : at + size]))
            at += size
        del self._data[:at]

    def damaged(self) -> bool:
        """Return whether a page is damaged or missing, the last one of a stream included."""
        return self._damaged or bool(self._open)

    def _page_size(self, at: int) -> int:
        """Return the number of bytes of the page at ``at``, 0 where it is not complete."""
        data = self._data
        if len(data) < at + 27 or len(data) < at + 27 + data[at + 26]:
            return 0
        size = 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
        return size if len(data) >= at + size else 0

    def _page(self, page: bytes) -> None:
        magic, _, flags, granule, serial, number, checksum = struct.unpack_from("<4sBBqIII", page)
        if magic != _OGG:  # tags and zeros may follow the last page
            self._damaged = bool(self._open)
            return
        last = self._open.get(serial)
        self._damaged = (
            checksum != _checksum(page[:22] + bytes(4) + page[26:])
            or (last is not None and number != (last + 1) % 2**32)
            or len(self._open) > _MAX_STREAMS
        )
        self._open[serial] = number if granule else None
        if flags & 4:
            del self._open[serial]


def _checksum(page: bytes) -> int:
    of_reversed = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{of_reversed:032b}"[::-1], 2)


_HEADER, _SEGMENT, _INFO, _CLUSTER, _VOID = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1F43B675, 0xEC
_CHECKSUM, _SCALE, _DURATION = 0xBF, 0x2AD7B1, 0x4489
_TOP = 0x10000000  # Children of a Segment have identifiers of four bytes, and theirs have fewer.


@dataclass
class _Parent:
    """An element whose children are read."""

    identifier: int
    end: int | None
    """The position behind it; None where it does not state its size."""
    checksum: int | None = None
    """The CRC-32 of its other children, where it states one (RFC 8794, section 11.3.1)."""
    computed: int = 0


class _Matroska:
    """Reads the elements of a Matroska or WebM file (RFC 9559; EBML: RFC 8794, section 5)."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at, self._position = 0, 0  # the next byte: in the data, in the file
        self._left = 0  # bytes of the current element that are still to come
        self._parents: list[_Parent] = []
        self._scale, self._duration = 1_000_000, 0.0
        self._damaged = self._finished = False

    @property
    def stated(self) -> float:
        """The seconds of all tracks together that the header states, 0 where it states none."""
        seconds = self._scale * self._duration / 1e9
        return seconds if 0 < seconds < 1e9 else 0.0

    def feed(self, data: bytes) -> None:
        """Read the file's next bytes."""
        self._data += data
        while not (self._damaged or self._finished) and self._step():
            pass
        del self._data[: None if self._damaged or self._finished else self._at]
        self._at = 0

    def damaged(self) -> bool:
        """Return whether an element is damaged, or ends behind the file."""
        inside = any(parent.end not in (None, self._position) for parent in self._parents)
        return self._damaged or inside or self._left > 0 or bool(self._data)

    def _step(self) -> bool:
        """Read more of an element, or the beginning of the next; return False to wait for bytes."""
        if self._left:
            self._advance(size := min(self._left, len(self._data) - self._at))
            self._left -= size
            return size > 0
        while self._parents and self._parents[-1].end == self._position:
            self._close(self._parents.pop())
        if self._damaged or self._finished:
            return False
        identifier, width = _number(self._data, self._at, 4)
        size, more = _number(self._data, self._at + width, 8) if width else (0, 0)
        if not more:
            self._damaged = len(self._data) - self._at >= 4 + 8
            return False
        stated = size != (2 << 7 * more) - 1  # all bits are set where no size is stated
        return self._element(identifier, width + more, size - (1 << 7 * more) if stated else None)

    def _element(self, identifier: int, width: int, size: int | None) -> bool:
        """Read the beginning of an element, of ``width`` bytes, whose content has ``size``."""
        value = identifier in (_CHECKSUM, _SCALE, _DURATION) and size is not None and size <= 8
        if value and len(self._data) < self._at + width + (size or 0):
            return False
        # The next element of its parent ends one that does not state its size.
        while self._parents and self._parents[-1].end is None:
            if identifier < _TOP or (len(self._parents) == 1 and identifier != _HEADER):
                break
            self._parents.pop()
        within = self._parents[-1].identifier if self._parents else None
        self._advance(width)
        end = None if size is None else self._position + size
        ends = [parent.end for parent in self._parents if parent.end is not None]
        self._damaged = (
            (end or self._position) > min(ends, default=1 << 64)
            or (size is None and identifier not in (_SEGMENT, _CLUSTER))
            or (within is None and identifier not in (_HEADER, _SEGMENT, _VOID))
            or (within in (_INFO, _CLUSTER) and identifier >= _TOP)
        )
        if identifier in (_SEGMENT, _INFO, _CLUSTER):
            self._parents.append(_Parent(identifier, end))
            return True
        content = bytes(self._data[self._at : self._at + (size or 0)]) if value else b""
        self._advance(len(content))
        self._left = (size or 0) - len(content)
        self._value(identifier, within, content)
        return True

    def _value(self, identifier: int, within: int | None, content: bytes) -> None:
        if identifier == _SCALE and within == _INFO:
            self._scale = int.from_bytes(content)
        elif identifier == _DURATION and within == _INFO and len(content) in (4, 8):
            (self._duration,) = struct.unpack(">f" if len(content) == 4 else ">d", content)
        elif identifier == _CHECKSUM and within == _CLUSTER:
            self._parents[-1].checksum = int.from_bytes(content, "little")

    def _advance(self, size: int) -> None:
        """Pass over bytes of the innermost parent."""
        if self._parents and (parent := self._parents[-1]).checksum is not None:
            passed = self._data[self._at : self._at + size]
            parent.computed = zlib.crc32(passed, parent.computed)
        self._at += size
        self._position += size

    def _close(self, parent: _Parent) -> None:
        self._damaged = self._damaged or parent.checksum not in (None, parent.computed)
        self._finished = parent.identifier == _SEGMENT


def _number(data: bytearray, at: int, widest: int) -> tuple[int, int]:
    """Return the number at ``at``, its marker included, and its width; zeros if there is none."""
    width = 9 - data[at].bit_length() if at < len(data) else 9
    if width > widest or at + width > len(data):
        return 0, 0
    return int.from_bytes(data[at : at + width]), width
