"""What goes over the network, connection by connection, as the kernel counts it (Linux; elsewhere nothing is seen)."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress

_SOCK_DIAG, _BY_FAMILY, _DUMP, _DONE, _ERROR = 4, 20, 0x301, 3, 2  # netlink's numbers
_OPEN = 1 << 1 | 1 << 2  # established, or being so
_MESSAGE = struct.Struct("=IHHII")
_WITH_INFO = 1 << 1
_INFO, _INODE_AT, _INFO_FROM, _BYTES_AT = 2, 68, 72, 120
_TIMEOUT = struct.pack("ll", 1, 0)


def connections() -> dict[int, int]:
    """Inode -> bytes the other side took and sent, for each open TCP connection; {} where the system does not say."""
    found: dict[int, int] = {}
    if sys.platform == "linux":
        with suppress(OSError, struct.error):
            for family in (socket.AF_INET, socket.AF_INET6):
                found.update(_of(family))
    return found


def sockets_of(pid: int) -> set[int] | None:
    """The inodes of the sockets a process holds; None when it may not be asked."""
    found = set[int]()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with suppress(FileNotFoundError):  # closed meanwhile
                link = os.readlink(f"/proc/{pid}/fd/{fd}")  # noqa: PTH115
                if link.startswith("socket:["):
                    found.add(int(link[8:-1]))
    except OSError:
        return None
    return found


def _of(family: int) -> Iterator[tuple[int, int]]:
    asked = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, _WITH_INFO, _OPEN)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as netlink:
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        netlink.send(_MESSAGE.pack(_MESSAGE.size + len(asked), _BY_FAMILY, _DUMP, 0, 0) + asked)
        while data := netlink.recv(1 << 17):
            at = 0
            while at + _MESSAGE.size <= len(data):
                length, kind, *_ = _MESSAGE.unpack_from(data, at)
                if kind in (_DONE, _ERROR) or length < _MESSAGE.size:
                    return
                body = data[at + _MESSAGE.size : at + length]
                yield struct.unpack_from("=I", body, _INODE_AT)[0], _bytes(body)
                at += (length + 3) & ~3


def _bytes(body: bytes) -> int:
    """The two counters in the attribute that holds the connection's state; 0 before Linux 4.1."""
    at = _INFO_FROM
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if kind == _INFO and length >= 4 + _BYTES_AT + 16:
            return int(sum(struct.unpack_from("=QQ", body, at + 4 + _BYTES_AT)))
        at += max((length + 3) & ~3, 4)
    return 0
