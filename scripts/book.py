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

from scripts.check_notebooks import notebooks_in
from suite.registry import PROJECT

FRONT = "07"  # the scorecard
MATH = re.compile(
    r"\$\$(?P<display>.+?)\$\$|(?<![\\$\w])\$(?P<inline>[^$\n]+?)\$(?![\w$])", re.DOTALL
)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
STYLE = """
:root { color-scheme: light; --line: #d8dee4; --accent: #0b5d8a; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.6 system-ui, sans-serif; color: #1f2328; background: #fff; }
a { color: var(--accent); }
nav { padding: 1rem; border-bottom: 1px solid var(--line); background: #f6f8fa; }
nav ol { list-style: none; margin: .5rem 0 0; padding: 0; }
nav li { padding: .2rem 0; }
nav [aria-current] { font-weight: bold; color: inherit; text-decoration: none; }
main { max-width: 60rem; padding: 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 .6em; }
h1:first-child { margin-top: 0; }
.anchor-link, .jp-Cell-inputCollapser, .jp-Cell-outputCollapser, .prompt { display: none; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid var(--accent); background: #f3f8fb; }
details { margin: .6rem 0; padding: .3rem .8rem; border: 1px solid var(--line); border-radius: 6px; overflow-x: auto; }
summary { cursor: pointer; }
pre { margin: .4rem 0; padding: .7rem; overflow-x: auto; font-size: .82rem; line-height: 1.45; border-radius: 6px; }
.highlight pre, .input_area pre { background: #f6f8fa; border: 1px solid var(--line); }
.output_area, .rendered_html, .text_cell_render { overflow-x: auto; }
code { font-family: ui-monospace, monospace; font-size: .88em; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
img, svg { max-width: 100%; height: auto; }
footer { padding: 1rem; border-top: 1px solid var(--line); display: flex; justify-content: space-between; gap: 1rem; }
@media (min-width: 70rem) {
  body { display: grid; grid-template-columns: 17rem 1fr; }
  nav { border: 0; border-right: 1px solid var(--line); min-height: 100vh; }
  nav div { position: sticky; top: 1rem; }
}
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><link rel="stylesheet" href="style.css"></head>
<body><nav><div><strong>Circuits and talking heads</strong><ol>{menu}</ol></div></nav>
<div><main>{body}</main><footer><span>{before}</span><span>{after}</span></footer></div></body></html>
"""


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
            f"{out} is no site of this suite: give a folder that is new or holds one, which is replaced."
        )
    documents = {path: nbformat.read(path, as_version=4) for path in found}
    pages = [Page(path, _name(path), _title(path, nb)) for path, nb in documents.items()]
    pages.sort(key=lambda page: page.name != "index.html")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    (part / "style.css").write_text(STYLE + highlight, encoding="utf-8")
    for place, page in enumerate(pages):
        body = with_files(render(documents[page.source]), page, part)
        neighbours = (pages[place - 1 : place], pages[place + 1 : place + 2])
        before, after = (
            f'<a href="{near[0].name}">{near[0].short}</a>' if near else "" for near in neighbours
        )
        menu = "".join(f"<li>{_entry(other, page)}</li>" for other in pages)
        text = PAGE.format(title=page.title, menu=menu, body=body, before=before, after=after)
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
                f"{page.source.name} links to {path}, which is no file of the project: correct the link."
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
            f"{path.name} does not begin with a title: make its first cell Markdown that begins with '# '."
        )
    return html.escape(re.sub(r"[*`]", "", heading[1]))


def _entry(page: Page, current: Page) -> str:
    return (
        f'<a href="{page.name}"{" aria-current=page" if page == current else ""}>{page.short}</a>'
    )


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
