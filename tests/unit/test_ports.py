"""Ports for listeners: never the same twice, never one that an outgoing connection could have."""

import socket
from pathlib import Path

import pytest
from tenantry.adapters.ports import free_port

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_a_port_is_given_once_and_can_be_bound() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ports[0]))


def test_no_outgoing_connection_can_take_it_meanwhile() -> None:
    lowest = int(EPHEMERAL.read_text().split()[0])
    assert all(free_port() < lowest for _ in range(200))


def test_one_that_somebody_listens_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first := free_port()))
        taken.listen()
        offered = iter([first, second := free_port() + 1, second + 1])
        monkeypatch.setattr("tenantry.adapters.ports._chance.randrange", lambda *_: next(offered))
        monkeypatch.setattr("tenantry.adapters.ports._given", set())
        assert free_port() != first
