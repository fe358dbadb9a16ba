"""The sweep: its table by hand, its profiles and defaults, and the engine's plan where the engine
is installed.
"""

import csv
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from scripts import sweep_table
from suite.registry import PROJECT, resolve
from tests.test_scorecard import write

SWEEP = PROJECT / "sweep"
ENGINE = shutil.which(
    "snakemake", path=f"{PROJECT / '.venv-sweep' / 'bin'}{os.pathsep}{os.environ['PATH']}"
)


# The table


@pytest.fixture
def out(tmp_path):
    """Two seeds of one model, one of which has a second model and a metric that the other lacks."""
    share = {"id": "A6", "metric": "both", "verdict": "transfers"}
    heads = {"id": "A2", "metric": "movers", "verdict": "transfers"}
    steps = {"id": "B6", "metric": "attended_index_by_step", "verdict": "transfers"}
    write(tmp_path / "seed-0", "smollm2", "03", share | {"value": 0.5})
    write(tmp_path / "seed-1", "smollm2", "03", share | {"value": 0.7, "verdict": "partly", "n": 4})
    write(tmp_path / "seed-0", "smollm2", "01", heads | {"value": ["L1H2", "L0H0"]})
    write(tmp_path / "seed-1", "smollm2", "01", heads | {"value": ["L1H2", "L3H1"]})
    rank = {"id": "B1", "metric": "rank_L1H2_L3H0", "value": 7, "verdict": "does not"}
    write(tmp_path / "seed-0", "smollm2", "05", steps | {"value": [1.0, 2.0]})
    write(tmp_path / "seed-1", "smollm2", "05", steps | {"value": [1.0, 4.0]}, rank)
    write(tmp_path / "seed-1", "other", "03", share | {"value": 0.25})
    done = tmp_path / "seed-1" / "done" / "other"
    done.mkdir(parents=True)
    (done / "05.txt").write_text("05_inhibition_channel (other): skipped, no head found\n")
    return tmp_path


def test_the_table_by_hand(out, capsys):
    assert sweep_table.main([str(out)]) == 0
    with open(out / "sweep.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [
        "model",
        "claim",
        "metric",
        "seed 0",
        "seed 1",
        "spread",
        "agree",
        "verdicts",
        "n",
    ]
    assert [row[:5] for row in rows] == [
        ["other", "A6", "both", "", "0.25"],
        ["smollm2", "A2", "movers", "L1H2 L0H0", "L1H2 L3H1"],
        ["smollm2", "A6", "both", "0.5", "0.7"],
        ["smollm2", "B1", "rank_L1H2_L3H0", "", "7"],
        ["smollm2", "B6", "attended_index_by_step", "1, 2", "1, 4"],
    ]
    numbers = [row[5] for row in rows]  # of 0.5 and 0.7: 0.2 / sqrt(2); of 2 and 4: 2 / sqrt(2)
    assert [numbers[i] for i in (0, 1, 3)] == ["", "1 of 3", ""]
    assert [float(numbers[i]) for i in (2, 4)] == pytest.approx([0.2 / 2**0.5, 2**0.5])
    assert [row[6:] for row in rows] == [
        ["1 of 1", "1 transfers", "9"],
        ["2 of 2", "2 transfers", "9"],
        ["1 of 2", "1 transfers, 1 partly", "4, 9"],
        ["1 of 1", "1 does not", "9"],
        ["2 of 2", "2 transfers", "9"],
    ]
    text = (out / "sweep.md").read_text()
    assert (
        "| smollm2 | A6 | both | 50.0 % | 70.0 % | 14.1 % | 1 of 2 | 1 transfers, 1 partly | 4, 9 |"
        in text
    )
    assert "- seed-1: 05_inhibition_channel (other): skipped, no head found" in text
    shown = "- other, seed 1: one verdict on 1 of 1 shared metrics\n"
    shown += "- smollm2, seed 0, seed 1: one verdict on 2 of 3 shared metrics; not on A6 `both`\n"
    assert shown in text and shown in capsys.readouterr().out


def test_no_results_end_in_one_sentence(tmp_path, capsys):
    assert sweep_table.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"Error: {tmp_path} holds no results of a sweep: run `make sweep`, or name the folder of one.\n"
    )


# Profiles and defaults


def settings(name: str) -> dict:
    return yaml.safe_load((SWEEP / name).read_text())


