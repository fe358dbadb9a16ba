"""What a result says about the run that made it: commit, packages, memory."""

import re
import resource
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from suite.registry import PROJECT


def peak_memory_gib(who: int) -> float:
    """Largest resident memory so far, of this process (`resource.RUSAGE_SELF`) or of a finished
    child.
    """
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


def package_versions(project: Path = PROJECT) -> dict[str, str]:
    """Installed versions of the packages that the requirements files pin."""
    lines = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted(project.glob("requirements*.txt"))
    )
    versions = {}
    for name in re.findall(r"^([\w.-]+)(?:\[.*\])?==", lines, re.MULTILINE):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def git_state() -> dict[str, str | bool | None]:
    """Commit, and whether anything but figures and results differs from it; None outside a checkout
    or without git.
    """
    commit = git("rev-parse", "--verify", "HEAD")
    changes = git("status", "--porcelain", "--", ".", ":!figures", ":!data/results")
    return {"git_commit": commit, "git_dirty": bool(changes) if commit else None}


def git(*arguments: str) -> str | None:
    """What git says of the project; None where there is no git, no checkout or no such thing in
    it.
    """
    command = ["git", f"--git-dir={PROJECT / '.git'}", f"--work-tree={PROJECT}", *arguments]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, check=True
        ).stdout.strip()
    return None
