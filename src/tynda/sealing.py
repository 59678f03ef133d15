"""Data sealed with AES-256-GCM (NIST SP 800-38D): a byte for the format, a random nonce of 96 bits,
the ciphertext, and its tag of 128 bits."""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["KEY_BYTES", "InvalidTag", "open_sealed", "seal"]

KEY_BYTES = 32
_FORMAT = b"\x01"
"""First byte of sealed data, for formats to come."""
_NONCE = 12


def seal(key: bytes, data: bytes, bound: bytes) -> bytes:
    """Encrypt data, and bind it to ``bound``, the associated data."""
    nonce = secrets.token_bytes(_NONCE)
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, data, bound)


def open_sealed(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Decrypt what `seal` gave for this key and ``bound``. Raises `InvalidTag` for other data."""
    nonce, data = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
    if sealed[:1] != _FORMAT or len(nonce) < _NONCE:
        raise InvalidTag
    return AESGCM(key).decrypt(nonce, data, bound)
