"""A private RabbitMQ node of Debian's package, with its own data, ports, cookie and epmd. Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers._amqp import Connection, Depth, Refused
from tests.servers._management import Management
from tests.servers._node import START_LIMIT, Node
from tests.servers._ports import HOST, free_ports
from tests.servers._processes import Process, Processes
from tests.servers._tls import Certificates, certificates
from tests.servers._wait import until

SCRIPTS = Path("/usr/lib/rabbitmq/bin")  # those in /usr/sbin switch the user
EVALUATE_LIMIT = 60.0  # seconds
MEMORY = 2 * 1024**3  # bytes at which publishers are blocked
PLUGINS = ("rabbitmq_stomp", "rabbitmq_amqp1_0", "rabbitmq_management", "rabbitmq_auth_mechanism_ssl")
# What these need. The node gets to see no other plugin: looking for each of its modules in the folders of all
# costs half of the time that it takes to start.
NEEDED = ("rabbitmq_prelaunch", "rabbitmq_management_agent", "rabbitmq_web_dispatch")
LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
COOKIE = "A" * 20  # what its control programs know it by
USER = PASSWORD = "guest"
CLIENT = "client"  # the common name of the client's certificate, and so the user that EXTERNAL logs in


def missing() -> str:
    """Return what is to be done before a node can start here, or an empty string."""
    if (SCRIPTS / "rabbitmq-server").exists():
        return ""
    return "RabbitMQ is not installed: .ci/servers does that (the Debian package rabbitmq-server)"


class RabbitMQ(Node, Management):
    """A node, whose life is that of `Node`; what can be done to its inside by HTTP stands in `Management`.

    With `tls` there are two more listeners, certificates, and the user "client" who logs in by certificate
    (SASL EXTERNAL, no password). `settings` are more lines of its rabbitmq.conf.
    """

    name = "RabbitMQ"
    user, password = USER, PASSWORD
    scripts = SCRIPTS

    def __init__(self, *, tls: bool = False, settings: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.tls = tls
        self._more_settings = settings or {}
        self.port = self.stomp_port = self.management_port = 0
        self.tls_port = self.stomp_tls_port = 0
        self.certificates: Certificates | None = None
        self._epmd_port = self._distribution_port = 0
        self._epmd: Process | None = None

    @property
    def version(self) -> tuple[int, ...]:
        """The version of the program, such as (3, 10, 8)."""
        return tuple(int(part) for part in _program(self.scripts).name.partition("-")[2].split("."))

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """amqp://, with login and the virtual host "/"."""
        return f"amqp://{USER}:{PASSWORD}@{self.address}/"

    @property
    def tls_url(self) -> str:
        """amqps://, with login and the virtual host "/"."""
        return f"amqps://{USER}:{PASSWORD}@{self.host}:{self.tls_port}/"

    def mend(self) -> RabbitMQ:
        """Make it run, answer and take messages, whatever was done to it."""
        super().mend()
        if self.alarmed:
            self.memory_alarm(False)
        self.set_permissions(USER)
        return self

    def close(self) -> None:
        """Kill the node and its epmd; the data stays. Idempotent."""
        if self._epmd is not None:
            self._epmd.kill()
        self._epmd = None
        super().close()

    def sync(self) -> None:
        """Have what was declared on the disk.

        RabbitMQ writes that a while after it has answered: a queue that is new when the node is killed is
        forgotten, with all the messages in it that were confirmed.
        """
        self.evaluate("mnesia:sync_log()")

    def evaluate(self, expression: str) -> str:
        """Return the value of an Erlang expression in the node, for what the management interface cannot do.

        ``rabbitmqctl`` can, but takes a core for a second or two. Raises `RuntimeError` when it fails.
        """
        environment = self._environment()
        done = subprocess.run(
            ["erl_call", "-sname", environment["RABBITMQ_NODENAME"], "-c", COOKIE, "-e"],
            env=environment,
            input=f"{expression}.\n",
            capture_output=True,
            text=True,
            timeout=EVALUATE_LIMIT,
            check=False,
        )
        found = re.fullmatch(r"\{ok, (.*)\}", done.stdout.strip(), re.DOTALL)
        if found is None:
            raise RuntimeError(f"{expression}: {done.stdout.strip() or done.stderr.strip()}")
        return found[1]

    def close_connections(self, reason: str = "closed by an operator") -> int:
        """Close every connection, of STOMP too, as an operator does; return how many there were."""
        # The management interface could do it as well, but learns of a connection only after a second.
        # This is what `rabbitmqctl close_all_connections` does.
        listed = "All = rabbit_connection_tracking:list()"
        closed = f"rabbit_connection_tracking_handler:close_connections(All, {json.dumps(reason)}, 0)"
        return int(self.evaluate(f"{listed}, {closed}, length(All)"))

    def memory_alarm(self, on: bool) -> None:
        """Raise the memory alarm, which blocks whoever publishes, or end it; returns when it is so."""
        self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({{absolute, {1 if on else MEMORY}}})")
        until(lambda: self.alarmed == on, EVALUATE_LIMIT, "the memory alarm")

    def depth(self, queue: str, vhost: str = "/") -> Depth:
        """Return (messages ready, consumers) of a queue now. Raises `OSError` if there is none."""
        with self._connect(vhost) as connection:
            return connection.depth(queue)

    def queue_depth(self, queue: str, vhost: str = "/") -> int:
        """Return how many messages are ready in a queue now; unacknowledged ones do not count."""
        return self.depth(queue, vhost).messages

    def has_queue(self, queue: str, vhost: str = "/") -> bool:
        try:
            self.depth(queue, vhost)
        except Refused as exc:
            if not str(exc).startswith("404 "):
                raise
            return False
        return True

    def _launch(self, processes: Processes) -> Process:
        if self._epmd is None or not self._epmd.alive:
            epmd = ["epmd", "-port", str(self._epmd_port), "-address", HOST]
            self._epmd = processes.start(epmd, self._environment(), self.folder / "epmd.log")
            until(lambda: _open(self._epmd_port), START_LIMIT, "the start of epmd")
        return processes.start([self.scripts / "rabbitmq-server"], self._environment(), self.log)

    def _answers(self) -> bool:
        self._connect("/").close()
        if not _open(self.stomp_port) or self.api("GET", "overview") is None:
            return False
        if self.tls:
            self.add_user(CLIENT, "")
            self.set_permissions(CLIENT)
        return True

    def _connect(self, vhost: str) -> Connection:
        return Connection(self.host, self.port, USER, PASSWORD, vhost)

    def _prepare(self, folder: Path) -> None:
        ports = free_ports(7)
        self.port, self.stomp_port, self.management_port = ports[:3]
        self._epmd_port, self._distribution_port = ports[3:5]
        if self.tls:
            self.tls_port, self.stomp_tls_port = ports[5:]
            self.certificates = certificates(folder, CLIENT)
        cookie = folder / ".erlang.cookie"
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)
        _link_program(self.scripts, folder / "server")
        (folder / "environment.conf").touch()
        (folder / "plugins").write_text(f"[{','.join(PLUGINS)}].")
        lines = [f"{key} = {value}" for key, value in self._settings().items()]
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")

    def _settings(self) -> dict[str, object]:
        settings: dict[str, object] = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "stomp.listeners.tcp.1": f"{HOST}:{self.stomp_port}",
            "management.tcp.ip": HOST,
            "management.tcp.port": self.management_port,
            "loopback_users": "none",
            "vm_memory_high_watermark.absolute": MEMORY,
            "disk_free_limit.absolute": "1MB",
            # What the management interface lists is at most about a second old: milliseconds, then seconds.
            "collect_statistics_interval": 500,
            "management.sample_retention_policies.global.minute": 1,
            "management.sample_retention_policies.basic.minute": 1,
            "management.sample_retention_policies.detailed.10": 1,
            "log.console": "true",
            "log.console.level": "info",
            "log.file": "false",
        }
        if self.certificates is not None:
            settings |= {
                "listeners.ssl.1": f"{HOST}:{self.tls_port}",
                "stomp.listeners.ssl.1": f"{HOST}:{self.stomp_tls_port}",
                "ssl_options.cacertfile": self.certificates.ca,
                "ssl_options.certfile": self.certificates.server,
                "ssl_options.keyfile": self.certificates.server_key,
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "false",
                "ssl_cert_login_from": "common_name",
                "auth_mechanisms.1": "PLAIN",
                "auth_mechanisms.2": "AMQPLAIN",
                "auth_mechanisms.3": "EXTERNAL",
            }
        return {**settings, **self._more_settings}

    def _environment(self) -> Mapping[str, str]:
        home = self.folder
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_CRASH_DUMP_SECONDS": "0",
            # epmd is ours, as is its end: one that Erlang starts would stay for ever.
            "ERL_FLAGS": "-start_epmd false",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_SCRIPTS_DIR": str(home / "server" / "sbin"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "environment.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": LOOPBACK,
            # The script becomes the Erlang machine instead of waiting for it, so that its id is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


def _program(scripts: Path) -> Path:
    (installed,) = (scripts.parent / "lib").glob("rabbitmq_server-*")
    return installed


def _link_program(scripts: Path, folder: Path) -> None:
    """Make a folder that looks like the installed program and has the plugins that are used here."""
    installed = _program(scripts)
    for part in ("sbin", "escript", "plugins"):
        (folder / part).mkdir(parents=True)
        for entry in (installed / part).iterdir():
            name = entry.name.partition("-")[0]
            if not name.startswith("rabbitmq_") or name in (*PLUGINS, *NEEDED):
                (folder / part / entry.name).symlink_to(entry)


def _open(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port), 5):
        return True
    return False
