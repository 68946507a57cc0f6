"""A NATS operator for a test: its server's configuration, and the .creds files of its users."""

from __future__ import annotations

import base64
import json
import time
from binascii import crc_hqx
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# What a key is for, as the five bits that become the first letter of its text.
SEED, OPERATOR, ACCOUNT, USER = (18 << 3, 14 << 3, 0, 20 << 3)
UNLIMITED: Final = -1
LIMITS: Final = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), UNLIMITED
) | {"wildcards": True}
JETSTREAM: Final = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), UNLIMITED)


class Key:
    """An nkey: a pair of ed25519 keys with a letter in front and a checksum behind."""

    def __init__(self, kind: int) -> None:
        self._pair = Ed25519PrivateKey.generate()
        self.public = _text(bytes([kind]) + self._pair.public_key().public_bytes_raw())
        first, second = SEED | kind >> 5, (kind & 31) << 3
        self.seed = _text(bytes([first, second]) + self._pair.private_bytes_raw())

    def signs(self, subject: str, nats: dict[str, Any], **claims: Any) -> str:
        """A JWT about the subject."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {"jti": subject, "iat": int(time.time()), "iss": self.public, "sub": subject}
        said = ".".join(
            _base64url(json.dumps(part).encode())
            for part in (header, body | claims | {"nats": nats | {"version": 2}})
        )
        return f"{said}.{_base64url(self._pair.sign(said.encode()))}"


class Operator:
    """Vouches for one account with JetStream, whose users are let into its server."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        key, self._account, system = Key(OPERATOR), Key(ACCOUNT), Key(ACCOUNT)
        accounts = {
            self._account.public: key.signs(
                self._account.public, {"type": "account", "limits": LIMITS | JETSTREAM}
            ),
            system.public: key.signs(system.public, {"type": "account", "limits": LIMITS}),
        }
        self.config_file = directory / "operator.conf"
        self.config_file.write_text(
            f"operator: {key.signs(key.public, {'type': 'operator'})}\n"
            f"system_account: {system.public}\n"
            f"resolver: MEMORY\n"
            f"resolver_preload: {json.dumps(accounts)}\n"
        )

    def creds(self, name: str, *, lives_seconds: int | None = None) -> Path:
        """The file of a new user, who may be one whose time is over."""
        user = Key(USER)
        ends = {} if lives_seconds is None else {"exp": int(time.time()) + lives_seconds}
        limits = dict.fromkeys(("subs", "data", "payload"), UNLIMITED)
        jwt = self._account.signs(user.public, {"type": "user", **limits}, **ends)
        file = self._directory / f"{name}.creds"
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return file


def _text(raw: bytes) -> str:
    checksum = crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
