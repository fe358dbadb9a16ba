"""Copies of the notebooks for Google Colab: no outputs, a badge below the title, one cell that
installs what it needs.

python -m scripts.colab --repository owner/name --out notebooks/colab

Where they lie on GitHub is told by --repository or by repository-code in CITATION.cff.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from scripts.check_notebooks import notebooks_in, tags
from scripts.exercises import without_outputs
from suite.errors import ClaimError
from suite.files import write_text
from suite.registry import PROJECT

GITHUB = re.compile(r"(?:https://github\.com/)?([A-Za-z0-9-]+/[\w.-]+?)(?:\.git)?/?", re.ASCII)
IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"
LINK = "https://colab.research.google.com/github/{repository}/blob/main/notebooks/colab/{file}"
INSTALL = """import runpy
import subprocess
import sys
from pathlib import Path

try:
    import google.colab  # noqa: F401
except ImportError:
    print("This is not Google Colab, so nothing is installed here: README.md says how to set up the project.")
else:
    folder = "/content/{name}"
    if not Path(folder).exists():
        clone = ["git", "clone", "--depth=1", "https://github.com/{repository}", folder]
        done = subprocess.run(clone, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    sys.path.insert(0, folder)
    runpy.run_path(f"{{folder}}/scripts/colab_install.py")["install"]()  # what is missing; torch stays"""


class ColabError(ValueError):
    """It is not known where the copies will lie on GitHub."""


def repository(given: str, citation: Path = PROJECT / "CITATION.cff") -> str:
    """owner/name on GitHub, as given or else as CITATION.cff has it. Raises ColabError, saying what
    to give.
    """
    address = given or yaml.safe_load(citation.read_text(encoding="utf-8")).get("repository-code")
    if not address:
        raise ColabError("Give REPOSITORY=owner/name, or a line repository-code in CITATION.cff.")
    if not (match := GITHUB.fullmatch(address)):
        raise ColabError(f"{address!r} is no repository on GitHub: write it as owner/name.")
    return match[1]


def colab(nb: NotebookNode, repository: str, file: str) -> NotebookNode:
    """The notebook as Colab opens it from the repository, where it is called `file`."""
    copy = without_outputs(nb)
    title, _, rest = copy.cells[0].source.partition("\n")
    badge = f"[![Open in Colab]({IMAGE})]({LINK.format(repository=repository, file=file)})"
    copy.cells[0].source = f"{title}\n\n{badge}\n{rest}"
    source = INSTALL.format(repository=repository, name=repository.split("/")[1])
    [place] = [n for n, cell in enumerate(copy.cells) if "parameters" in tags(cell)]
    copy.cells.insert(place, new_code_cell(source, id="colab-install"))
    return copy


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", default="", help="owner/name on GitHub")
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "notebooks" / "colab", help="folder to write"
    )
    args = parser.parse_args(argv)
    try:
        address = repository(args.repository)
        for path in notebooks_in(PROJECT / "notebooks"):
            copy = colab(nbformat.read(path, as_version=4), address, path.name)
            write_text(args.out / path.name, nbformat.writes(copy) + "\n")
            print(f"{path.stem}: {LINK.format(repository=address, file=path.name)}")
    except (ColabError, ClaimError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
