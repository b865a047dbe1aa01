"""Client addresses, as far as limits, claims and the log care about them.

What a server or a proxy says is read here alone: some proxies write `198.51.100.4:5123` or `[2001:db8::1]:443`.
"""

import ipaddress

IPV6_SITE_BITS = 64  # RFC 6177: one customer has at least a /64, and all of its addresses


def parse_address(told: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address alone, without port, brackets and zone, IPv4 as such; None when it is no address."""
    text = (told or "").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def client_address(told: str | None) -> str | None:
    """The address in its one spelling, at most 39 characters; None when it is no address."""
    address = parse_address(told)
    return None if address is None else str(address)


def client_network(told: str | None) -> str | None:
    """Whom an address stands for: itself for IPv4, its /64 for IPv6; None when it is no address."""
    address = parse_address(told)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_SITE_BITS), strict=False))
    return None if address is None else str(address)
