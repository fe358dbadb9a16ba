"""The executed notebooks as a static site that needs no network, no script and no server:
build/book/index.html.

python -m scripts.book --notebooks notebooks --out build/book
"""

import argparse
import html
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import latex2mathml.converter
import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from suite.registry import PROJECT, notebooks_in

FRONT = "08"  # the scorecard
MATH = re.compile(
    r"\$\$(?P<display>.+?)\$\$|(?<![\\$\w])\$(?P<inline>[^$\n]+?)\$(?![\w$])", re.DOTALL
)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
TEMPLATES = Path(__file__).parent / "site"


class BookError(ValueError):
    """A notebook or a link of which no page can be made."""


@dataclass(frozen=True)
class Page:
    """One notebook: its file, the page's file name and its title."""

    source: Path
    name: str
    title: str

    @property
    def short(self) -> str:
        """01_ioi_circuit -> "01 ioi circuit"."""
        return self.source.stem.replace("_", " ")


def build(notebooks: Path, out: Path) -> list[Page]:
    """Write the site whole: into a folder beside `out`, which then takes its place. Raises
    BookError.
    """
    found = notebooks_in(notebooks)
    if not found:
        raise BookError(f"{notebooks} holds no notebook: give the folder of the executed ones.")
    if out.exists() and not (out / "style.css").is_file():
        raise BookError(
            f"{out} is no site of this suite: give a new folder, or the folder of an earlier site."
        )
    documents = {path: nbformat.read(path, as_version=4) for path in found}
    pages = [Page(path, _name(path), _title(path, nb)) for path, nb in documents.items()]
    pages.sort(key=lambda page: page.name != "index.html")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    (part / "style.css").write_text(style + highlight, encoding="utf-8")
    template = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    for place, page in enumerate(pages):
        before = pages[place - 1] if place > 0 else None
        after = pages[place + 1] if place + 1 < len(pages) else None
        text = template.format(
            title=page.title,
            menu="".join(f"<li>{_entry(other, page)}</li>" for other in pages),
            body=with_files(render(documents[page.source]), page, part),
            before=_neighbor(before),
            after=_neighbor(after),
        )
        (part / page.name).write_text(text, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return pages


def render(nb: nbformat.NotebookNode) -> str:
    """The cells as HTML, formulas as MathML."""
    nb = nbformat.from_dict(nb)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(nb)
    return body.replace(
        "No description has been provided for this image", "Figure of the cell above"
    )


def with_mathml(markdown: str) -> str:
    """Markdown with $...$ and $$...$$ outside of code turned into MathML."""
    parts, code = CODE.split(markdown), CODE.findall(markdown)
    parts = [MATH.sub(_formula, part) for part in parts]
    return "".join(text + quoted for text, quoted in zip(parts, [*code, ""], strict=True))


def _formula(match: re.Match) -> str:
    kind = "block" if match["display"] else "inline"
    return latex2mathml.converter.convert(
        (match["display"] or match["inline"]).strip(), display=kind
    )


def with_files(body: str, page: Page, out: Path) -> str:
    """Links to notebooks lead to their pages; any other local file that is linked is copied. Raises
    BookError.
    """

    def target(match: re.Match) -> str:
        attribute, link = match[1], html.unescape(match[2])
        path, _, fragment = link.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        file = (page.source.parent / path).resolve()
        if not file.is_file() or not (file.suffix == ".ipynb" or file.is_relative_to(PROJECT)):
            raise BookError(
                f"{page.source.name} links to {path}, which is no file of the project: "
                "correct the link."
            )
        name = _name(file) if file.suffix == ".ipynb" else file.relative_to(PROJECT).as_posix()
        if file.suffix != ".ipynb":
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, out / name)
        return f'{attribute}="{html.escape(name)}{"#" + fragment if fragment else ""}"'

    return re.sub(r'\b(href|src)="([^"]*)"', target, body)


def _name(path: Path) -> str:
    return "index.html" if path.name.startswith(FRONT) else f"{path.stem}.html"


def _title(path: Path, nb: nbformat.NotebookNode) -> str:
    heading = re.match(r"# (.+)", nb.cells[0].source) if nb.cells else None
    if heading is None:
        raise BookError(
            f"{path.name} does not begin with a title: "
            "make its first cell Markdown that begins with '# '."
        )
    return html.escape(re.sub(r"[*`]", "", heading[1]))


def _entry(page: Page, current: Page) -> str:
    mark = " aria-current=page" if page == current else ""
    return f'<a href="{page.name}"{mark}>{page.short}</a>'


def _neighbor(page: Page | None) -> str:
    return f'<a href="{page.name}">{page.short}</a>' if page else ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--notebooks", type=Path, default=PROJECT / "notebooks", help="folder of executed notebooks"
    )
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "build" / "book", help="folder to write"
    )
    options = parser.parse_args(argv)
    try:
        pages = build(options.notebooks.resolve(), options.out)
    except (BookError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{len(pages)} pages: open {options.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
