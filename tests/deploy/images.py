"""Dockerfiles: what they say, what is wrong with them, and what their steps do on this machine."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
IGNORE_FILE = DEPLOY / "Dockerfile.dockerignore"

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_SECRET = re.compile(r"TOKEN|PASSW|SECRET|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)
_NOT_OURS = ("NTK_DIST_", "PYTHON", "JAX_", "NUMBA_")
_PINNED = re.compile(r".+:[^:/]*\d+\.\d+[^:/]*(@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined."""

    keyword: str
    flags: dict[str, str]
    text: str
    line: int

    @property
    def is_json(self) -> bool:
        return self.text.startswith("[")

    @property
    def assignments(self) -> dict[str, str]:
        """Of ENV, ARG and LABEL."""
        pairs = (word.partition("=") for word in shlex.split(self.text))
        return {name: value for name, _, value in pairs}


@dataclass
class Stage:
    """What starts with FROM."""

    name: str
    base: str
    """Another stage, or an image with its variables filled in."""
    instructions: list[Instruction] = field(default_factory=list)

    def of(self, keyword: str) -> list[Instruction]:
        return [each for each in self.instructions if each.keyword == keyword]


@dataclass
class Dockerfile:
    """All stages, in order."""

    arguments: dict[str, str]
    """ARG before the first FROM."""
    stages: dict[str, Stage]

    def lineage(self, name: str) -> list[Stage]:
        """The stages that ``name`` is made on, the first one first, and itself."""
        stage = self.stages[name]
        above = self.lineage(stage.base) if stage.base in self.stages else []
        return [*above, stage]

    def last(self, name: str, keyword: str) -> Instruction | None:
        """The instruction that counts in the end."""
        found = [each for stage in self.lineage(name) for each in stage.of(keyword)]
        return found[-1] if found else None

    def environment(self, name: str) -> dict[str, str]:
        """All variables of a stage, as written."""
        found: dict[str, str] = {}
        for stage in self.lineage(name):
            for each in stage.of("ENV"):
                found |= each.assignments
        return found

    def command(self, name: str) -> list[str]:
        """What a container of this stage runs."""
        last = self.last(name, "CMD")
        assert last is not None
        return list(json.loads(last.text))

    def health_command(self, name: str) -> list[str]:
        """What is run to see whether it is well."""
        last = self.last(name, "HEALTHCHECK")
        assert last is not None
        return list(json.loads(last.text.removeprefix("CMD").strip()))


