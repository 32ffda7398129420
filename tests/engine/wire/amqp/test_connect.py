"""Connecting to an AMQP broker: what can be wrong on the way in, and what ends a connection later."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.metadata
import inspect
import logging
import queue
import socket
import ssl
import threading
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import aiormq
import pamqp.commands
import pamqp.frame
import pytest

from evbus.engine.wire.amqp import connect, frames, transport
from evbus.engine.wire.amqp.connect import connection
from evbus.engine.wire.base.supervisor import ConnectionState
from evbus.errors import ConnectFailed, Unavailable
from tests.connection.amqp_kit import (
    WAIT,
    Talk,
    closed_port,
    connected,
    no_tasks_left,
    profile,
    refusal,
    restored,
    server,
    url,
)
from tests.servers._wait import until


def by_certificate(rabbitmq: Any, name: str = "client") -> dict[str, Any]:
    """Return the profile of who logs in by a certificate: "client" is a user without a password."""
    files = rabbitmq.certificates
    cert, key = getattr(files, name), getattr(files, f"{name}_key")
    tls = {"ca_file": str(files.ca), "cert_file": str(cert), "key_file": str(key)}
    return {"hosts": f"127.0.0.1:{rabbitmq.tls_port}", "tls": tls, "auth": "external"}


def of_server(talk: Talk, context: ssl.SSLContext | None = None, **data: Any) -> str:
    """Return the sentence with which a connection to a server of our own fails."""
    ports: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended = threading.Event()

    async def main() -> None:
        async with server(talk, ssl=context) as port:
            ports.put(port)
            await asyncio.to_thread(ended.wait, WAIT)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        return refusal(hosts=f"127.0.0.1:{ports.get(timeout=WAIT)}", **data)
    finally:
        ended.set()
        thread.join(WAIT)


@pytest.mark.parametrize("end", [aiormq.exceptions.ChannelClosed(504, "RPC timeout"), None])
def test_a_call_that_is_cancelled_is_cancelled_whatever_the_client_library_makes_of_it(
    rabbitmq: Any, end: Exception | None
) -> None:
    async def closes_its_channel() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if end is not None:
                raise end from None

    async def main() -> None:
        async with connected(url=rabbitmq.url) as made:
            calling = asyncio.ensure_future(made.up().rpc(closes_its_channel()))
            await asyncio.sleep(0)
            calling.cancel()
            await asyncio.wait({calling})
            assert calling.cancelled()

    asyncio.run(main())


def test_a_connection_that_the_client_library_is_closing_is_as_one_that_is_lost(rabbitmq: Any) -> None:
    async def main() -> None:
        async with connected(url=rabbitmq.url) as made:
            session = made.up()
            # The moment between the library's giving it up and the end of the transport.
            session.transport.connection._closing.set_result(None)  # type: ignore[attr-defined]
            assert not session.lost.done()
            with pytest.raises(Unavailable) as caught:
                await session.channel()
            assert str(caught.value).startswith("the connection is being closed: ")

    asyncio.run(main())


def test_the_version_of_rabbitmq_is_known(each_rabbitmq: Any) -> None:
    async def main() -> None:
        async with connected(url=each_rabbitmq.url) as made:
            assert made.up().server == each_rabbitmq.version

    asyncio.run(main())


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def offers(mechanisms: str) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        start = pamqp.commands.Connection.Start(server_properties={}, mechanisms=mechanisms, locales="en_US")
        writer.write(pamqp.frame.marshal(start, 0))
        await reader.read()

    return talk


# What can be wrong


def test_that_is_told_as_well_when_the_host_has_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()

    def two(*_: Any, **__: Any) -> Any:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", port)), (*kind, ("127.0.0.2", port))]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    assert "nothing listens there" in refusal(url=f"amqp://two.invalid:{port}")


def test_a_vhost_that_is_not_permitted_is_told(rabbitmq: Any, unique: str) -> None:
    rabbitmq.add_user(unique, "hunter22")
    try:
        said = refusal(url=url(rabbitmq, login=f"{unique}:hunter22"))
    finally:
        rabbitmq.delete_user(unique)
    assert f"the user '{unique}' may not use the vhost '/': NOT_ALLOWED" in said


def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(rabbitmq: Any) -> None:
    said = refusal(url=rabbitmq.tls_url)
    assert "the server's certificate was refused: " in said
    assert "tls.ca_file" in said


def test_a_certificate_for_another_host_is_refused(rabbitmq: Any, proxy: Any) -> None:
    way = proxy(rabbitmq.tls_port, host="127.0.0.2")
    tls = {"ca_file": str(rabbitmq.certificates.ca)}
    assert "certificate was refused: IP address mismatch" in refusal(hosts=f"127.0.0.2:{way.port}", tls=tls)

    async def main() -> None:
        by_name = {**tls, "server_name": "localhost"}
        async with connected(hosts=f"127.0.0.2:{way.port}", tls=by_name) as made:
            assert made.state is ConnectionState.UP

    asyncio.run(main())


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=past).configure_cert(context)
    assert "certificate was refused: certificate has expired" in of_server(
        silent, context, tls={"ca_file": str(tmp_path / "ca.pem")}
    )


def test_insecure_takes_any_certificate(rabbitmq: Any) -> None:
    async def main() -> None:
        async with connected(url=rabbitmq.tls_url, tls={"insecure": True}) as made:
            assert made.state is ConnectionState.UP

    asyncio.run(main())


def test_a_certificate_says_who_it_is(rabbitmq: Any, unique: str) -> None:
    async def main() -> None:
        async with connected(vhost=unique, **by_certificate(rabbitmq)) as made:
            assert made.state is ConnectionState.UP

    rabbitmq.add_vhost(unique)
    try:
        assert "the user of the certificate may not use the vhost" in refusal(
            vhost=unique, **by_certificate(rabbitmq)
        )
        rabbitmq.set_permissions("client", vhost=unique)
        asyncio.run(main())
    finally:
        rabbitmq.delete_vhost(unique)


def test_a_certificate_of_nobody_is_told(rabbitmq: Any) -> None:
    said = refusal(**by_certificate(rabbitmq, "nobody"))
    assert "the broker refused the login by certificate: " in said


def test_a_certificate_of_a_stranger_is_told(rabbitmq: Any) -> None:
    said = refusal(**by_certificate(rabbitmq, "stranger"))
    # With TLS 1.3 the server looks at it when the client is through: its alert may be overtaken by the end.
    assert "the server refused the TLS handshake" in said or "it may not take the client certificate" in said


def test_a_login_by_certificate_needs_one(rabbitmq: Any) -> None:
    with pytest.raises(ValueError, match=r"auth: external needs tls.cert_file"):
        profile(url=rabbitmq.url, auth="external")


def test_a_port_that_takes_no_amqp_is_told(rabbitmq: Any) -> None:
    said = refusal(url=url(rabbitmq, rabbitmq.management_port), connect_timeout=0.5)
    assert "no answer within 0.5 s (connect_timeout); is this the port of an AMQP broker?" in said


def test_another_protocol_is_told() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert "what answers there is no AMQP 0-9-1 broker (it said b'HTTP/1.1 400 Bad Req')" in of_server(talk)


def test_another_version_of_the_protocol_is_told() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"AMQP\x00\x01\x00\x00")

    assert "no AMQP 0-9-1 broker (it said b'AMQP\\x00" in of_server(talk)


def test_a_server_that_only_hangs_up_is_told() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)

    assert "ended the connection without a word" in of_server(talk)


def test_a_broker_without_a_login_by_certificate_is_told(rabbitmq: Any) -> None:
    files = rabbitmq.certificates
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    data = by_certificate(rabbitmq)
    del data["hosts"]
    said = of_server(offers("PLAIN"), context, **data)
    assert "the broker offers no login by certificate (auth: external)" in said


def test_a_broker_without_a_login_by_password_is_told() -> None:
    said = of_server(offers("EXTERNAL"))
    assert "the broker offers no login by password (auth: plain)" in said


def test_a_server_that_hangs_up_after_the_tls_handshake_is_told(rabbitmq: Any) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)

    files = rabbitmq.certificates
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    said = of_server(talk, context, tls={"ca_file": str(files.ca)})
    assert "ended the connection in the TLS handshake; it may want a client certificate" in said


def test_a_broker_that_does_not_answer_is_given_up() -> None:
    assert "no answer within 0.2 s (connect_timeout)" in of_server(silent, connect_timeout=0.2)


def test_the_last_of_several_hosts_is_told() -> None:
    first, last = closed_port(), closed_port()
    assert refusal(hosts=[f"127.0.0.1:{first}", f"127.0.0.1:{last}"]).startswith(
        f"127.0.0.1:{last}: nothing listens"
    )


def test_a_login_and_a_vhost_may_hold_any_character(rabbitmq: Any, unique: str) -> None:
    login, password, vhost = f"{unique}@ä:/", "p@s%s:w/ö?#d", f"{unique}/é %2/."
    rabbitmq.add_user(login, password)
    rabbitmq.add_vhost(vhost)

    async def main(**data: Any) -> None:
        async with connected(**data) as made:
            assert made.state is ConnectionState.UP

    try:
        rabbitmq.set_permissions(login, vhost=vhost)
        asyncio.run(main(hosts=rabbitmq.address, login=login, password=password, vhost=vhost))
        user = f"{quote(login, safe='')}:{quote(password, safe='')}"
        asyncio.run(main(url=url(rabbitmq, login=user, vhost=quote(vhost, safe=""))))
    finally:
        rabbitmq.delete_user(login)
        rabbitmq.delete_vhost(vhost)


def test_a_profile_that_waits_opens_without_a_broker(rabbitmq: Any, proxy: Any) -> None:
    way = proxy(rabbitmq.port)
    way.refuse()

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port), first_connect="wait") as made:
            with pytest.raises(Unavailable, match="not connected: 127.0.0.1:"):
                made.up()
            way.accept()
            await restored(made, 1)

    asyncio.run(main())


def test_closing_while_the_broker_does_not_answer(rabbitmq: Any, proxy: Any) -> None:
    way = proxy(rabbitmq.port)
    way.freeze()

    async def main() -> None:
        made = connection(profile(url=url(rabbitmq, way.port)), "orders")
        opening = asyncio.ensure_future(made.open())
        await asyncio.to_thread(until, lambda: way.connections, WAIT, "a connection")
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(opening, WAIT)
        assert made.state is ConnectionState.CLOSED
        await no_tasks_left()

    asyncio.run(main())


# What ends a connection


def test_a_connection_that_was_cut_is_restored(rabbitmq: Any, proxy: Any, caplog: Any) -> None:
    way = proxy(rabbitmq.port)

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port)) as made:
            first = made.up()
            way.cut()
            assert "reset" in (await asyncio.wait_for(first.lost, WAIT)).lower()
            second = await restored(made, 2)
            assert (await second.channel()).number > 0
            with pytest.raises(Unavailable, match="the connection is lost"):
                await first.channel()

    asyncio.run(main())
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 2
    assert told[0].startswith("amqp profile 'orders': the connection is lost: ")
    assert told[1] == "amqp profile 'orders': connected again"


def test_a_connection_that_an_operator_closed_is_restored(
    broken_rabbitmq: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with connected(url=broken_rabbitmq.url) as made:
            first = made.up()
            await asyncio.to_thread(broken_rabbitmq.close_connections, "maintenance")
            reason = await asyncio.wait_for(first.lost, WAIT)
            assert reason == "the broker closed it: CONNECTION_FORCED - maintenance (320)"
            await restored(made, 2)

    asyncio.run(main())
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    why = "the broker closed it: CONNECTION_FORCED - maintenance (320)"
    assert told == [
        f"amqp profile 'orders': the connection is lost: {why}",
        "amqp profile 'orders': connected again",
    ]


@pytest.mark.parametrize("direction", ["down", None])
def test_a_broker_that_falls_silent_is_given_up_after_two_heartbeats(
    rabbitmq: Any, proxy: Any, direction: str | None
) -> None:
    way = proxy(rabbitmq.port)

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port), heartbeat=1) as made:
            first = made.up()
            way.freeze(*([direction] if direction else []))
            reason = await asyncio.wait_for(first.lost, WAIT)
            assert reason.endswith("(two heartbeats)")
            way.thaw()
            await restored(made, 2)

    asyncio.run(main())


def test_a_half_open_connection_is_given_up(rabbitmq: Any, proxy: Any) -> None:
    way = proxy(rabbitmq.port)

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port), heartbeat=1) as made:
            first = made.up()
            way.half_open()
            assert "two heartbeats" in await asyncio.wait_for(first.lost, WAIT)
            await restored(made, 2)

    asyncio.run(main())


def test_an_idle_connection_lives_on_with_the_shortest_heartbeat(rabbitmq: Any) -> None:
    """AMQP has whole seconds: 0.1 is 1, and of that the broker beats every half."""

    async def main() -> None:
        async with connected(url=rabbitmq.url, heartbeat=0.1) as made:
            session = made.up()
            heard = session.wire.last_received
            beats = 0
            while beats < 3:
                done, _ = await asyncio.wait({session.lost}, timeout=0.05)
                assert not done
                if session.wire.last_received > heard:
                    heard, beats = session.wire.last_received, beats + 1

    asyncio.run(main())


def test_what_waits_for_an_answer_is_told_when_the_connection_is_lost(rabbitmq: Any, proxy: Any) -> None:
    way = proxy(rabbitmq.port)

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port)) as made:
            session = made.up()
            way.freeze("down")
            opening = asyncio.ensure_future(session.channel())
            await asyncio.sleep(0)
            way.cut()
            with pytest.raises(Unavailable, match="the connection is lost: "):
                await asyncio.wait_for(opening, WAIT)

    asyncio.run(main())


def test_what_the_broker_does_not_answer_in_time_is_given_up(
    rabbitmq: Any, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "RPC_TIMEOUT", 0.1)
    way = proxy(rabbitmq.port)

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port)) as made:
            way.freeze("down")
            with pytest.raises(Unavailable, match=r"did not answer within 0.1 s"):
                await made.up().channel()
            way.thaw()

    asyncio.run(main())


def test_a_frozen_broker_does_not_hold_up_close(
    rabbitmq: Any, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evbus.engine.wire.base.supervisor.CLOSE_TIMEOUT", 0.1)
    way = proxy(rabbitmq.port)

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port)) as made:
            way.freeze()
            session = made.up()
        assert session.lost.done()
        assert made.state is ConnectionState.CLOSED

    asyncio.run(main())


def test_close_says_goodbye_and_is_no_loss(
    rabbitmq: Any, proxy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    way = proxy(rabbitmq.port)

    async def main() -> None:
        async with connected(url=url(rabbitmq, way.port)) as made:
            await made.up().channel()
        assert made.session is None
        await no_tasks_left()

    asyncio.run(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def not_ready(made: Any) -> Any:
    """Return why, once it takes no events."""
    while (found := made.ready()) is None:
        await made.changed()
    return found


def test_an_alarm_blocks_and_its_end_wakes(broken_rabbitmq: Any) -> None:
    async def main() -> None:
        async with connected(url=broken_rabbitmq.url) as made:
            # A broker blocks those connections that have published something.
            channel = await made.up().channel()
            assert made.ready() is None
            await asyncio.to_thread(broken_rabbitmq.memory_alarm, True)
            fanout = await channel.get_exchange("amq.fanout", ensure=False)
            await fanout.publish(aio_pika.Message(b""), "", mandatory=False)
            why, awaitable = await asyncio.wait_for(not_ready(made), WAIT)
            assert why == "amqp profile 'orders': the broker blocks publishers: low on memory"
            assert made.snapshot()["blocked"] == "low on memory"
            waiting = asyncio.ensure_future(awaitable)
            await asyncio.to_thread(broken_rabbitmq.memory_alarm, False)
            await asyncio.wait_for(waiting, WAIT)
            assert made.ready() is None
            assert made.connects == 1

    asyncio.run(main())


# Secrets, logs


def test_the_password_is_in_no_log_error_or_repr(
    rabbitmq: Any, unique: str, proxy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    way = proxy(rabbitmq.port)
    data = {"url": url(rabbitmq, way.port, login=f"{unique}:hunter22")}

    async def refused() -> str:
        with pytest.raises(ConnectFailed) as caught:
            async with connected(**data):
                pass
        return "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))

    async def lost() -> str:
        async with connected(**data) as made:
            way.cut()
            await restored(made, 2)
            return repr(made) + str(made.snapshot()) + repr(made.up()) + repr(made.up().wire)

    said = asyncio.run(refused())
    rabbitmq.add_user(unique, "hunter22")
    rabbitmq.set_permissions(unique)
    said += asyncio.run(lost())
    rabbitmq.delete_user(unique)
    assert unique in said
    assert "hunter22" not in said
    assert "hunter22" not in caplog.text
    assert "the connection is lost" in caplog.text


def test_aiormq_is_heard_for_the_connections_of_others_only(
    rabbitmq: Any, proxy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    way = proxy(rabbitmq.port)
    way.refuse()

    async def main() -> None:
        with pytest.raises(ConnectFailed):
            async with connected(url=url(rabbitmq, way.port)):
                pass
        assert [record.name for record in caplog.records if record.name.startswith("aiormq")] == []

    asyncio.run(main())
    logging.getLogger("aiormq.connection").error("of others")
    assert "of others" in caplog.text


# What is used of aiormq beyond its documented interface


def test_the_versions_of_aiormq_are_those_that_this_was_tried_with() -> None:
    """Another may do when the tests below pass; the pins stand in requirements/base.txt."""
    assert importlib.metadata.version("aiormq") == "7.2.4"
    assert importlib.metadata.version("pamqp") == "4.0.1"


def test_aiormq_takes_its_transport_from_us(rabbitmq: Any) -> None:
    assert issubclass(connect._Transport, aiormq.connection.TransportFactory)
    assert {"transport_factory", "client_properties"} <= set(
        inspect.signature(aiormq.Connection.__init__).parameters
    ) | set(inspect.signature(aiormq.Connection.connect).parameters)

    async def main() -> None:
        async with connected(url=rabbitmq.url) as made:
            wire = made.up().wire
            assert wire.connections_made == 1
            before = wire.last_received
            await made.up().channel()
            assert wire.last_received > before

    asyncio.run(main())


def test_frames_of_a_channel_of_aiormq_come_by_its_number(rabbitmq: Any, unique: str) -> None:
    """What publisher and consumer rely on: numbers, confirms, a passive declaration, close."""
    rabbitmq.declare_queue(unique)
    seen: list[int] = []

    class Sink(transport.Sink):
        def method(self, method: int, payload: bytes) -> bool:
            seen.append(method)
            return method == frames.ACK

        def message(self, properties: bytes, body: bytes) -> None:
            raise AssertionError("nothing comes back")

        def lost(self, reason: str) -> None:
            seen.append(0)

    async def main() -> None:
        async with connected(url=rabbitmq.url) as made:
            session = made.up()
            first, second = await session.channel(), await session.channel(confirms=True)
            assert first.number != second.number
            number = session.wire.attach(second.number, Sink())
            found = await session.rpc(second.declare_queue(unique, passive=True))
            assert found.declaration_result.message_count == 0
            head = frames.publish_method(number, "", unique, mandatory=True) + frames.content_header(
                number, 2, frames.encode_properties({}, profile())
            )
            session.wire.write(frames.message(number, session.frame_max, head, b"hi"))
            while frames.ACK not in seen:
                await asyncio.wait({session.lost}, timeout=0.01)
            assert not first.is_closed
            await session.leave(second)
            assert second.is_closed

    asyncio.run(main())
    assert (50 << 16) + 11 in seen  # queue.declare-ok
    assert [message["payload"] for message in rabbitmq.take(unique)] == ["hi"]
    rabbitmq.delete_queue(unique)