def test_the_profiles_differ_in_where_jobs_run_alone():
    local, slurm = (settings(f"profiles/{name}/config.yaml") for name in ("local", "slurm"))
    shared = {"snakefile": "sweep/Snakefile", "directory": "build/sweep", "keep-going": True}
    shared |= {"rerun-incomplete": True, "nolock": True, "quiet": ["rules", "host"]}
    assert local == shared | {"cores": "all"}
    assert slurm == shared | {"executor": "slurm", "jobs": 50, "retries": 1, "latency-wait": 60}
    assert (PROJECT / shared["snakefile"]).is_file()


def test_the_defaults_can_be_run():
    config = settings("config.yaml")
    assert {resolve(model).kind for model in config["models"].split()} == {"planted", "embedded"}
    assert (
        all(seed.isdecimal() for seed in config["seeds"].split())
        and len(config["seeds"].split()) > 1
    )
    assert config["notebooks"] == "all" and config["profile"] in ("full", "quick")


def test_the_engine_is_pinned_apart_from_the_suite():
    pins = [
        line for line in (SWEEP / "requirements-sweep.txt").read_text().splitlines() if "==" in line
    ]
    assert [line.split("==")[0] for line in pins] == [
        "snakemake",
        "snakemake-executor-plugin-slurm",
    ]
    assert all("  # " in line for line in pins)
    lock = (SWEEP / "requirements-sweep.lock").read_text().splitlines()
    assert {line.split("  #")[0] for line in pins} <= set(lock)
    assert {str(next(iter(Requirement(line).specifier)))[:2] for line in lock} == {"=="}
    assert "snakemake" not in "".join(path.read_text() for path in PROJECT.glob("requirements*"))


# The engine's plan


@pytest.fixture
def plan(tmp_path):
    """A dry run of a profile: exit status and all it says."""
    if ENGINE is None:
        pytest.skip("no snakemake here: `make sweep` sets it up in .venv-sweep")

    def call(profile: str, *config: str) -> tuple[int, str]:
        command = [
            ENGINE,
            "--profile",
            f"sweep/profiles/{profile}",
            "--directory",
            str(tmp_path / "out"),
            "--dry-run",
        ]
        command += [
            "--quiet",
            "host",
            "--printshellcmds",
            "--config",
            f"python={sys.executable}",
            *config,
        ]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return call


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_the_plan_is_the_grid_in_file_order(plan, profile):
    if (
        profile == "slurm"
        and "slurm" not in subprocess.run([ENGINE, "--help"], capture_output=True, text=True).stdout
    ):
        pytest.skip("this snakemake has no Slurm executor: `make sweep` sets it up in .venv-sweep")
    status, said = plan(
        profile, "models=planted smollm2", "notebooks=00 02", "seeds=0 3", "profile=quick"
    )
    assert status == 0
    calls = [line for line in said.splitlines() if "scripts.run_notebooks" in line]
    wanted = [
        (m, s, n)
        for m, numbers in (("planted", "00 01 02"), ("smollm2", "01 02"))
        for s in "03"
        for n in numbers.split()
    ]
    for (
        model,
        seed,
        number,
    ) in wanted:  # 01 is added for the heads; 00 is about the planted model alone
        options = f"--model {model} --set SEED={seed} --only {number} --profile quick"
        [line] = [line for line in calls if options in line]
        assert f"CIRCUITS_OUT={PROJECT}" not in line and f"/seed-{seed} " in line
    assert len(calls) == len(wanted)
    order = [said.index(f"output: seed-3/done/smollm2/{number}.txt") for number in ("01", "02")]
    assert order == sorted(order) and "input: seed-3/done/smollm2/01.txt" in said
    assert "mem_mb=4096" in said and "runtime=60" in said


@pytest.mark.parametrize(
    "config, sentence",
    [
        ("models=nonsense", "Error: Unknown model 'nonsense': use one of smollm2"),
        ("notebooks=42", "Error: No notebook 42 takes a seed: use all, or some of 00"),
        ("notebooks=07", "Error: No notebook 07 takes a seed: use all, or some of 00"),
        ("seeds=0 many", "Error: A seed is a whole number such as 0 or 1, not 'many'."),
        (
            "models=data tests/../data",
            "Error: Two of the models data tests/../data would share a folder of results",
        ),
    ],
)
def test_bad_values_end_in_one_sentence(plan, config, sentence):
    status, said = plan("local", config)
    assert status != 0 and said.splitlines()[-1].startswith(sentence) and "Traceback" not in said


def test_what_is_about_the_planted_model_needs_it(plan):
    status, said = plan("local", "models=smollm2", "notebooks=00")
    assert status != 0 and said.splitlines()[-1].startswith("Error: Nothing to run: notebook 00")
