"""A plugin for detect-secrets, with the checksum: what it reports is a password of ours, or was one.

detect-secrets scan --plugin deploy/scanners/detect_secrets_plugin.py
"""

import re
import zlib
from collections.abc import Generator

from detect_secrets.plugins.base import RegexBasedDetector

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MISREAD = str.maketrans("oil", "011")


def standard_is_ours(text: str) -> bool:
    """Whether the last six characters are the CRC-32 of all before, in base62."""
    value, digits = zlib.crc32(text[:-6].encode()), ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = BASE62[digit] + digits
    return text[-6:] == digits


def device_is_ours(text: str) -> bool:
    """Whether the last four characters are the low 20 bits of the CRC-32 of all before, in Crockford's base32; read as typed on a panel."""
    text = text.lower().translate(MISREAD)
    value = zlib.crc32(text[:-4].encode())
    return text[-4:] == "".join(CROCKFORD[(value >> shift) & 31] for shift in (15, 10, 5, 0))


class SmtpCredentialsDetector(RegexBasedDetector):
    """Finds both formats."""

    secret_type = "SMTP Credentials password"  # noqa: S105

    denylist = (
        re.compile(r"(?<![0-9A-Za-z])smtp1[0-9a-hjkmnp-tv-z]{8}[0-9A-Za-z]{27}(?![0-9A-Za-z])"),
        re.compile(r"(?<![0-9A-Za-z])smt[0-9a-tv-z]{17}(?![0-9A-Za-z])", re.IGNORECASE),
    )

    def analyze_string(self, string: str) -> Generator[str, None, None]:
        for found in super().analyze_string(string):
            if standard_is_ours(found) if len(found) == 40 else device_is_ours(found):
                yield found
