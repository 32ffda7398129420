#!/usr/bin/env bash
# With pytest 9.2.0 the groups of pytest-xdist 3.8.0 have no effect: `--dist loadgroup` is taken, the marks are there, nothing is
# said, and tests of one group run on different workers. Tests that share a broker, or an environment that a fixture makes, meet.
#
# A worker of pytest-xdist tells the controller the group of a test by a suffix that it writes into the private `_nodeid` of
# the item. pytest 9.2 makes `nodeid` of a structured one, and `_nodeid` is an attribute that nobody reads. With 9.1.1 it works.
#
# Seen with CPython 3.11.7, two workers and six tests of one group:
#
#     pytest 9.1.1: 1 of two workers
#     pytest 9.2.0: 2 of two workers
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cat >"$work/test_group.py" <<'END'
import os
import pathlib
import time

import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(6))
def test_a_member(number):
    time.sleep(0.3)
    (pathlib.Path(__file__).parent / f"seen-{os.environ['PYTEST_XDIST_WORKER']}").touch()
END
for version in 9.1.1 9.2.0; do
  "$work/venv/bin/pip" --quiet --disable-pip-version-check install "pytest==$version" pytest-xdist==3.8.0
  rm -f "$work"/seen-*
  (cd "$work" && venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup test_group.py) >"$work/log" || {
    cat "$work/log"
    exit 1
  }
  echo "pytest $version: $(find "$work" -maxdepth 1 -name 'seen-*' | wc -l) of two workers" >>"$work/found"
done
cat "$work/found"
python3 - "$work/found" <<'END'
import sys

with open(sys.argv[1]) as file:
    found = file.read().splitlines()
assert found == ["pytest 9.1.1: 1 of two workers", "pytest 9.2.0: 2 of two workers"], found
END
