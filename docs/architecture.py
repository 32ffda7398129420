"""Draw docs/architecture.svg: what imports what, and the way of an event. ``python docs/architecture.py``.

Boxes, floors and arrows are read from the imports; each station of the way has to be a function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

PACKAGE = Path(__file__).parent.parent / "evbus"
PICTURE = Path(__file__).with_suffix(".svg")

ROOMS = "rooms"
# The folders of the package that are no rooms, and files beside them that make the hub or are handed it.
ABOVE = {"api", "scripts", "testing", "_program", "_pytest", "__main__"}
GROUND = "engine/kit"

# (file, function, what it does with the event)
WAY = [
    ("evbus/broker.py", "put", "takes it from the application"),
    ("engine/core/broker.py", "Broker.offer", "encodes it, lets the pipeline see it, counts it"),
    ("engine/core/queue.py", "Queue.put", "holds it, within bounds"),
    ("engine/core/lifecycle/bus.py", "Engine.run", "feeds the lanes for as long as the bus lives"),
    ("engine/core/lane/route.py", "LaneRouter.dispatch", "hands it to its lanes, known since the put"),
    ("engine/core/lane/lane.py", "Lane.offer", "holds it for one destination, tries again"),
    ("engine/core/lane/sender.py", "Sender.send", "calls the plugin's publish with a batch"),
    ("ingress/amqp.py", "publish_batch", "the plugin (there is one for each message system)"),
    ("engine/wire/amqp/publish.py", "Publisher.publish", "writes frames, awaits confirms"),
    ("egress/amqp.py", "consume", "the plugin of the way back"),
    ("engine/wire/base/consume.py", "BrokerConsumer.arrival", "waits for deliveries, for ever"),
    ("engine/handling/events/consumer.py", "EventConsumer.start", "pumps deliveries to one listener"),
    ("engine/handling/events/listening.py", "Listening.take_all", "handles, tries again, settles"),
    ("engine/handling/events/workers.py", "Workers.submit_all", "so many at once, in order"),
    ("engine/core/pipeline.py", "around", "lets the pipeline handle it"),
    ("engine/handling/events/reader.py", "Reader.read", "makes the body the type that is declared"),
    ("engine/handling/events/listener.py", "made", "calls the application's function"),
]

WIDTH, MARGIN, FLOOR, BOX = 1330, 20, 74, 40
FONT = 'font-family="DejaVu Sans Mono, monospace" font-size="12"'
CHARACTER = 7.3  # the width of one, in the font of the picture


def place(path: Path) -> str:
    """Return the box in which a file is drawn."""
    parts = path.relative_to(PACKAGE).parts
    if parts[0] == "engine":
        return "/".join(parts[:-1])
    name = parts[0].removesuffix(".py")
    if name in ABOVE:
        return "api"
    return ROOMS if len(parts) > 1 else GROUND


def imported(path: Path) -> Iterator[Path]:
    """Yield the files of the package that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        for name in names:
            file = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
            if name.startswith("evbus.") and file.is_file():
                yield file


