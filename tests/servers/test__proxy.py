from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.servers._ports import HOST, free_ports
from tests.servers._proxy import Proxy

LIMIT = 10.0  # seconds
SILENCE = 0.1  # seconds without a byte that count as none


class Pair:
    """A listener and, through a proxy, a client of it and the connection that it accepted."""

    def __init__(self, listener: socket.socket, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client = socket.create_connection((proxy.host, proxy.port), LIMIT)
        self.server, _ = listener.accept()
        self.server.settimeout(LIMIT)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(LIMIT)
        yield listener


@pytest.fixture
def pair(listener: socket.socket, proxy: Callable[..., Proxy]) -> Iterator[Pair]:
    pair = Pair(listener, proxy(listener.getsockname()[1]))
    yield pair
    pair.close()


def receive(side: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = side.recv(count - len(data))
        assert piece, f"the end of the stream after {data!r}"
        data += piece
    return data


def is_silent(side: socket.socket) -> bool:
    side.settimeout(SILENCE)
    try:
        side.recv(1)
    except TimeoutError:
        return True
    finally:
        side.settimeout(LIMIT)
    return False


def test_passes_bytes_both_ways_and_counts_them(pair: Pair) -> None:
    pair.client.sendall(b"question")
    assert receive(pair.server, 8) == b"question"
    pair.server.sendall(b"yes")
    assert receive(pair.client, 3) == b"yes"
    pair.client.close()
    assert pair.server.recv(1) == b""
    assert pair.proxy.bytes == {"up": 8, "down": 3}
    assert pair.proxy.accepted == 1


def test_passes_on_that_one_side_has_no_more_to_say(pair: Pair) -> None:
    pair.client.shutdown(socket.SHUT_WR)
    assert pair.server.recv(1) == b""
    pair.server.sendall(b"still")
    assert receive(pair.client, 5) == b"still"


def test_passes_more_than_any_buffer_holds(pair: Pair) -> None:
    data = bytes(range(256)) * 4096
    pair.client.setblocking(False)
    sent, received = 0, b""
    while len(received) < len(data):
        if sent < len(data):
            with contextlib.suppress(BlockingIOError):
                sent += pair.client.send(data[sent:])
        received += receive(pair.server, min(sent, len(data)) - len(received))
    assert received == data


def test_a_cut_resets_both_sides_and_new_connections_work(pair: Pair, listener: socket.socket) -> None:
    pair.proxy.cut()
    for side in (pair.client, pair.server):
        with pytest.raises(ConnectionResetError):
            side.recv(1)
    assert pair.proxy.connections == 0
    again = Pair(listener, pair.proxy)
    again.client.sendall(b"again")
    assert receive(again.server, 5) == b"again"
    again.close()


def test_refuses_new_connections_until_it_accepts_again(pair: Pair, listener: socket.socket) -> None:
    pair.proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        Pair(listener, pair.proxy)
    pair.client.sendall(b"open ones go on")
    assert receive(pair.server, 15) == b"open ones go on"
    pair.proxy.accept()
    Pair(listener, pair.proxy).close()


@pytest.mark.parametrize(("direction", "other"), [("up", "down"), ("down", "up")])
def test_a_frozen_direction_is_silent_and_the_other_is_not(pair: Pair, direction: str, other: str) -> None:
    ends = {"up": (pair.client, pair.server), "down": (pair.server, pair.client)}
    pair.proxy.freeze(direction)  # type: ignore[arg-type]
    sender, receiver = ends[direction]
    sender.sendall(b"held")
    assert is_silent(receiver)
    ends[other][0].sendall(b"free")
    assert receive(ends[other][1], 4) == b"free"
    pair.proxy.thaw(direction)  # type: ignore[arg-type]
    assert receive(receiver, 4) == b"held"


def test_a_new_connection_to_a_frozen_proxy_is_as_silent(pair: Pair, listener: socket.socket) -> None:
    pair.proxy.freeze()
    late = Pair(listener, pair.proxy)
    late.client.sendall(b"late")
    assert is_silent(late.server)
    pair.proxy.thaw()
    assert receive(late.server, 4) == b"late"
    late.close()


def test_half_open_leaves_the_client_without_a_word(pair: Pair) -> None:
    pair.proxy.half_open()
    assert pair.server.recv(1) == b""
    pair.client.sendall(b"anybody there?")
    assert is_silent(pair.client)
    assert pair.proxy.connections == 0
    pair.proxy.cut()
    with pytest.raises(ConnectionResetError):
        pair.client.recv(1)


def test_a_delay_holds_back(pair: Pair) -> None:
    pair.proxy.delay(3600)
    pair.client.sendall(b"tomorrow")
    assert is_silent(pair.server)


def test_a_delay_loses_nothing(pair: Pair) -> None:
    pair.proxy.delay(0.001)
    pair.client.sendall(b"slow")
    assert receive(pair.server, 4) == b"slow"
    pair.proxy.delay(0)
    pair.server.sendall(b"quick")
    assert receive(pair.client, 5) == b"quick"


def test_without_a_server_the_client_is_reset(proxy: Callable[..., Proxy]) -> None:
    (port,) = free_ports(1)
    started = proxy(port)
    # The reset may come so early that connecting fails already.
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((started.host, started.port), LIMIT) as client,
    ):
        client.recv(1)


def test_closing_resets_what_is_open_and_may_be_repeated(pair: Pair) -> None:
    pair.proxy.close()
    pair.proxy.close()
    with pytest.raises(ConnectionResetError):
        pair.client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((pair.proxy.host, pair.proxy.port), LIMIT)


def test_bytes_go_through_a_function_of_each_connection_and_of_its_direction(
    listener: socket.socket, proxy: Callable[..., Proxy]
) -> None:
    def counting() -> Callable[[bytes], bytes]:
        seen: list[bytes] = []

        def through(data: bytes) -> bytes:
            if b"!" in data:
                raise ConnectionResetError
            seen.append(data)
            return data.upper() + b"%d" % len(seen)

        return through

    made = proxy(listener.getsockname()[1])
    made.filter("up", counting)
    pairs = [Pair(listener, made) for _ in range(2)]
    try:
        for pair in pairs:
            pair.client.sendall(b"up")
            assert receive(pair.server, 3) == b"UP1"
            pair.server.sendall(b"down")
            assert receive(pair.client, 4) == b"down"
        pairs[0].client.sendall(b"!")
        with pytest.raises(ConnectionResetError):
            receive(pairs[0].server, 1)
    finally:
        for pair in pairs:
            pair.close()
