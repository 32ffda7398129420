"""No file of the project says where packages come from: that is a setting of the machine it is used on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The hosts of package registries and of their usual mirrors: names, and the domains below which each may be.
# They are put together here, so that this file does not name one either.
HOSTS = {
    "pypi": ("org", "python.org", "tuna.tsinghua.edu.cn", "doubanio.com"),
    "pythonhosted": ("org",),
    "debian": ("org", "net"),
    "ubuntu": ("com",),
    "npmjs": ("org", "com"),
    "npmmirror": ("com",),
    "yarnpkg": ("com",),
    "mirrors": (
        "aliyun.com",
        "tuna.tsinghua.edu.cn",
        "ustc.edu.cn",
        "kernel.org",
        "edge.kernel.org",
        "cloud.tencent.com",
        "huaweicloud.com",
    ),
    "mirror": ("kernel.org",),
    "anaconda": ("org", "com"),
    "golang": ("org",),
    "crates": ("io",),
}
NAMED = re.compile(
    r"(?<![\w-])(?:"
    + "|".join(re.escape(f"{name}.{domain}") for name, domains in HOSTS.items() for domain in domains)
    + r")(?![\w-])",
    re.IGNORECASE,
)


def hosts_in(text: str) -> list[str]:
    return NAMED.findall(text)


@pytest.mark.parametrize(("name", "domain"), [(name, domain) for name in HOSTS for domain in HOSTS[name]])
def test_each_host_is_found(name: str, domain: str) -> None:
    host = f"{name}.{domain}"
    for text in (f"deb http://{host}/x y", f"https://deb.{host.upper()}/", f"see {host}."):
        assert [found.lower() for found in hosts_in(text)] == [host]


@pytest.mark.parametrize("text", ["debian.orgs", "my-debian" + ".org", "an apt source of Debian"])
def test_other_words_are_not_found(text: str) -> None:
    assert hosts_in(text) == []


def test_no_tracked_file_names_the_host_of_a_package_registry() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no clone of the repository, or git is not installed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in listed.stdout.split("\0") if name]
    assert "setup.cfg" in files
    found = {
        name: hosts
        for name in files
        if (ROOT / name).is_file() and (hosts := hosts_in((ROOT / name).read_text(errors="replace")))
    }
    assert found == {}
