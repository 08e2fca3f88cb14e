"""Ed25519 signatures, checked in plain Python as RFC 8032 defines them (sections 5.1.3, 5.1.7 and 6)."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

KEY_HEADER = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: what precedes the 32 bytes of an Ed25519 key

Point = tuple[int, int, int, int]  # X, Y, Z, T: x = X / Z, y = Y / Z, x y = T / Z


def plus_point(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times_point(factor: int, p: Point) -> Point:
    total = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            total = plus_point(total, p)
        p = plus_point(p, p)
        factor >>= 1
    return total


def same_point(p: Point, q: Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def point_from(data: bytes) -> Point | None:
    """The point that 32 bytes encode: y, and in the last bit whether x is odd. None if there is none."""
    value = int.from_bytes(data, "little")
    odd, y = value >> 255, value & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P  # of x; the divisor is never 0
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and odd):
        return None
    x = x if x & 1 == odd else P - x
    return x, y, 1, x * y % P


def verified(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature of 64 bytes on a message was made with the private half of a public key of 32 bytes."""
    base = point_from(bytes([0x58]) + bytes([0x66]) * 31)
    key, point = point_from(public), point_from(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if base is None or key is None or point is None or s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    return same_point(times_point(s, base), plus_point(point, times_point(h, key)))


def public_key(path: Path) -> bytes:
    """The 32 bytes in a PEM file ("BEGIN PUBLIC KEY"); raises OSError or ValueError."""
    lines = path.read_text(encoding="ascii").strip().splitlines()
    if len(lines) < 3 or (lines[0], lines[-1]) != ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"):
        raise ValueError("no PEM file of a public key")
    content = base64.b64decode("".join(lines[1:-1]), validate=True)
    if len(content) != 44 or not content.startswith(KEY_HEADER):
        raise ValueError("no Ed25519 key")
    return content[12:]
