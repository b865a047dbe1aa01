"""Client addresses, as far as limits and the log care about them.

What a server or a proxy says is read here alone: some proxies write `198.51.100.4:5123` or `[2001:db8::1]:443`.
"""

import ipaddress

# RFC 6177: one customer has a /64, a /56 or a /48, and all of its addresses. A carrier gives each phone a /64, so the
# wider networks may be many customers: each may do four times as much as the one before.
IPV6_NETWORKS = {64: 1, 56: 4, 48: 16}


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


def client_networks(told: str | None) -> dict[str, int]:
    """Whom an address may stand for, and how many times as much as one client each may do.

    IPv4: itself. IPv6: its /64, /56 and /48. Nothing when it is no address.
    """
    address = parse_address(told)
    if isinstance(address, ipaddress.IPv6Address):
        networks = ((bits, ipaddress.ip_network((address, bits), strict=False)) for bits in IPV6_NETWORKS)
        return {str(network): IPV6_NETWORKS[bits] for bits, network in networks}
    return {} if address is None else {str(address): 1}
