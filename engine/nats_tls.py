"""TLS towards NATS: whom to trust and what to show, from files that may be replaced in use."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any, Self

from engine.certificates import Files
from engine.errors import StartupError


class NatsTls(ssl.SSLContext):
    """A client's TLS context that trusts and shows, at every connection, what its files then hold.

    Without a CA file, what the system trusts. Raises StartupError when the files are no use to
    begin with.
    """

    _files: Files
    _newest: ssl.SSLContext

    def __new__(cls, files: Files) -> Self:
        tls = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        tls._files, tls._newest = files, _context(files)
        return tls

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        with suppress(StartupError):  # being replaced: what was good stays so
            self._newest = _context(self._files)
        return self._newest.wrap_bio(*arguments, **options)


def _context(files: Files) -> ssl.SSLContext:
    certificate_file, key_file = files.certificate_file, files.key_file
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
    except (ssl.SSLError, OSError):
        raise StartupError(
            f"NATS_CA_FILE: {files.ca_file} must hold PEM certificates of CAs"
        ) from None
    if certificate_file is None and key_file is None:
        return context
    if certificate_file is None or key_file is None:
        raise StartupError("NATS_CERTIFICATE_FILE and NATS_KEY_FILE belong together; set both")
    try:
        # Without a password function, an encrypted key would be asked for on the terminal.
        context.load_cert_chain(certificate_file, key_file, password=lambda: "")
    except (ssl.SSLError, OSError):
        raise StartupError(
            f"NATS_CERTIFICATE_FILE, NATS_KEY_FILE: {certificate_file} and {key_file} must be a "
            "PEM certificate and its own PEM key without a password"
        ) from None
    return context
