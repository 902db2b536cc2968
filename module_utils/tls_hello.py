"""What a TLS server chooses when it is offered only this or that, up to its first words, without any cryptography.

A library offers nothing that it would not use itself; a server is asked about just that. RFC 5246 and RFC 8422. Pure.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

TLS_1_1, TLS_1_2 = 0x0302, 0x0303
VERSIONS = {0x0300: "SSL 3.0", 0x0301: "TLS 1.0", TLS_1_1: "TLS 1.1", TLS_1_2: "TLS 1.2"}

# Cipher suites by their exchange of keys; of each those that servers have mostly (IANA, TLS Cipher Suites).
ECDHE = (0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA8, 0xCCA9, 0xC023, 0xC024, 0xC027, 0xC028, 0xC009, 0xC00A, 0xC013, 0xC014)
DHE = (0x009E, 0x009F, 0xCCAA, 0x0067, 0x006B, 0x0033, 0x0039, 0x0016)
RSA = (0x009C, 0x009D, 0x003C, 0x003D, 0x002F, 0x0035, 0x000A)

GROUPS = (29, 23, 30, 24, 25, 256, 257)  # x25519, P-256, x448, P-384, P-521, ffdhe2048, ffdhe3072
OLD_CURVES = tuple(range(1, 23))  # removed by RFC 8422, 5.1.1

_SIGNATURES = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201)
_HANDSHAKE = 22
_SERVER_HELLO, _KEY_EXCHANGE, _DONE = 2, 12, 14


@dataclass(frozen=True)
class Choice:
    """What a server chose. curve: its number, of ECDHE. bits: the size of the prime, of DHE. Both 0 if not told."""

    version: int
    cipher: int
    curve: int = 0
    bits: int = 0


def client_hello(version: int, ciphers: Sequence[int], groups: Sequence[int] = GROUPS) -> bytes:
    """Answer the record that offers a version, TLS 1.2 at most, and all before it."""
    extensions = _extension(10, _vector(_words(groups), 2)) + _extension(11, b"\1\0") + _extension(0xFF01, b"\0")
    if version >= TLS_1_2:
        extensions += _extension(13, _vector(_words(_SIGNATURES), 2))
    body = struct.pack("!H", version) + secrets.token_bytes(32) + b"\0"
    body += _vector(_words(ciphers), 2) + b"\1\0" + _vector(extensions, 2)
    handshake = b"\1" + _vector(body, 3)
    return bytes([_HANDSHAKE]) + struct.pack("!H", min(version, 0x0301)) + _vector(handshake, 2)


def choice(said: bytes) -> tuple[Choice | None, bool]:
    """Answer what the bytes that a server has sent say that it chose, and whether that is all: None is a refusal."""
    found: Choice | None = None
    handshake = b""
    for kind, content in _records(said):
        if kind != _HANDSHAKE:  # an alert, or no TLS at all
            return None, True
        handshake += content
    for kind, body in _messages(handshake):
        if kind == _SERVER_HELLO and len(body) > 37:
            start = 35 + body[34]
            found = Choice(*struct.unpack_from("!H", body), *struct.unpack_from("!H", body, start))
        elif kind == _KEY_EXCHANGE and found:
            found = _with_key(found, body)
        elif kind == _DONE:
            return found, True
    return found, False


def _with_key(found: Choice, body: bytes) -> Choice:
    if found.cipher in ECDHE and body[:1] == b"\3":  # a named curve
        return Choice(found.version, found.cipher, curve=struct.unpack_from("!H", body, 1)[0])
    if found.cipher in DHE:
        [size] = struct.unpack_from("!H", body)
        return Choice(found.version, found.cipher, bits=int.from_bytes(body[2 : 2 + size]).bit_length())
    return found


def _records(said: bytes) -> Iterator[tuple[int, bytes]]:
    """Answer the kind and the content of each whole record."""
    while len(said) >= 5:
        [size] = struct.unpack_from("!H", said, 3)
        if len(said) < 5 + size:
            return
        yield said[0], said[5 : 5 + size]
        said = said[5 + size :]


def _messages(handshake: bytes) -> Iterator[tuple[int, bytes]]:
    """Answer the kind and the body of each whole message."""
    while len(handshake) >= 4:
        size = int.from_bytes(handshake[1:4])
        if len(handshake) < 4 + size:
            return
        yield handshake[0], handshake[4 : 4 + size]
        handshake = handshake[4 + size :]


def _words(numbers: Iterable[int]) -> bytes:
    return b"".join(struct.pack("!H", number) for number in numbers)


def _vector(content: bytes, size: int) -> bytes:
    return len(content).to_bytes(size) + content


def _extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + _vector(content, 2)