def arrows() -> dict[str, set[str]]:
    """Return what each box imports directly, without what it reaches by another box that it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        box = found.setdefault(place(path), set())
        if path.name != "__init__.py":
            box |= {place(file) for file in imported(path)}
    for box, below in found.items():
        below.discard(box)
    used = set().union(*found.values())
    found = {box: below for box, below in found.items() if below or box in used}
    reach = {box: _below(found, box) for box in found}
    return {
        box: {one for one in below if not any(one in reach[other] for other in below)}
        for box, below in found.items()
    }


def _below(found: dict[str, set[str]], box: str) -> set[str]:
    return found[box].union(*(_below(found, one) for one in found[box]))


def floors(found: dict[str, set[str]]) -> list[list[str]]:
    """Return the boxes of each floor, the ground last; each box above what it imports."""
    heights: dict[str, int] = {}

    def height(box: str) -> int:
        if box not in heights:
            heights[box] = 1 + max((height(one) for one in found[box]), default=-1)
        return heights[box]

    top = max(height(box) for box in found)
    return [sorted(box for box in found if heights[box] == level) for level in range(top, -1, -1)]


def stations() -> dict[str, list[int]]:
    """Return the numbers of the way's stations in each box.

    :raises LookupError: a station is not there.
    """
    found: dict[str, list[int]] = {}
    for number, (file, function, _) in enumerate(WAY, 1):
        scope: ast.Module | ast.ClassDef = ast.parse((PACKAGE / file).read_text())
        *classes, name = function.split(".")
        for owner in classes:
            classes_here = (node for node in scope.body if isinstance(node, ast.ClassDef))
            scope = next((node for node in classes_here if node.name == owner), ast.Module([], []))
        functions = (node for node in scope.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        if name not in {node.name for node in functions}:
            raise LookupError(f"WAY: there is no {function} in {file}")
        found.setdefault(place(PACKAGE / file), []).append(number)
    return found


def label(box: str) -> str:
    """Return what is written in a box."""
    if box == ROOMS:
        folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"engine", *ABOVE}
        return "rooms of plugins: " + " ".join(sorted(folders))
    if box == "api":
        return "api  testing  the command evbus"
    return f"{box}  types  errors" if box == GROUND else box.removeprefix("engine/")


def drawn() -> str:
    """Return the picture, as SVG."""
    found, way = arrows(), stations()
    spots: dict[str, tuple[float, float, float]] = {}
    storeys = floors(found)
    for level, boxes in enumerate(storeys):
        widths = [len(label(box)) * CHARACTER + 24 + 22 * len(way.get(box, ())) for box in boxes]
        gap = (WIDTH - sum(widths)) / (len(boxes) + 1)
        left = gap
        for box, width in zip(boxes, widths, strict=True):
            spots[box] = (left, MARGIN + level * FLOOR, width)
            left += width + gap
    bottom = MARGIN + len(storeys) * FLOOR
    shapes = [*_lines(found, spots), *_boxes(spots, way), *_legend(bottom)]
    height = bottom + 20 * ((len(WAY) + 1) // 2) + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
            "<title>What imports what in evbus, and the way of an event</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _lines(found: dict[str, set[str]], spots: dict[str, tuple[float, float, float]]) -> Iterator[str]:
    for box in sorted(found):
        left, top, width = spots[box]
        targets = sorted(found[box], key=lambda one: spots[one][0] + spots[one][2] / 2)
        for index, target in enumerate(targets, 1):
            x = left + width * index / (len(targets) + 1)
            y, end, to = top + BOX, spots[target][0] + spots[target][2] / 2, spots[target][1]
            middle = (y + to) / 2
            yield (
                f'<path d="M{x:.0f} {y} C{x:.0f} {middle:.0f} {end:.0f} {middle:.0f} {end:.0f} {to}" '
                'fill="none" stroke="#9aa5b1"/>'
            )


def _boxes(spots: dict[str, tuple[float, float, float]], way: dict[str, list[int]]) -> Iterator[str]:
    for box, (left, top, width) in sorted(spots.items()):
        fill = "#eef3f8" if box.startswith("engine") else "#fdf3e1"
        yield (
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{BOX}" rx="5" '
            f'fill="{fill}" stroke="#52606d"/>'
        )
        yield f'<text x="{left + 12:.0f}" y="{top + 25}">{escape(label(box))}</text>'
        right = left + width - 6
        for index, number in enumerate(reversed(way.get(box, []))):
            yield from _station(number, right - 11 - 22 * index, top + BOX / 2)


def _station(number: int, x: float, y: float) -> Iterator[str]:
    yield f'<circle cx="{x:.0f}" cy="{y:.0f}" r="10" fill="#0b69a3"/>'
    style = 'fill="#ffffff" font-size="11" text-anchor="middle"'
    yield f'<text x="{x:.0f}" y="{y + 4:.0f}" {style}>{number}</text>'


def _legend(top: float) -> Iterator[str]:
    half = (len(WAY) + 1) // 2
    for index, (file, function, what) in enumerate(WAY):
        x, y = MARGIN + (index // half) * WIDTH / 2, top + 20 * (index % half)
        yield from _station(index + 1, x + 10, y)
        name = function.rpartition(".")[2]
        text = escape(f"{file} {name}: {what}")
        yield f'<text x="{x + 28:.0f}" y="{y + 4:.0f}" font-size="10">{text}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawn())