def parse_dockerfile(text: str) -> Dockerfile:
    """What a Dockerfile says."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage = None
    for each in _instructions(text):
        if each.keyword == "FROM":
            words = each.text.split()
            base = _filled(words[0], arguments)
            name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(len(stages))
            stage = stages[name] = Stage(name, base)
        elif stage is None:
            arguments |= each.assignments
        else:
            stage.instructions.append(each)
    return Dockerfile(arguments, stages)


def _filled(text: str, arguments: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda found: arguments[found[1] or found[2]], text)


def _instructions(text: str) -> list[Instruction]:
    found, joined, start = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        start = start if joined else number
        joined += line.strip().removesuffix("\\").rstrip() + " "
        if not line.rstrip().endswith("\\"):
            found.append(_instruction(joined.strip(), start))
            joined = ""
    return found


def _instruction(joined: str, line: int) -> Instruction:
    keyword, _, rest = joined.partition(" ")
    flags = {}
    while match := re.match(r"--([\w-]+)=(\S+)\s*", rest.lstrip()):
        flags[match[1]] = match[2]
        rest = rest.lstrip()[match.end() :]
    return Instruction(keyword.upper(), flags, rest.strip(), line)


def problems(dockerfile: Dockerfile, targets: tuple[str, ...]) -> list[str]:
    """What a careful reader would object to, in the steps and in the images that are shipped."""
    found = []
    for stage in dockerfile.stages.values():
        if stage.base not in dockerfile.stages and not _PINNED.fullmatch(stage.base):
            found.append(f"{stage.name}: its base {stage.base} is no particular one")
        for each in stage.instructions:
            found += [f"line {each.line}: {problem}" for problem in _problems_of(each)]
    for target in targets:
        found += [f"{target}: {problem}" for problem in _problems_in_the_end(dockerfile, target)]
    return found


def _problems_of(each: Instruction) -> list[str]:
    found = []
    if each.keyword == "ADD":
        found.append("ADD does more than COPY: it fetches and unpacks")
    if each.keyword == "COPY" and "from" not in each.flags:
        *sources, _ = each.text.split()
        if {".", "./", "*"} & set(sources):
            found.append("COPY takes the whole context")
    if each.keyword in {"ARG", "ENV"}:
        secrets = [name for name in each.assignments if _SECRET.search(name)]
        found += [f"{name} looks like a secret, which stays in the image" for name in secrets]
    if each.keyword == "RUN":
        found += _problems_of_run(each.text)
    if each.keyword in {"CMD", "ENTRYPOINT"} and not each.is_json:
        found.append(f"{each.keyword} starts a shell, which takes the signals")
    if each.keyword == "HEALTHCHECK" and not re.match(r"(CMD\s+\[|NONE)", each.text):
        found.append("HEALTHCHECK starts a shell")
    return found


def _problems_of_run(text: str) -> list[str]:
    found = []
    for command in re.findall(r"apt(?:-get)? install[^&;|]*|apt(?:-get)? [^&;|]* install", text):
        if "--no-install-recommends" not in command:
            found.append("apt-get install brings what is only recommended")
    if re.search(r"apt(-get)? .*install|apt(-get)? install", text):
        if not re.search(r"apt(-get)? update", text):
            found.append("apt-get install without an update in the same layer")
        if "rm -rf /var/lib/apt/lists/" not in text:
            found.append("the lists of apt stay in the layer")
    if re.search(r"\bsudo\b", text):
        found.append("sudo")
    if re.search(r"(curl|wget)\b[^&;]*\|\s*(ba)?sh", text):
        found.append("runs what it fetches")
    return found


def _problems_in_the_end(dockerfile: Dockerfile, target: str) -> list[str]:
    found = []
    user = dockerfile.last(target, "USER")
    if user is None or user.text.split(":")[0] in {"root", "0"}:
        found.append("runs as root")
    elif not re.fullmatch(r"\d+:\d+", user.text):
        found.append(f"USER {user.text} is no number, which Kubernetes needs to see it is not root")
    for keyword in ("CMD", "HEALTHCHECK"):
        if dockerfile.last(target, keyword) is None:
            found.append(f"has no {keyword}")
    return found


def is_sent(name: str, patterns: str) -> bool:
    """Whether an ignore file lets ``name`` into the context; the last pattern that fits decides."""
    sent = True
    for line in patterns.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        again = pattern.startswith("!")
        parts = name.split("/")
        heads = ["/".join(parts[: k + 1]) for k in range(len(parts))]
        bare = pattern.removeprefix("!").strip("/")
        anywhere = bare.removeprefix("**/")
        candidates = parts if anywhere != bare else heads
        if any(fnmatch.fnmatchcase(head, anywhere) for head in candidates):
            sent = again
    return sent


class Kitchen:
    """Runs the steps of a stage in a folder that stands for the root of a container.

    Of file systems only ``/src`` and ``/opt`` are its own, and Python is that of this process: what
    is proved is that the steps are the right ones, and not what else the base image has.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(_NOT_OURS)},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PIP_NO_COMPILE": "1",  # a quarter of the time, and of no use here
        }
        self._folder = root

    def inside(self, text: str) -> str:
        """``text`` with the paths of the container as paths in the folder."""
        return re.sub(r"(?<![\w./-])/(opt|src|cache|workspace)\b", rf"{self.root}/\1", text)

    def container(self, dockerfile: Dockerfile, target: str) -> dict[str, str]:
        """The environment of a container of the finished image."""
        image = {k: self.inside(v) for k, v in dockerfile.environment(target).items()}
        path = image["PATH"].replace("${PATH}", os.environ["PATH"])
        return {**self.environment, **image, "PATH": path, "HOME": str(self.root)}

    def cook(self, stage: Stage) -> None:
        """Run all instructions, in order."""
        for each in stage.instructions:
            if each.keyword == "ENV":
                self.environment |= {k: self.inside(v) for k, v in each.assignments.items()}
            elif each.keyword == "WORKDIR":
                self._folder = Path(self.inside(each.text))
                self._folder.mkdir(parents=True, exist_ok=True)
            elif each.keyword == "COPY":
                self._copy(each.text.split())
            elif each.keyword == "RUN":
                self._run(each)

    def _copy(self, words: list[str]) -> None:
        *sources, target = words
        for source in sources:
            assert is_sent(source, IGNORE_FILE.read_text()), f"{source} is not sent to the builder"
            path, to = ROOT / source, self._folder / target
            if path.is_dir():
                shutil.copytree(
                    path, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                to = to / path.name if target.endswith("/") else to
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)

    def _run(self, each: Instruction) -> None:
        done = subprocess.run(
            ["bash", "-c", self.inside(each.text)],
            cwd=self._folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"line {each.line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
