"""Much text in little space, for a page that unpacks it when it is looked at.

24 MB of chains must fit into a page of 10 MB and cannot be fetched from elsewhere. Words that come often become one or
two bytes, which brings distant repetition within reach of DEFLATE (its window is 32 kB) and saves a sixth of what that
alone needs; the bytes are then written seven bits to a character, since a page is text. `browser/packed.js` is the
inverse and says the format once more.

A page of raw bytes would be an eighth smaller, but only where nobody serves it under another charset; base64 an eighth
larger. Half a pair of surrogates, which UTF-8 cannot hold, becomes U+FFFD.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 250_000  # characters that are unpacked at once: a few milliseconds in a browser
SHORT = 48  # words that are one byte, 0x80 to 0xAF
LONG = (0xFF - 0x80 - SHORT) * 256  # words that are two; 0xFF is followed by three bytes of any other character
WORDS = 8000  # more gain nothing, and have to be sent too

_TOKEN = re.compile(r" ?\\?[A-Za-z]+|[^\x00-\x7f]")
_HALF = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text is: its block, and the code units of UTF-16 there, as JavaScript counts."""

    block: int
    start: int
    length: int

    def to_json(self) -> list[int]:
        """For the page."""
        return [self.block, self.start, self.length]


class Packer:
    """Texts packed in blocks that share one list of words, which is made from a sample of them."""

    def __init__(self, sample: Iterable[str]) -> None:
        self.words = _words(sample)
        self.codes = {word: _code(number) for number, word in enumerate(self.words)}
        self.blocks: list[str] = []
        self.size = len(self.dictionary())  # characters of everything packed so far, the list of words included
        self._open: list[str] = []
        self._length = 0

    def add(self, text: str) -> Place:
        """Put a text at the end of the open block."""
        text = _HALF.sub("\ufffd", text)
        length = len(text) + sum(ord(c) > 0xFFFF for c in text) if not text.isascii() else len(text)
        place = Place(len(self.blocks), self._length, length)
        self._open.append(text)
        self._length += length
        if self._length >= BLOCK:
            self.close()
        return place

    def close(self) -> None:
        """End the open block, if there is one. The next text begins another."""
        if self._open:
            self.blocks.append(written(self._deflated("".join(self._open))))
            self.size += len(self.blocks[-1])
            self._open, self._length = [], 0

    def dictionary(self) -> str:
        """The list of words, packed like a block but as plain UTF-8."""
        return packed_text("\n".join(self.words))

    @property
    def waiting(self) -> int:
        """Characters in the open block."""
        return self._length

    def _deflated(self, text: str) -> bytes:
        def code(match: "re.Match[str]") -> str:
            token = match[0]
            known = self.codes.get(token)
            if known is None and len(token) == 1 and not token.isascii():
                return "\xff" + ord(token).to_bytes(3, "big").decode("latin-1")
            return known or token

        return _deflate(_TOKEN.sub(code, text).encode("latin-1"))


def packed_text(text: str) -> str:
    """A text packed by itself, as UTF-8."""
    return written(_deflate(_HALF.sub("\ufffd", text).encode()))


def written(data: bytes) -> str:
    """Bytes as ASCII: seven bits a character. NUL, CR and `<`, which HTML treats, follow a DEL, as does DEL itself.

    >>> len(written(bytes(range(7)) * 100)) / 700 < 1.4
    True
    """
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    sevens = np.concatenate([bits, np.zeros(-len(bits) % 7, dtype=np.uint8)]).reshape(-1, 7)
    raw = (np.packbits(sevens, axis=1) >> 1).tobytes()
    for byte in (b"\x7f", b"\x00", b"\r", b"<"):
        raw = raw.replace(byte, b"\x7f" + bytes([byte[0] ^ 0x40]))
    return raw.decode("ascii")


def _words(sample: Iterable[str]) -> list[str]:
    """What becomes a code: most saved first."""
    counts: Counter[str] = Counter()
    for text in sample:
        counts.update(_TOKEN.findall(_HALF.sub("\ufffd", text)))
    worth = {t: (len(t.encode()) - 1.5) * n for t, n in counts.items() if len(t.encode()) > 2 and n > 2}
    kept = sorted(worth, key=lambda t: (-worth[t], t))[: min(WORDS, SHORT + LONG)]
    return sorted(kept, key=lambda t: (-counts[t], t))


def _code(number: int) -> str:
    if number < SHORT:
        return chr(0x80 + number)
    lead, rest = divmod(number - SHORT, 256)
    return chr(0x80 + SHORT + lead) + chr(rest)


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def split(texts: Sequence[str]) -> list[str]:
    """Every n-th of many texts: enough to learn their words from."""
    return list(texts[:: max(1, len(texts) // 400)])
