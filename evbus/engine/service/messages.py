"""Calls over a broker, on the caller's side: a request into the queue of a component, and its reply."""

from __future__ import annotations

import asyncio
from typing import Any

from evbus.engine.call.forward import MESSAGE
from evbus.engine.call.requests import RequestLink
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import one_line, said
from evbus.engine.service.body import bytes_of, error_in
from evbus.engine.service.call import Call, where
from evbus.engine.service.encoding import JSON, MSGPACK
from evbus.engine.service.failures import raised, refused
from evbus.engine.service.settings import MessageSettings
from evbus.engine.wire.base.publish import Unroutable
from evbus.errors import (
    ConnectFailed,
    DeliveryError,
    DeliveryTimeout,
    PayloadError,
    Rejected,
    ServiceCommunicationError,
    ServiceError,
    ServiceTimeout,
)
from evbus.types import CONTENT_TYPE, Envelope

__all__ = ["SILENT", "STATUS", "STOPPING", "MessageCaller"]

#: What else is said of a call that nobody has answered.
SILENT = "; perhaps nobody takes calls there: see that a process runs which has the component"

#: The key of an answer that says why a request was refused: what the HTTP status of such an answer is.
STATUS = "status"
#: The status of a server that ends, and so takes nothing more.
STOPPING = 503

#: Seconds until a call goes into its queue again that came to a server which ends.
PAUSE = (0.005, 0.5)


class MessageCaller:
    """Makes calls over a broker.

    :param channel: its name, for errors.
    :param link: the profile that they go through.
    """

    def __init__(self, channel: str, settings: MessageSettings, link: RequestLink) -> None:
        self.channel = channel
        self._link = link
        self._encoding = JSON if settings.encoding == "json" else MSGPACK

    def __repr__(self) -> str:
        return f"<MessageCaller {self.channel} {self._link!r}>"

    async def close(self) -> None:
        """Close its connection; calls that are under way fail."""
        await self._link.close()

    async def invoke(self, call: Call, address: str) -> Any:
        """Make a call and return its result.

        :param address: the queue that it goes into.
        :raises ServiceTimeout: there was no answer in time.
        :raises ServiceCommunicationError: it reached nobody, or it is not known whether it did.
        :raises RemoteServiceError: the method failed; of what the interface declares, that itself.
        """
        body = bytes_of(self._encoding, call, call.args, call.kwargs)
        headers = {**call.headers, MESSAGE: call.name, CONTENT_TYPE: self._encoding.type}
        attempts = 0
        while True:
            event = Envelope(self._link.profile.name, address, body, dict(headers))
            found = self._plain(call, address, await self._reply(call, address, event))
            if found.get(STATUS) != STOPPING:
                return self._result(call, address, found)
            attempts += 1
            await asyncio.sleep(backoff(attempts, *PAUSE))

    async def _reply(self, call: Call, address: str, event: Envelope) -> Envelope:
        try:
            return await self._link.request(event, max(0.0, call.seconds))
        except DeliveryTimeout as exc:
            raise ServiceTimeout(f"{where(call, self.channel, address)}: {said(exc)}{SILENT}") from exc
        except DeliveryError as exc:
            raise self._undelivered(call, address, exc) from exc

    def _undelivered(self, call: Call, address: str, problem: DeliveryError) -> ServiceCommunicationError:
        advice, handed_over = "", not isinstance(problem, (ConnectFailed, Rejected))
        if isinstance(problem, Unroutable):
            advice = (
                "; nobody takes calls from it: see that a process runs which has the component, that the "
                f"channel {self.channel} stands in its settings as it does here, and that both use one broker"
            )
        reason = f"{where(call, self.channel, address)}: {said(problem)}{advice}"
        return ServiceCommunicationError(reason, handed_over=handed_over)

    def _plain(self, call: Call, address: str, reply: Envelope) -> dict[str, Any]:
        """Return the answer that a reply holds.

        :raises ServiceError: it cannot be read.
        """
        kind = reply.headers.get(CONTENT_TYPE, "")
        encoding = self._encoding
        if not encoding.reads(kind):
            other = MSGPACK if encoding is JSON else JSON
            if not other.reads(kind):
                shown = one_line(kind or "no content type", 100)
                raise self._strange(
                    call, address, f"what answers there is no service: it answered with {shown}"
                )
            encoding = other
        try:
            found = (encoding.exact if call.spec.exact else encoding.decode)(reply.body)
        except PayloadError as exc:
            raise self._strange(call, address, f"its answer cannot be read: {exc}") from exc
        if type(found) is not dict or "result" not in found:
            raise self._strange(call, address, "what answers there is no service: its answer has no result")
        return found

    def _strange(self, call: Call, address: str, why: str) -> ServiceError:
        return ServiceError(f"{where(call, self.channel, address)}: {why}")

    def _result(self, call: Call, address: str, found: dict[str, Any]) -> Any:
        error, status = error_in(found), found.get(STATUS)
        if error is not None:
            if isinstance(status, int):
                raise refused(call, self.channel, address, status, error)
            raise raised(error, call.spec)
        try:
            return call.spec.read_result(found["result"])
        except PayloadError as exc:
            raise self._strange(call, address, f"its result does not fit the interface: {exc}") from exc
