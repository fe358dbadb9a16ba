"""The site: complete without a network, and what a browser makes of it."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from scripts.book import BookError, build, main, with_mathml
from suite.registry import PROJECT

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    "",
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
]
PROBE = """<script>onload = () => document.body.setAttribute("data-probe", JSON.stringify({
  broken: [...document.images].filter(image => !image.naturalWidth).length,
  images: document.images.length,
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth}))</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site") / "book"
    build(PROJECT / "notebooks", out)
    return out


@pytest.mark.slow
def test_there_is_a_page_for_every_notebook_and_every_link_resolves(site):
    pages = {
        path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in site.glob("*.html")
    }
    names = {path.stem for path in (PROJECT / "notebooks").glob("[0-9]*.ipynb")}
    assert {"index.html"} | {
        f"{name}.html" for name in names if not name.startswith("08")
    } == pages.keys()
    for name, page in pages.items():
        assert (
            len(page.nav.find_all("a")) == len(pages)
            and len(page.find_all("a", attrs={"aria-current": True})) == 1
        )
        for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href")):
            for element in page.find_all(tag):
                link = element[attribute]
                if link.startswith("#"):
                    assert page.find(id=link[1:]), f"{name}: {link} leads nowhere"
                elif not re.match(r"(https|data|mailto):", link):
                    assert (site / link.partition("#")[0]).is_file(), (
                        f"{name}: {link} does not exist"
                    )
        assert not page.find_all(["script", "iframe"]), f"{name} runs code"
        assert not [
            e
            for e in page.find_all(["img", "link"])
            if re.match(r"https?:", e.get("src", e.get("href")))
        ]


def test_formulas_are_mathml_and_code_is_left_alone():
    assert "<msup>" in with_mathml("so $x^2$ holds") and 'display="block"' in with_mathml(
        "$$\\frac{1}{2}$$"
    )
    for text in ("it costs $5 or $6", "`$x$` stays", "```\n$x$\n```", "make $(VENV)"):
        assert with_mathml(text) == text


def write(path: Path, *cells: nbformat.NotebookNode) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path.parent


def test_a_bad_notebook_leaves_the_old_site_alone(tmp_path, capsys):
    out = tmp_path / "book"
    good = write(
        tmp_path / "good" / "01_a.ipynb", new_markdown_cell("# A *finding*"), new_code_cell("1")
    )
    assert (
        main(["--notebooks", str(good), "--out", str(out)]) == 0
        and "1 pages" in capsys.readouterr().out
    )
    before = (out / "01_a.html").read_text()
    assert "<title>A finding</title>" in before
    untitled = write(tmp_path / "untitled" / "01_a.ipynb", new_code_cell("1"))
    astray = write(tmp_path / "astray" / "01_a.ipynb", new_markdown_cell("# A\n\n[b](02_b.ipynb)"))
    for folder, sentence in (
        (untitled, "does not begin with a title"),
        (astray, "links to 02_b.ipynb"),
    ):
        assert main(["--notebooks", str(folder), "--out", str(out)]) == 1
        assert sentence in capsys.readouterr().err
    precious = write(tmp_path / "precious" / "thesis.ipynb")
    assert main(["--notebooks", str(good), "--out", str(precious)]) == 1 and list(
        precious.iterdir()
    )
    assert "is no site of this suite" in capsys.readouterr().err
    with pytest.raises(BookError, match="holds no notebook"):
        build(tmp_path / "nowhere", out)
    assert (out / "01_a.html").read_text() == before and len(list(out.iterdir())) == 2


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: install the package chromium")
@pytest.mark.parametrize("width", [500, 1400])
def test_a_browser_shows_every_figure_and_logs_no_error(site, tmp_path, width):
    for path in site.glob("*.html"):
        copy = site / f".probe-{path.name}"
        copy.write_text(
            path.read_text(encoding="utf-8").replace("</head>", f"{PROBE}</head>"), encoding="utf-8"
        )
        size = [
            "--enable-logging=stderr",
            f"--window-size={width},900",
            f"--user-data-dir={tmp_path / path.stem}",
        ]
        command = [
            CHROMIUM,
            *FLAGS,
            *size,
            "--virtual-time-budget=5000",
            "--dump-dom",
            copy.as_uri(),
        ]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        copy.unlink()
        assert "CONSOLE" not in shown.stderr, f"{path.name}: {shown.stderr}"
        [probe] = re.findall(r'data-probe="([^"]*)"', shown.stdout)
        images = path.read_text(encoding="utf-8").count("<img")
        expected = {"broken": 0, "images": images, "wide": 0}
        assert dict(re.findall(r"&quot;(\w+)&quot;:(\d+)", probe)) == {
            k: str(v) for k, v in expected.items()
        }, path.name
