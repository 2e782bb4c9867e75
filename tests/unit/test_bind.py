"""Where a listener may bind: loopback or a unix socket, or else mutual TLS."""

import ssl
from pathlib import Path

import pytest
from dataplane.pki import Authority
from tenantry.adapters.bind import Address, BindError, Tls, parse_address, require_safe, sans_of

ALLOWED = "spiffe://prod/envoy"


@pytest.mark.parametrize(
    ("text", "address", "local"),
    [
        ("127.0.0.1:50051", Address(host="127.0.0.1", port=50051), True),
        ("127.8.8.8:0", Address(host="127.8.8.8", port=0), True),
        ("localhost:65535", Address(host="localhost", port=65535), True),
        ("[::1]:80", Address(host="::1", port=80), True),
        ("unix:/run/tenantry.sock", Address(path="/run/tenantry.sock"), True),
        ("0.0.0.0:80", Address(host="0.0.0.0", port=80), False),
        ("[::]:80", Address(host="::", port=80), False),
        ("10.0.0.7:80", Address(host="10.0.0.7", port=80), False),
        ("sidecar:80", Address(host="sidecar", port=80), False),
        ("localhost.example:80", Address(host="localhost.example", port=80), False),
        ("127.0.0.1.example:80", Address(host="127.0.0.1.example", port=80), False),
        ("0:80", Address(host="0", port=80), False),  # a way to write 0.0.0.0
    ],
)
def test_addresses(text: str, address: Address, local: bool) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_local is local


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "127.0.0.1", "127.0.0.1:", ":80", "[]:80", "127.0.0.1:http", "127.0.0.1:-1", "127.0.0.1:65536",
        "127.0.0.1:+8", "127.0.0.1: 80", "127.0.0.1:80 ", "127.0.0.1:\u00b2", "127.0.0.1:\u0663", "127.0.0.1:0x50",
        "127.0.0.1:1_0",
        "127.0.0.1:" + "9" * 5000, "unix:", "unix:relative.sock", "unix:@abstract", "UNIX:/x", "unix:/a\0b",
        "unix:/" + "x" * 107,
        "unix:/" + "\u00e9" * 54,  # 109 bytes
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BindError, match="unix"):
        parse_address(text)


def test_a_socket_path_may_have_107_bytes() -> None:
    assert parse_address("unix:/" + "x" * 106).path == "/" + "x" * 106


def tls(*sans: str, folder: Path = Path()) -> Tls:
    return Tls(
        certificate=folder / "server.pem",
        key=folder / "server.key",
        client_ca=folder / "ca.pem",
        allowed_sans=frozenset(sans),
    )


@pytest.mark.parametrize("text", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/x"])
def test_on_this_machine_no_tls_is_needed(text: str) -> None:
    require_safe(parse_address(text), None, "ext_proc")


@pytest.mark.parametrize("text", ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "sidecar:1"])
def test_beyond_it_mutual_tls_with_a_named_client_is(text: str) -> None:
    """Invariant 1: whoever reaches ext_proc decides who a request belongs to."""
    address = parse_address(text)
    require_safe(address, tls(ALLOWED), "ext_proc")
    for missing in (None, tls()):
        with pytest.raises(BindError, match=r"ext_proc would listen on .* other hosts can reach: .*--allow-client-san"):
            require_safe(address, missing, "ext_proc")


def test_a_client_is_admitted_by_one_of_its_names() -> None:
    assert tls(ALLOWED, "envoy.prod").admits(["spiffe://prod/other", ALLOWED])
    for names in ([], [""], ["spiffe://prod/other"], [ALLOWED.upper()], [ALLOWED + "/x"]):
        assert not tls(ALLOWED).admits(names)
    assert not tls().admits([ALLOWED])


def test_names_are_uris_and_dns_names() -> None:
    certificate = {"subjectAltName": (("URI", ALLOWED), ("DNS", "envoy"), ("IP Address", "10.0.0.1"), ("email", "a@b"))}
    assert sans_of(certificate) == (ALLOWED, "envoy")
    assert sans_of({"subject": ((("commonName", ALLOWED),),)}) == ()  # a common name is no name
    assert sans_of({}) == sans_of(None) == ()


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, ...]:
    """Shake hands in memory; return the client's names as the server reads them."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return sans_of(ends[0].getpeercert())


def test_a_listener_asks_for_a_certificate_of_our_authority(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ca"), Authority(tmp_path / "theirs", "ca")
    ours.leaf("server", "127.0.0.1")
    context = tls(ALLOWED, folder=tmp_path).ssl_context()
    assert handshake(context, ours.client(ours.leaf("envoy", ALLOWED, "envoy"))) == (ALLOWED, "envoy")
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(context, ours.client())
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(context, ours.client(theirs.leaf("envoy", ALLOWED)))
