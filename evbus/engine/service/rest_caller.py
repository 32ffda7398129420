"""Calls by REST, on the caller's side: the channel ``rest``, to services of evbus and to those of others.

Needs httptools.
"""

from __future__ import annotations

from typing import Any

from evbus.engine.call.forward import ERROR, OUTCOME
from evbus.engine.codec import json
from evbus.engine.kit.redact import one_line
from evbus.engine.service.body import argument
from evbus.engine.service.call import Call, timeout_line
from evbus.engine.service.encoding import JSON
from evbus.engine.service.failures import raised, refused
from evbus.engine.service.http import HttpCaller
from evbus.engine.service.method import EMPTY
from evbus.engine.service.route import Route
from evbus.engine.service.settings import HttpSettings
from evbus.engine.wire.http.pool import Answer, HttpAddress, HttpFailure, header_lines
from evbus.errors import PayloadError, ServiceSignatureError

__all__ = ["RestCaller"]

#: Where the answers of others say what is wrong.
_REASONS = ("detail", "message", "title", "error_description", "error")
_LONGEST = 500


class RestCaller(HttpCaller):
    """Makes calls of methods that have a path.

    :param channel: its name, for errors.
    :raises ProfileError: a file of ``tls`` is not usable.
    """

    def __init__(self, channel: str, settings: HttpSettings) -> None:
        super().__init__(channel, JSON, settings)
        self._places: dict[str, HttpAddress] = {}

    async def invoke(self, call: Call, address: str) -> Any:
        """Make a call and return its result; cancelled, it closes its connection.

        :raises ServiceSignatureError: the method has no path.
        :raises PayloadError: an argument cannot stand where it should.
        :raises ServiceCommunicationError: it got no answer.
        :raises RemoteServiceError: the method failed; of what the interface declares, that itself.
        """
        route = call.spec.route
        if not isinstance(route, Route):
            raise ServiceSignatureError(
                f"{call.spec.title} has no path, and cannot be called over {self.channel}; decorate it with "
                "@get, @post or the like, or call it over another channel"
            )
        request = route.request(call.args, call.kwargs)
        where_to = self._places.get(address)
        if where_to is None:
            where_to = self._places[address] = self.address(call, address)
        self.check_token(call, address, where_to)
        body, own = b"", {"accept": JSON.type, **request.headers}
        if request.body is not EMPTY:
            assert route.body is not None
            body = argument(JSON, call.spec, route.body.spec.name, request.body)
            own["content-type"] = JSON.type
        head = f"{request.verb} {where_to.path}{request.target} HTTP/1.1\r\nhost: {where_to.authority}\r\n"
        head += "".join([f"{name}: {value}\r\n" for name, value in own.items()]) + timeout_line(call)
        passed_on = call.headers
        if request.headers:
            # What is an argument stands before what travels with the call.
            passed_on = {name: one for name, one in passed_on.items() if name.lower() not in own}
        try:
            answer = await self.pool.request(where_to, head.encode() + header_lines(passed_on)[0], body)
        except HttpFailure as exc:
            raise self.failure(call, address, exc) from exc
        return self._read(call, address, route, answer)

    def _read(self, call: Call, address: str, route: Route, answer: Answer) -> Any:
        """Return the result that an answer holds.

        :raises Exception: it holds a failure.
        """
        kind = answer.content_type
        is_json = JSON.reads(kind) or kind.endswith("+json")
        if 200 <= answer.status < 300:
            if answer.body and not is_json:
                raise self.strange(call, address, answer)
            plain = self.decoded(call, address, JSON, answer.body) if answer.body else None
            return self.read(call, address, plain)
        error: Any = None
        if is_json:
            try:
                error = json.load(answer.body)
            except PayloadError:
                error = None
        error = error if isinstance(error, dict) else {}
        own = error.get("error")
        if isinstance(own, dict) and answer.headers.get(OUTCOME) == ERROR:
            raise raised(own, call.spec)
        if isinstance(own, dict) and "reason" in own:
            raise refused(call, self.channel, address, answer.status, own)
        reason = _reason(error)
        declared = next((kind for kind, status in route.errors.items() if status == answer.status), None)
        if declared is not None:
            raise raised({"type": declared.__name__, "reason": reason or f"HTTP {answer.status}"}, call.spec)
        said = f"the server answered with the HTTP status {answer.status}{f': {reason}' if reason else ''}"
        raise refused(call, self.channel, address, answer.status, {"reason": said})


def _reason(error: dict[str, Any]) -> str:
    """Return what an answer of somebody else says: by RFC 9457, as FastAPI does, and others."""
    for name in _REASONS:
        found = error.get(name)
        if isinstance(found, str) and found:
            return one_line(found, _LONGEST)
        if isinstance(found, (list, dict)) and found:
            return one_line(json.apply(found).decode(), _LONGEST)
    return ""
