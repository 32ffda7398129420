#!/usr/bin/env bash
# With pytest 9.2.0 the groups of pytest-xdist 3.8.0 have no effect: `--dist loadgroup` is taken, the marks are there, nothing is
# said, and tests of one group run on different workers. Tests that share a broker, or an environment that a fixture makes, meet.
#
# A worker of pytest-xdist tells the controller the group of a test by a suffix that it writes into the private `_nodeid` of
# the item. pytest 9.2 makes `nodeid` of a structured one, and `_nodeid` is an attribute that nobody reads. With 9.1.1 it works.
#
# Seen with CPython 3.11.7, two workers and six tests of one group:
#
#     pytest 9.1.1: 1 worker
#     pytest 9.2.0: 2 workers
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
for case in "9.1.1 1" "9.2.0 2"; do
  read -r version expected <<<"$case"
  "$work/venv/bin/pip" --quiet --disable-pip-version-check install "pytest==$version" pytest-xdist==3.8.0
  rm -f "$work"/seen-*
  (cd "$work" && venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup test_group.py) >"$work/log" || { cat "$work/log"; exit 1; }
  found=$(find "$work" -maxdepth 1 -name 'seen-*' | wc -l)
  echo "pytest $version: $found worker$([ "$found" = 1 ] || echo s)"
  [ "$found" = "$expected" ]
done
