"""Ed25519 signatures of certificates: who issued one. Optional, with the extra ``sign`` (``cryptography``).

The private key lies beside the ledger's key, ``KEY.sign`` (PEM, 0600), the public one in ``KEY.sign.pub``: its holder
hands that out, and whoever has it verifies offline, also with the standalone verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pe.errors import CertificateError, ConfigError, LedgerError
from pe.permissions import write_private
from pe.privacy.ledger import canonical

UNSIGNED = "unsigned: as far as the issuer's ledger is to be believed"

_PURPOSE = b"pe-synth certificate\0"
_ALGORITHM = "ed25519"

Signer = Callable[[Mapping[str, Any]], dict[str, str]]


def key_paths(ledger_key: Path) -> tuple[Path, Path]:
    """Where the private and the public signing key of a ledger lie."""
    return ledger_key.with_name(f"{ledger_key.name}.sign"), ledger_key.with_name(f"{ledger_key.name}.sign.pub")


def create_key(ledger_key: Path) -> Path:
    """Make a signing key, unless there is one, and return the path of its public half."""
    _, serialization = _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = key_paths(ledger_key)
    if not private.exists():
        content = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(private, content, once=True)
    key = _load(private).public_key()
    write_private(public, key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def signer(ledger_key: Path) -> Signer | None:
    """What signs certificates under a ledger's key; None where it has no signing key.

    Raises ConfigError where there is a key, and no library to sign with: nothing goes out unsigned unnoticed.
    """
    private, _ = key_paths(ledger_key)
    if not private.exists():
        return None
    key = _load(private)

    def sign(certificate: Mapping[str, Any]) -> dict[str, str]:
        public, value = key.public_key().public_bytes_raw(), key.sign(_message(certificate))
        return {"algorithm": _ALGORITHM, "public_key": public.hex(), "value": value.hex()}

    return sign


def check(certificate: Mapping[str, Any], public_key: bytes | None) -> str:
    """Check the signature, if there is one, and say whose it is; raises CertificateError.

    With a ``public_key`` (32 bytes) the certificate must be signed with it.
    """
    if "signature" not in certificate:
        if public_key is not None:
            raise CertificateError("the certificate is not signed, although a public key was given.")
        return UNSIGNED
    signature = certificate["signature"]
    if not isinstance(signature, dict) or signature.keys() != {"algorithm", "public_key", "value"}:
        raise CertificateError("the certificate's signature is malformed.")
    key, value = signature["public_key"], signature["value"]
    if signature["algorithm"] != _ALGORITHM or not _is_hex(key, 32) or not _is_hex(value, 64):
        raise CertificateError("the certificate's signature is malformed.")
    if public_key is not None and key != public_key.hex():
        raise CertificateError(f"the certificate is signed with another key, {key[:16]}, than the one given.")
    invalid, _ = _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(value), _message(certificate))
    except invalid:
        raise CertificateError(
            "the certificate's signature does not hold: it was altered after it was signed."
        ) from None
    whose = "the key given" if public_key is not None else "compare it with the issuer's (--public-key)"
    return f"signed with the Ed25519 key {key}: {whose}"


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of an Ed25519 public key in a PEM file; raises ConfigError."""
    _, serialization = _library()
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
        content: bytes = key.public_bytes_raw()
    except OSError as error:
        raise ConfigError(f"the public key {path} cannot be read: {error.strerror}.") from None
    except (ValueError, AttributeError):
        raise ConfigError(f"{path} is no Ed25519 public key in PEM: name the issuer's .pub file.") from None
    if len(content) != 32:
        raise ConfigError(f"{path} is no Ed25519 public key in PEM: name the issuer's .pub file.")
    return content


def _message(certificate: Mapping[str, Any]) -> bytes:
    return _PURPOSE + canonical({name: part for name, part in certificate.items() if name != "signature"}).encode()


def _load(path: Path) -> Any:
    _, serialization = _library()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        key.public_key().public_bytes_raw()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LedgerError(
            f"the signing key {path} cannot be used ({type(error).__name__}): restore it, or take it away to issue "
            "unsigned certificates. Nothing was spent by this call."
        ) from None
    return key


def _library() -> tuple[type[Exception], Any]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise ConfigError(
            "signed certificates need: pip install 'pe-synth[sign]'. Nothing was spent by this call."
        ) from None
    return InvalidSignature, serialization


def _is_hex(value: object, size: int) -> bool:
    return isinstance(value, str) and len(value) == 2 * size and set(value) <= set("0123456789abcdef")
