"""How a server's or a proxy's report of where a request comes from is read."""

import pytest

from app.core.admission import client_networks, parse_address

NO_ADDRESSES = [None, "", "unix:", "unknown", "_hidden", "198.51.100", "198.51.100.4.", "[", "[]:443", ":443"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.4", "198.51.100.4"),
        (" 198.51.100.4 ", "198.51.100.4"),
        ("198.51.100.4:5123", "198.51.100.4"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:0DB8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("::ffff:198.51.100.4", "198.51.100.4"),
        ("[::ffff:198.51.100.4]:5123", "198.51.100.4"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%" + "x" * 200, "fe80::1"),
    ],
)
def test_address_is_parsed_without_port_brackets_and_zone(text, address):
    assert str(parse_address(text)) == address


@pytest.mark.parametrize("text", [*NO_ADDRESSES, "x" * 200, "0" * 200])
def test_text_that_is_no_address_gives_none(text):
    assert parse_address(text) is None
    assert client_networks(text) == {}


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("203.0.113.7", ["203.0.113.7"]),
        ("203.0.113.7:80", ["203.0.113.7"]),
        ("2001:db8:1:2:3:4:5:6", ["2001:db8:1:2::/64", "2001:db8:1::/56", "2001:db8:1::/48"]),
        ("[2001:db8:1:f2:3:4:5:6]:80", ["2001:db8:1:f2::/64", "2001:db8:1::/56", "2001:db8:1::/48"]),
        ("::ffff:203.0.113.7", ["203.0.113.7"]),
    ],
)
def test_address_counts_for_networks_of_every_size(text, networks):
    assert list(client_networks(text)) == networks
