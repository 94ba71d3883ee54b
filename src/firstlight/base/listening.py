"""A socket that listens at one address: torch's own listen on all interfaces."""

import socket

_WAITING = 4096
"""Connections that wait to be taken: those of all ranks may come at once."""


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens at `address`, a name or a number. Raises OSError where this machine has no such one."""
    family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(place)
    taken.listen(_WAITING)
    return taken
