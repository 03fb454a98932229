"""A Dockerfile carried out without Docker: each stage on an overlay of this machine's own root.

What stands for the base image is this machine with its Python, so packages are those for its version; all else is as
written: RUN in a root of its own, COPY from the context that .dockerignore leaves, USER, ENV, a read-only root. Needs
Linux, root and an overlay on /; `why_not` says what is missing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

_KNOWN = re.compile("FROM|ENV|WORKDIR|COPY|RUN|LABEL|USER|EXPOSE|STOPSIGNAL|HEALTHCHECK|ENTRYPOINT|CMD")


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and argument of each, comments and line continuations resolved."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]
    assert all(_KNOWN.fullmatch(name) for name, _ in found), found
    return found


def context(root: Path) -> list[Path]:
    """The files below `root` that its .dockerignore lets into the build, relative. The last rule that fits decides."""
    rules = [line.strip() for line in (root / ".dockerignore").read_text().splitlines()]
    rules = [line for line in rules if line and not line.startswith("#")]

    def let_in(path: Path) -> bool:
        inside = True
        names = [str(path), *(str(parent) for parent in path.parents if str(parent) != ".")]
        for rule in rules:
            pattern = rule.removeprefix("!")
            if any(_fits(name, pattern) for name in names):
                inside = rule.startswith("!")
        return inside

    return [found for found in _files(root) if let_in(found)]


def _fits(name: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return any(fnmatch(part, pattern[3:]) for part in name.split("/"))
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def _files(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = [one for one in below if one not in {".git", ".venv", ".mypy_cache", ".hypothesis", "node_modules"}]
        yield from (Path(folder, name).relative_to(root) for name in names)


@dataclass
class Stage:
    """A stage's files (those that differ from the base) and the settings that its instructions made."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    @property
    def upper(self) -> Path:
        return self.folder / "upper"

    def script(self, inside: str, *, read_only: bool, volumes: Mapping[Path, str]) -> list[str]:
        """A command that mounts the stage in a namespace of its own and carries `inside` out in it."""
        root = shlex.quote(str(self.folder / "root"))
        steps = [
            f"mount -t overlay overlay -o lowerdir=/,upperdir={self.upper},workdir={self.folder / 'work'} {root}",
            f"mount --rbind /dev {root}/dev",
            f"mount -t proc proc {root}/proc",
        ]
        if read_only:
            steps += [f"mount -o remount,ro {root}", f"mount -t tmpfs tmpfs {root}/tmp"]
        steps += [f"mount --bind {shlex.quote(str(here))} {root}{there}" for here, there in volumes.items()]
        user, group = self.user.split(":")
        chroot = f"exec chroot --userspec={user}:{group} --groups= {root} /bin/sh -ec {shlex.quote(inside)}"
        return ["unshare", "--mount", "/bin/sh", "-ec", "\n".join([*steps, chroot])]

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        # PIP_*: how this machine reaches the package index is its own affair.
        ours = {name: value for name, value in os.environ.items() if re.match("PIP_|.*_proxy$", name)}
        ours.pop("PIP_USER", None)
        return {"HOME": "/root", "PATH": _PATH} | ours | self.env | dict(more or {})

    def popen(
        self,
        command: Sequence[str] | str,
        *,
        read_only: bool = False,
        volumes: Mapping[Path, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        told = command if isinstance(command, str) else f"exec {shlex.join(command)}"
        return subprocess.Popen(
            self.script(f"cd {self.workdir}\n{told}", read_only=read_only, volumes=volumes or {}),
            env=self.environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: Sequence[str] | str, **more: object) -> str:
        process = self.popen(command, **more)  # type: ignore[arg-type]
        told, _ = process.communicate(timeout=600)
        assert process.returncode == 0, f"$ {command}\n{told}"
        return told


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _base(folder: Path) -> Stage:
    """This machine as a base image: `python` where the official one has it, for every user."""
    stage = Stage(folder)
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    python = Path(sys.base_prefix, "bin", "python3").resolve()
    shown = [str(parent) for parent in list(python.parents)[:-1]]
    # No link: Python would look for its library beside it.
    wrapper = f'#!/bin/sh\nexec {python} "$@"\n'
    stage.run(
        f"rm -f /usr/local/bin/python\nprintf %s {shlex.quote(wrapper)} >/usr/local/bin/python\n"
        f"chmod a+rx /usr/local/bin/python {shlex.join(shown)}"
    )
    return stage


def why_not(folder: Path) -> str | None:
    """Why a Dockerfile cannot be carried out here; None: it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("unshare"):
        return "needs Linux and root"
    try:
        _base(folder / "probe").run("true")
    except AssertionError as error:
        return f"no overlay of this machine's root can be mounted: {str(error).splitlines()[-1]}"
    return None


def build(dockerfile: Path, root: Path, folder: Path) -> Stage:
    """Carry out all instructions; the last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    inside = set(context(root))
    for name, argument in instructions(dockerfile.read_text()):
        match name:
            case "FROM":
                stage = _base(folder / f"stage{len(stages)}")
                alias = re.search(r" AS (\w+)$", argument)
                stages[alias[1] if alias else str(len(stages))] = stage
            case "ENV":
                stage.env |= {
                    key: value.replace("$PATH", stage.env.get("PATH", _PATH))
                    for key, _, value in (part.partition("=") for part in shlex.split(argument))
                }
            case "WORKDIR":
                stage.run(f"test -d {argument} || mkdir -p {argument}")
                stage.workdir = argument
            case "COPY":
                _copy(stage, argument, stages, root, inside)
            case "RUN":
                stage.ran.append(stage.run(argument))
            case "USER":
                stage.user = argument
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(argument)
            case "CMD":
                stage.command = json.loads(argument)
            case "HEALTHCHECK":
                stage.health = json.loads(argument.partition("CMD ")[2])
    return stage


def _copy(stage: Stage, argument: str, stages: Mapping[str, Stage], root: Path, inside: set[Path]) -> None:
    words = shlex.split(argument)
    *sources, target = [word for word in words if not word.startswith("--")]
    (origin,) = [word.removeprefix("--from=") for word in words if word.startswith("--from=")] or [None]
    to = stage.upper / str(Path(stage.workdir, target)).lstrip("/")
    for source in sources:
        if origin is not None:  # a folder of another stage, its content
            shutil.copytree(stages[origin].upper / source.lstrip("/"), to, symlinks=True, dirs_exist_ok=True)
            continue
        found = [path for path in inside if path == Path(source) or path.is_relative_to(source)]
        assert found, f"COPY {source}: nothing of that name is in the build's context"
        for path in found:
            into = to / path.relative_to(source) if path != Path(source) else to / path.name
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, into)
