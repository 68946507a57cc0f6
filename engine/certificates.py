"""Certificates, keys and CAs from files that may be replaced while they are in use."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, fields
from pathlib import Path

import structlog

from engine.errors import StartupError

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Files:
    """Where the PEM files are; the key's content is never kept or logged.

    `ca_file` says whom to trust: a server with one asks every client for a certificate. None
    of the three: no TLS.
    """

    certificate_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Material:
    """What was in the files, fit for use together."""

    pair: tuple[bytes, bytes] | None
    ca: bytes | None
    # The same for a server, which with a CA wants a certificate of every client.
    context: ssl.SSLContext = field(compare=False, repr=False)


def read(files: Files) -> Material:
    """The files' contents. Raises StartupError, naming file and remedy, when they are no use."""
    if (files.certificate_file is None) != (files.key_file is None):
        raise StartupError("TLS: a certificate file and a key file belong together; give both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = None
    if files.certificate_file and files.key_file:
        pair = _contents(files.key_file), _contents(files.certificate_file)
        try:
            # Without a password function, an encrypted key would be asked for on the terminal.
            context.load_cert_chain(files.certificate_file, files.key_file, password=lambda: "")
        except (ssl.SSLError, OSError):
            raise StartupError(
                f"TLS: {files.certificate_file} and {files.key_file} must be a PEM certificate"
                " and its own PEM key without a password"
            ) from None
    ca = _contents(files.ca_file) if files.ca_file else None
    if ca is not None:
        try:
            context.load_verify_locations(cafile=files.ca_file)
        except (ssl.SSLError, OSError):
            raise StartupError(f"TLS: {files.ca_file} must hold PEM certificates of CAs") from None
        context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return Material(pair, ca, context)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"TLS: {path} cannot be read: {error.strerror}") from None


class Reloading:
    """The files' newest usable content: half-replaced ones are told of and not used."""

    def __init__(self, files: Files) -> None:
        """Raises StartupError when the files are no use to begin with."""
        self._files = files
        self._seen = self._told = self._stamps()
        self.material = read(files)

    def refresh(self) -> bool:
        """Look at the files again; whether `material` is other than it was. Never raises."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        try:
            material = read(self._files)
        except StartupError as error:
            # What cannot be read now may be readable the next time, without another change.
            if stamps != self._told:
                logger.warning("new certificates are no use; the old ones stay", why=str(error))
                self._told = stamps
            return False
        self._seen = self._told = stamps
        if material == self.material:
            return False
        self.material = material
        logger.info("certificates reloaded")
        return True

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [
            _stamp(path)
            for path in (self._files.certificate_file, self._files.key_file, self._files.ca_file)
        ]


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_ino, found.st_size)
