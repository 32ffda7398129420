from evbus.engine.kit.topics import ends as topic_ends
from evbus.engine.kit.topics import matches


def find(hub, name: str, pattern: str) -> bool:
    """Return whether ``name`` matches a pattern of AMQP topics, as listeners use them.

    ``*`` is one word between dots, ``#`` any number of them: ``orders.*`` does not match
    ``orders.eu.paid``, and ``orders.#`` matches it, and ``orders``.
    """
    return matches(name, pattern)


def ends(hub, pattern: str) -> tuple[str, str]:
    """Return the prefix of every name that matches, and the suffix that follows it."""
    return topic_ends(pattern)
