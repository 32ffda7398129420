"""An OpenAPI document as a page for people: one file of HTML that loads nothing, and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

__all__ = ["POLICY", "page"]

#: The header ``content-security-policy`` of the page: a browser loads and runs nothing, whatever is in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 small { font-weight: normal; opacity: .7; }
details { border: 1px solid #8886; border-radius: .4rem; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; }
code, pre { font: .9em/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .6rem; background: #8881; }
.verb { display: inline-block; min-width: 4.5rem; font-weight: bold; }
table { border-collapse: collapse; width: 100%; }
td { vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8883; }
.text { white-space: pre-line; }
"""
_VERBS = ("get", "post", "put", "patch", "delete")


def page(document: Mapping[str, Any], source: str = "openapi.json") -> str:
    """Return the page of a document.

    :param source: where the document itself is, as a link from the page.
    """
    info = document["info"]
    head = f"{escape(info['title'])} <small>{escape(info['version'])}</small>"
    body = "".join(_operations(document)) or "<p>No method has a path.</p>"
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary>{_schema(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body><h1>{head}</h1>"
        f"{_text(info.get('description', ''))}"
        f'<p>The same for programs: <a href="{escape(source)}">{escape(source)}</a> (OpenAPI '
        f"{escape(document['openapi'])})</p>{body}<h2>Schemas</h2>{schemas}</body></html>"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    described = {tag["name"]: tag.get("description", "") for tag in document.get("tags", ())}
    for tag, text in described.items():
        yield f"<h2>{escape(tag)}</h2>{_text(text)}"
        for path, verbs in document["paths"].items():
            for verb in _VERBS:
                if verb in verbs and tag in verbs[verb]["tags"]:
                    yield _operation(verb, path, verbs[verb])


def _operation(verb: str, path: str, operation: Mapping[str, Any]) -> str:
    head = f'<span class="verb">{verb.upper()}</span> <code>{escape(path)}</code>'
    parts = [
        f"<summary>{head} {escape(operation.get('summary', ''))}</summary>",
        _text(operation.get("description", "")),
    ]
    rows = [
        [
            f"<code>{escape(one['name'])}</code>",
            escape(one["in"]) + (", required" if one.get("required") else ""),
            f"<code>{escape(_short(one['schema']))}</code>",
            escape(one.get("description", "")),
        ]
        for one in operation.get("parameters", ())
    ]
    if rows:
        parts.append("<h4>Parameters</h4>" + _table(rows))
    if "requestBody" in operation:
        body = operation["requestBody"]
        required = ", required" if body.get("required") else ""
        parts.append(f"<h4>Body{required}</h4>{_text(body.get('description', ''))}{_content(body)}")
    answers = [
        [
            f"<code>{escape(status)}</code>",
            f"<code>{escape(_short(_schema_of(answer)))}</code>",
            f'<span class="text">{escape(answer["description"])}</span>',
        ]
        for status, answer in operation["responses"].items()
    ]
    parts.append("<h4>Answers</h4>" + _table(answers))
    return f"<details>{''.join(parts)}</details>"


def _schema_of(answer: Mapping[str, Any]) -> Any:
    return answer["content"]["application/json"]["schema"]


def _content(body: Mapping[str, Any]) -> str:
    return "".join(
        f"<p><code>{escape(kind)}</code></p>{_schema(found['schema'])}"
        for kind, found in body["content"].items()
    )


def _table(rows: list[list[str]]) -> str:
    return (
        "<table>"
        + "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        + "</table>"
    )


def _schema(schema: Any) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"


def _short(schema: Any) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " | ".join(map(_short, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(json.dumps(each, ensure_ascii=False) for each in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"[{_short(schema.get('items') or {})}]"
    said = schema.get("format") or schema.get("contentEncoding")
    default = f" = {json.dumps(schema['default'], ensure_ascii=False)}" if "default" in schema else ""
    return f"{kind}{f' ({said})' if said else ''}{default}"


def _text(text: str) -> str:
    return f'<p class="text">{escape(text)}</p>' if text else ""
