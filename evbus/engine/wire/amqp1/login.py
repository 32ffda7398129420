"""The login of a client of AMQP 1.0."""

from __future__ import annotations

__all__ = ["Login"]


class Login:
    """As whom to log in, and what to say of oneself.

    :ivar mechanism: of SASL: PLAIN, EXTERNAL or ANONYMOUS.
    :ivar hostname: the field of ``open``, by which brokers choose a vhost.
    :ivar idle: seconds without a sign of life after which the other side is given up; 0: never.
    """

    __slots__ = ("container", "hostname", "idle", "mechanism", "password", "product", "user")

    def __init__(
        self, *, mechanism: str, user: str, password: str, hostname: str, container: str, idle: float
    ) -> None:
        self.mechanism = mechanism
        self.user = user
        self.password = password
        self.hostname = hostname
        self.container = container
        self.idle = idle

    def __repr__(self) -> str:
        return f"<Login {self.mechanism} {self.user!r}>"
