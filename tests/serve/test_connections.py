"""Connections that are of no use end, and what they send is bounded; no other call is harmed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from asking import TEXT, Live, received, until

from nldc.serve import connections

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
ASKED = {"prompt": "def f(", "max_tokens": 4}


@pytest.fixture
def busy(apps: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A server that waits for its clients for parts of a second."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.4)
    monkeypatch.setattr(connections, "CLOSING_SECONDS", 0.2)
    server = Live(apps(temperature=0.0))
    yield server
    server.close()


def open_ones(server: Live) -> list[Any]:
    return list(server.server.server_state.connections)


def answered(connection: socket.socket) -> bytes:
    """What comes on a connection, though its end may be a reset."""
    found = b""
    try:
        for piece in received(connection):
            found += piece
    except ConnectionResetError:
        pass
    finally:
        connection.close()
    return found


def test_a_head_without_end_is_not_kept(live: Live) -> None:
    connection = live.send(b"GET /health HTTP/1.1\r\nHost: x\r\nA: ")
    with connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(b"a" * 50_000_000)


def test_a_body_in_very_many_pieces_is_refused(live: Live) -> None:
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    with_pieces = live.send(head + b"1\r\n \r\n" * (connections.PIECES + 1))
    assert answered(with_pieces).startswith(b"HTTP/1.1 400")
    content = json.dumps(ASKED).encode()
    pieces = b"".join(b"1\r\n%c\r\n" % each for each in content)
    few = live.send(head.replace(b"Host", b"Connection: close\r\nHost") + pieces + b"0\r\n\r\n")
    assert answered(few).startswith(b"HTTP/1.1 200")


def test_a_request_that_offers_an_upgrade_is_answered_without_one(live: Live) -> None:
    content = json.dumps(ASKED).encode()
    offer = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AAMA\r\n"
    head = f"{HEAD}{offer}Content-Length: {len(content)}\r\n\r\n".encode()
    found = answered(live.send(head + content))
    assert found.startswith(b"HTTP/1.1 200")
    assert b"text_completion" in found


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHo"])
def test_a_connection_without_a_whole_request_is_closed(busy: Live, sent: bytes) -> None:
    connection = busy.send(sent)
    assert answered(connection) == b""
    until(lambda: not open_ones(busy))


def test_a_call_may_take_longer_than_a_head(busy: Live) -> None:
    body = {"prompt": "def f(", "max_tokens": 3000, "ignore_eos": True, "timeout": 1.0}
    connection = busy.send_body(TEXT, body)
    connection.settimeout(30)
    assert connection.recv(100).startswith(b"HTTP/1.1 504")
    connection.close()


def test_a_client_that_reads_no_answer_is_left(busy: Live) -> None:
    connection = busy.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
    until(lambda: any(each.transport.get_write_buffer_size() for each in open_ones(busy)))
    until(lambda: not open_ones(busy))
    connection.close()


class Closing:
    """A connection that would close, if its client read what is left."""

    cycle = None
    aborted = False

    @property
    def transport(self) -> Closing:
        return self

    def is_closing(self) -> bool:
        return True

    def abort(self) -> None:
        self.aborted = True


def test_a_connection_that_cannot_close_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    one, sweep = Closing(), connections.Sweep()
    sweep([one])
    now = connections.CLOSING_SECONDS
    sweep([one])
    assert not one.aborted
    now += 0.1
    sweep([one])
    assert one.aborted
