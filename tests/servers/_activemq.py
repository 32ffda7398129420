"""A private ActiveMQ broker of Debian's package that speaks STOMP, with data and ports of its own."""

from __future__ import annotations

import os
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tests.servers._node import Node
from tests.servers._ports import free_ports
from tests.servers._processes import Process, Processes
from tests.servers._stomp import Message, Stomp
from tests.servers._tls import Certificates, certificates, key_store

JAVA = Path("/usr/bin/java")
HOME = Path("/usr/share/activemq")
USER = PASSWORD = "guest"
STORE_PASSWORD = "store-password"  # Java reads no key store without one
LOGGING = """\
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c{1} %m%n
"""
# One login, as the brokers of others have; a whole queue can be browsed; nothing else listens.
SETTINGS = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans
                           http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
                           http://activemq.apache.org/schema/core
                           http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="localhost" dataDirectory={data}
          useJmx="false" advisorySupport="false" useShutdownHook="true">
    <destinationPolicy><policyMap><policyEntries>
      <policyEntry queue="&gt;" maxBrowsePageSize="1000000"/>
    </policyEntries></policyMap></destinationPolicy>
    <persistenceAdapter><kahaDB directory={store} journalMaxFileLength="8mb"/></persistenceAdapter>
    <plugins>
      <simpleAuthenticationPlugin anonymousAccessAllowed="false"><users>
        <authenticationUser username="{user}" password="{password}" groups="users"/>
      </users></simpleAuthenticationPlugin>
    </plugins>
    {tls}
    <transportConnectors>{connectors}</transportConnectors>
  </broker>
</beans>
"""
TLS = '<sslContext><sslContext keyStore={store} keyStorePassword="{password}"/></sslContext>'


def missing() -> str:
    """Return what is to be done before a broker can start here, or an empty string."""
    if JAVA.exists() and (HOME / "bin" / "activemq.jar").exists():
        return ""
    return "ActiveMQ is not installed: .ci/servers does that (the Debian package activemq)"


class ActiveMQ(Node):
    """A broker, whose life is that of `Node`. With `tls` there is one more listener, and certificates."""

    name = "ActiveMQ"
    user, password = USER, PASSWORD

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.tls = tls
        self.stomp_port = self.stomp_tls_port = 0
        self.certificates: Certificates | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.stomp_port}"

    def connect(self) -> Stomp:
        """Return a connection of a small client of the tests' own, a context manager."""
        return Stomp(self.host, self.stomp_port, USER, PASSWORD)

    def browse(self, queue: str) -> list[Message]:
        """Return all messages (`headers`, `body`) of ``/queue/<queue>``; they stay there."""
        with self.connect() as connection:
            return connection.browse(f"/queue/{queue}")

    def queue_depth(self, queue: str) -> int:
        """Return how many messages are in a queue, unacknowledged ones too; 0 if there is no queue."""
        return len(self.browse(queue))

    def take(self, queue: str) -> list[Message]:
        """Take off a queue all messages that are in it now."""
        with self.connect() as connection:
            destination = f"/queue/{queue}"
            return connection.take(destination, len(connection.browse(destination)))

    def publish(self, queue: str, body: bytes) -> None:
        """Put one persistent message into a queue."""
        with self.connect() as connection:
            connection.send(f"/queue/{queue}", body)

    def _prepare(self, folder: Path) -> None:
        self.stomp_port, second = free_ports(2)
        connectors, tls = [f"stomp://{self.address}"], ""
        if self.tls:
            self.stomp_tls_port = second
            self.certificates = certificates(folder, "client")
            store = key_store(self.certificates, folder / "server.p12", STORE_PASSWORD)
            tls = TLS.format(store=quoteattr(store.as_uri()), password=STORE_PASSWORD)
            connectors.append(f"stomp+ssl://{self.host}:{second}")
        lines = [f'<transportConnector name="c{i}" uri="{uri}"/>' for i, uri in enumerate(connectors)]
        settings = SETTINGS.format(
            data=quoteattr(str(folder / "data")),
            store=quoteattr(str(folder / "data" / "store")),
            user=USER,
            password=PASSWORD,
            tls=tls,
            connectors="".join(lines),
        )
        (folder / "broker.xml").write_text(settings)
        (folder / "log4j.properties").write_text(LOGGING)

    def _launch(self, processes: Processes) -> Process:
        folder = self.folder
        command = [
            str(JAVA),
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-XX:-UsePerfData",  # it would leave a file behind when killed
            f"-Djava.io.tmpdir={folder}",
            f"-Dlog4j.configuration={(folder / 'log4j.properties').as_uri()}",
            f"-Dactivemq.home={HOME}",
            f"-Dactivemq.base={folder}",
            f"-Dactivemq.conf={folder}",
            "-jar",
            str(HOME / "bin" / "activemq.jar"),
            "start",
            f"xbean:{(folder / 'broker.xml').as_uri()}",
        ]
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
        }
        return processes.start(command, environment, self.log)

    def _answers(self) -> bool:
        self.connect().close()
        return True
