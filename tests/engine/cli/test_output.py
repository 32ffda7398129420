"""Where subcommands write, and in which format."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evbus.engine.cli.output import as_json, as_yaml, chosen, write
from evbus.errors import ConfigError

FORMATS = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


@pytest.mark.parametrize(
    ("wanted", "path", "right"),
    [
        (None, None, "json"),
        (None, "-", "json"),
        (None, "a/b.YML", "yaml"),
        (None, "a.txt", "json"),
        ("json", "a.yaml", "json"),
        ("yaml", None, "yaml"),
    ],
)
def test_the_format_is_the_one_wanted_or_that_of_the_ending(
    wanted: str | None, path: str | None, right: str
) -> None:
    assert chosen(wanted, path, FORMATS, "json") == right


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--format 'yml': there is no such format; did you mean 'yaml'\?"):
        chosen("yml", None, FORMATS, "json")


def test_files_and_standard_output_are_written_in_utf_8(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    write(str(tmp_path / "a"), "ü\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc\n"
    write(None, "ü ")
    write("-", "two")
    assert capsysbinary.readouterr().out == b"\xc3\xbc two"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--output .*/none/a: it cannot be written: No such file"):
        write(str(tmp_path / "none" / "a"), "x")


def test_yaml_has_no_anchors_and_reads_back_as_json_does() -> None:
    part = {"a": [1, "1.0", "yes", "ü"]}
    document = {"z": part, "b": part}
    assert yaml.safe_load(as_yaml(document)) == document
    assert list(yaml.safe_load(as_yaml(document))) == ["z", "b"]
    assert "&" not in as_yaml(document)
    assert yaml.safe_load(as_json(document)) == document


@pytest.mark.parametrize(
    "text", ["1e5", "5e12", "1e3", "0o17", "0x1F", "-.5", "1.", "12", "1.5E-3", "-0o7", "1_0e3"]
)
def test_a_text_that_yaml_1_2_takes_for_a_number_is_quoted(text: str) -> None:
    assert as_yaml({text: [text]}) == f"'{text}':\n- '{text}'\n"
    assert yaml.safe_load(as_yaml({text: [text]})) == {text: [text]}


def test_other_texts_have_no_more_quotes_than_they_need() -> None:
    assert as_yaml(["1e", "e5", "a1", "1-2"]) == "- 1e\n- e5\n- a1\n- 1-2\n"
