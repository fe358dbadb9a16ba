"""The files around the code: requirements, conda environment and Makefile say the same thing."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml
from packaging.utils import canonicalize_name

from suite.registry import PROJECT


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / name).read_text(), flags=re.MULTILINE)
    return {canonicalize_name(package): number for package, number in found}


def lines(name: str) -> list[str]:
    stripped = [line.strip() for line in (PROJECT / name).read_text().splitlines()]
    return [line for line in stripped if line and not line.startswith("#")]


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", *arguments]  # `make test` itself runs these
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-model.txt"])
def test_direct_dependencies_are_pinned_justified_and_installed(name):
    for line in lines(name):
        assert re.fullmatch(r"[\w.-]+==\S+  # .+", line), (
            f"{line}: write it as name==version  # what it is for"
        )
    assert pins(name) == {package: version(package).partition("+")[0] for package in pins(name)}


def test_lock_agrees_with_the_requirements():
    lock = pins("requirements.lock")
    assert len(lock) == len(lines("requirements.lock"))
    assert pins("requirements.txt").items() <= lock.items()


def test_conda_environment_uses_the_same_files_and_pip():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    makefile = (PROJECT / "Makefile").read_text()
    assert pip == {"pip": ["-c requirements.lock", "-r requirements.txt"]}
    assert f"pip={re.search(r'PIP_VERSION := (.*)', makefile)[1]}" in conda


@pytest.mark.parametrize(
    "path",
    sorted(PROJECT.glob("[hsbn]*/*.py")) + sorted(PROJECT.glob("notebooks/*.ipynb")),
    ids=str,
)
def test_nothing_that_is_read_can_run_code(path):
    """Models are safetensors, data is JSON and safe YAML: no pickle, no code of a model, no
    evaluated text.
    """
    text = path.read_text(encoding="utf-8")
    forbidden = r"import pickle|pickle\.load|torch\.load\(|yaml\.(?!safe_load)\w*load|joblib|np\.load\((?!.*allow_pickle=False)|(?<![\w.])(eval|exec)\("
    assert re.findall(forbidden + r'|trust_remote_code"?\s*[=:]\s*True', text) == []


def test_help_lists_every_target_with_its_cost():
    [phony] = re.findall(r"^\.PHONY: (.*)", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
    listed = {line.split()[1]: line for line in make("help").stdout.splitlines()}
    assert set(listed) == set(phony.split())
    assert [name for name, line in listed.items() if not line.endswith("]")] == ["help", "clean"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["MODEL=nonsense"], "Error: Unknown model 'nonsense'"),
        (["MODEL=no such folder"], "Error: Unknown model 'no such folder'"),
        (["N_PROMPTS=many"], "Error: N_PROMPTS takes a value of type int"),
        (["ONLY=42"], "Error: No notebook begins with '42'"),
    ],
)
def test_bad_values_end_in_one_sentence(arguments, sentence):
    done = make("reproduce", f"PY={sys.executable}", *arguments)
    assert done.returncode != 0 and done.stdout == ""
    first, last = done.stderr.splitlines()
    assert first.startswith(sentence) and last.startswith("make")


def test_setup_asks_for_a_recent_python(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0 and "Python 3.11 or later is needed" in done.stderr
    assert not (tmp_path / "venv").exists()
