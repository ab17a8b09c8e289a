"""GitHub's signature under a report of its secret scanning, by the public keys that GitHub lists.

https://docs.github.com/en/code-security/secret-scanning/secret-scanning-partner-program
"""

import asyncio
import binascii
import json
import re
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from yarl import URL

from bot.slack import proxy_for

LIMIT = 5.0  # seconds for the list of keys
LIST_MAX = 64 * 1024  # bytes of it
KEYS_MAX = 20
EVERY = 60.0  # seconds between two looks for a key that is not known
_IDENTIFIER = re.compile(r"[0-9a-f]{40,64}")
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{60,200}={0,2}")

log = structlog.get_logger(__name__)


class KeysAway(Exception):
    """GitHub's list of keys cannot be had now."""


class Keys:
    """GitHub's public keys. They change now and then: one that is not known is looked for in the list, at most once a minute.

    Args:
        address: of the list.
        monotonic: seconds.
    """

    def __init__(self, address: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._address = URL(address)
        self._now = monotonic
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._looked: float | None = None
        self._turn = asyncio.Lock()

    @staticmethod
    def fits(identifier: str, signature: str) -> bool:
        """Whether the two headers can be GitHub's."""
        return bool(_IDENTIFIER.fullmatch(identifier) and _SIGNATURE.fullmatch(signature))

    async def signed(self, identifier: str, signature: str, body: bytes) -> bool:
        """Whether the key with this identifier signed the body (ECDSA on P-256 with SHA-256, in DER and Base64). Raises KeysAway."""
        key = await self._key(identifier)
        if key is None:
            return False
        try:
            key.verify(b64decode(signature, validate=True), body, ec.ECDSA(SHA256()))
        except (InvalidSignature, binascii.Error):
            return False
        return True

    async def _key(self, identifier: str) -> ec.EllipticCurvePublicKey | None:
        async with self._turn:
            lately = self._looked is not None and self._now() - self._looked < EVERY
            if identifier not in self._keys and not lately:
                self._keys = await self._list()
                self._looked = self._now()
            return self._keys.get(identifier)

    async def _list(self) -> dict[str, ec.EllipticCurvePublicKey]:
        try:
            async with (
                ClientSession(timeout=ClientTimeout(total=LIMIT)) as http,
                http.get(self._address, proxy=proxy_for(self._address), allow_redirects=False) as answer,
            ):
                content = await answer.content.read(LIST_MAX)
                if answer.status != 200:
                    raise KeysAway(f"status {answer.status}")
            listed: list[dict[str, Any]] = json.loads(content)["public_keys"][:KEYS_MAX]
            found = {str(one["key_identifier"]): load_pem_public_key(str(one["key"]).encode()) for one in listed}
        except (ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("GitHub's keys cannot be read", error=type(error).__name__)
            raise KeysAway(type(error).__name__) from None
        return {
            identifier: key
            for identifier, key in found.items()
            if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        }
