"""The network interface that has an address: what gloo is told to listen on."""

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 256
_ADDRESS = slice(20, 24)
"""Where the answer, a struct ifreq, has an IPv4 address."""


def interface_of(address: str) -> str | None:
    """The name of the interface with this IPv4 address; None where none has it, or the kernel is not asked this way."""
    if address.startswith("127."):
        return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        names = [name for _, name in socket.if_nameindex()]
        return next((name for name in names if _address(asked, name) == address), None)


def _address(asked: socket.socket, name: str) -> str | None:
    try:
        answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack(f"{_NAME_BYTES}s", name.encode()))
    except OSError:  # an interface without one
        return None
    return socket.inet_ntoa(answer[_ADDRESS])
