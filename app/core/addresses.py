"""Client addresses, as far as limits and claims care about them."""

import ipaddress

IPV6_SITE_BITS = 64  # RFC 6177: one customer has at least a /64, and all of its addresses


def client_network(address: str | None) -> str:
    """Whom an address stands for: itself for IPv4, its /64 for IPv6; `unknown` when there is none."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, IPV6_SITE_BITS), strict=False))
    return str(parsed)
