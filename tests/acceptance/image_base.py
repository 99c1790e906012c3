"""A stand-in for the image's base, made of this machine's own files: no registry is needed, and nothing is pulled.

It holds what the Dockerfile uses of ``python:3.12-slim``: a shell, a few tools, Python with pip, and their libraries.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

_TOOLS = ("sh", "env", "install", "groupadd", "useradd", "rm", "cat", "ls", "mkdir", "id", "true", "sleep")
# What wheels load beyond their own libraries; the real base has them as well.
_FOR_WHEELS = (
    *("libgcc_s.so.1", "libstdc++.so.6", "libatomic.so.1"),
    *("librt.so.1", "libdl.so.2", "libpthread.so.0", "libutil.so.1", "libresolv.so.2", "libm.so.6"),
    *("libnss_files.so.2", "libnss_dns.so.2", "libanl.so.1"),
)
_LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "__pycache__",
    "config-*",
)
_FILES = ("/etc/nsswitch.conf", "/etc/login.defs", "/etc/default/useradd", "/etc/ssl/openssl.cnf", "/etc/localtime")
ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "shadow": "root:*:1::::::\n",
    "gshadow": "root:*::\n",
}


def make(root: Path) -> None:
    """Fills ``root``, a new folder, with the base's files."""
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    programs = [Path(found).resolve() for name in _TOOLS if (found := shutil.which(name))]
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    shutil.copytree(
        stdlib, _in(root, stdlib), symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True
    )
    pip = Path(_ask(python, "import pip; print(pip.__path__[0])"))
    purelib = Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    for each in (pip, *pip.parent.glob("pip-*.dist-info")):
        shutil.copytree(each, _in(root, purelib) / each.name)
    for program in (python.resolve(), *programs):
        _copy(root, program)
    for library in _libraries([python.resolve(), *programs, *stdlib.glob("lib-dynload/*.so")]):
        _copy(root, library)
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for name in _FOR_WHEELS:
        if told := re.search(rf"{re.escape(name)} .*x86-64.* => (\S+)|{re.escape(name)} .* => (\S+)", known):
            _copy(root, Path(told[1] or told[2]))
    # The loader and the tools are known by these names; on merged systems they are links.
    for name in ("bin", "sbin", "lib", "lib64"):
        if (Path("/") / name).is_symlink() and not (root / name).exists():
            (root / name).symlink_to((Path("/") / name).readlink())
    for name, found in ((name, shutil.which(name)) for name in _TOOLS):
        place = root / "usr/bin" / name
        if found and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(Path(found).resolve())
    for link in ("python", "python3", python.name):
        (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/local/bin" / link).symlink_to(python.resolve())
    for name in _FILES:
        if Path(name).exists():
            _copy(root, Path(name))
    for name in ("tmp", "var/tmp", "var/lib", "proc", "sys", "dev", "root", "run", "opt", "usr/sbin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, text in ACCOUNTS.items():
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc" / name).write_text(text)
    # The interpreter may live under a home that only its owner may enter.
    for folder in root.rglob("*"):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(folder.stat().st_mode | 0o755)
    # Nobody's own set-up of an index belongs into the image: packages come from a folder of wheels.
    (root / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")


def _ask(python: Path, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _libraries(programs: list[Path]) -> set[Path]:
    """The shared libraries that the programs load, under the names by which they ask for them."""
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE)}


def _in(root: Path, path: Path) -> Path:
    """Where ``path`` of this machine lies under ``root``: folders that are links here lead to their true places."""
    return root / (path.parent.resolve() / path.name).relative_to("/")


def _copy(root: Path, path: Path) -> None:
    place = _in(root, path)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
