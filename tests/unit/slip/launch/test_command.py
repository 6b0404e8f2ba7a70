"""`slip launch` from end to end, with a made-up cluster: what is submitted, written, said and refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from slip.launch.batch import Place, script_text
from slip.launch.command import main
from slip.launch.freeze import Origin
from slip.launch.record import read_launch
from slip.launch.settings import parse
from slip.launch.site_file import Site
from slip.launch.task import TrainTask
from tests.unit.slip.launch.fake_slurm import Commands, queue_line

CHECKOUT = Path(__file__).resolve().parents[4]
WORDS = ("demo", "--data.manifest", "m.json", "--nodes", "2", "--name", "first")


@pytest.fixture(autouse=True)
def _small_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying the real one takes a while, and asking git of it; its job scripts are what they are."""
    root = tmp_path / "checkout"
    for name in ("pipeline", "slip"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text(f"# {name}\n")
    (root / "slurm").mkdir()
    for path in (CHECKOUT / "slurm").iterdir():
        (root / "slurm" / path.name).write_text(path.read_text())
    monkeypatch.setattr("slip.__file__", str(root / "slip/__init__.py"))
    monkeypatch.setattr("slip.launch.launching.origin_of", lambda _: Origin(commit="c0ffee" * 7, dirty=False))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one error that is said of a command line that cannot be."""
    assert main(words) in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    (line,) = (line for line in err.splitlines() if " ERROR: " in line)
    return line


def test_a_run_is_submitted_and_written_down(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    folder = here / "launches/first"
    assert slurm.submitted() == script_text(parse(WORDS).config, Site(), Place(folder=folder, working_folder=here), 1)
    launch = read_launch(folder)
    arguments = ("demo", "--data.manifest", "m.json")
    assert [run.arguments for run in launch.runs] == [arguments]
    assert (launch.jobs, launch.commit, launch.dirty) == (("77",), "c0ffee" * 7, False)
    assert launch.submissions[0].words == WORDS
    assert launch.submissions[0].settings["nodes"] == 2
    assert json.loads((folder / "config-0.json").read_text())["data"]["manifest"] == ["m.json"]
    assert (folder / "code/slip/__init__.py").read_text() == "# slip\n"
    with (folder / "logs/77_submitted.pkl").open("rb") as file:
        assert pickle.load(file).function == TrainTask(arguments, str(here))
    out = capsys.readouterr().out
    for text in (
        *(
            "first: submitted (nodes: 2; on each, ranks: 8, GPUs: 8)",
            "job 77",
            "output  runs/demo",
            f"{folder}/logs/77_0_log.out",
        ),
        *("frozen now, commit c0ffeec0ffee", "slip launch status first", "slip launch logs first --follow"),
        *("slip launch cancel first", "estimate"),
    ):
        assert text in out


def test_several_runs_are_one_array(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--seeds", "0", "1", "2", "--array-parallelism", "2", "--folder", "elsewhere"]) == 0
    assert "#SBATCH --array=0-2%2\n" in slurm.submitted()
    folder = here / "elsewhere/first"
    launch = read_launch(folder)
    assert launch.jobs == ("77_0", "77_1", "77_2")
    assert [run.output for run in launch.runs] == [f"runs/demo/seed-{seed}" for seed in (0, 1, 2)]
    for number, job in enumerate(launch.jobs):
        assert json.loads((folder / f"config-{number}.json").read_text())["seed"] == number
        with (folder / f"logs/{job}_submitted.pkl").open("rb") as file:
            assert pickle.load(file).function.arguments == launch.runs[number].arguments
    assert "slip launch logs first --run 0 --follow --folder elsewhere" in capsys.readouterr().out


def test_the_same_command_goes_on_with_what_has_ended(
    here: Path, slurm: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS) == 0
    (tmp_path / "checkout/slip/__init__.py").write_text("# edited\n")
    slurm.add("sbatch", "Submitted batch job 78\n")
    capsys.readouterr()
    # With more time: what it is given may change, what it trains may not.
    assert main([*WORDS, "--time-min", "60"]) == 0
    launch = read_launch(here / "launches/first")
    assert [submission.jobs for submission in launch.submissions] == [("77",), ("78",)]
    assert (here / "launches/first/code/slip/__init__.py").read_text() == "# slip\n"
    assert "#SBATCH --time=60\n" in slurm.submitted()
    out = capsys.readouterr().out
    assert "submitted again; each run goes on from its newest checkpoint" in out
    assert "frozen then" in out


def test_a_launch_that_is_there_is_not_begun_twice(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS) == 0
    slurm.add("squeue", queue_line("77", "RUNNING"))
    capsys.readouterr()
    said = refused(capsys, *WORDS)
    for text in ("has not ended (77 RUNNING)", "slip launch status first", "slip launch cancel first", "--name"):
        assert text in said
    script = f"{here}/launches/first/logs/.submission_file_1.sh"
    slurm.add("squeue", queue_line("78", "PENDING", script=script))
    assert "has not ended (78 in the queue)" in refused(capsys, *WORDS)
    assert len(slurm.calls("sbatch")) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seed", "5"), "run 0 has less where --seed 5 is asked for"),
        (("--seeds", "1", "2"), "it has 1 runs, asked for are 2"),
        (("--executor", "local", "--nodes", "1", "--gpus-per-node", "0"), "it has --executor slurm"),
    ],
)
def test_another_launch_needs_another_name(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main(WORDS) == 0
    capsys.readouterr()
    found = refused(capsys, *WORDS, *words)
    assert "of something else" in found
    assert said in found
    assert len(slurm.calls("sbatch")) == 1


def test_another_folder_to_start_from_is_another_launch(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, "--folder", str(here / "launches"))
    assert main(words) == 0
    (here / "sub").mkdir()
    (here / "sub/m.json").write_text("{}")
    monkeypatch.chdir(here / "sub")
    capsys.readouterr()
    assert f"it was launched from {here}" in refused(capsys, *words)


@pytest.mark.parametrize("output", ["runs/demo", "./runs//demo/", "file://{here}/runs/demo"])
def test_one_output_has_one_writer(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    assert main(WORDS) == 0
    slurm.add("squeue", queue_line("77", "PENDING"))
    capsys.readouterr()
    words = (*WORDS[:-1], "second", "--output", output.format(here=here))
    assert "runs/demo, to which job 77 of launch first writes (PENDING)" in refused(capsys, *words)
    assert main([*WORDS[:-1], "third", "--output", "runs/other"]) == 0
    slurm.add("squeue")
    assert main(words) == 0


def test_a_folder_that_is_no_launch_is_left_alone(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "launches/first/code").mkdir(parents=True)
    assert "has no launch.json; remove it, or give this launch another --name" in refused(capsys, *WORDS)
    assert (here / "launches/first/code").exists()


def test_what_sbatch_refuses_leaves_nothing(here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.add("sbatch", status=1, error="Invalid qos specification")
    assert "sbatch did not take first: " in (said := refused(capsys, *WORDS))
    assert "Invalid qos specification" in said
    assert not (here / "launches/first").exists()
    slurm.add("sbatch", "Submitted batch job 79\n")
    assert main(WORDS) == 0
    slurm.add("sbatch", status=1, error="Invalid qos specification")
    capsys.readouterr()
    assert "did not take" in refused(capsys, *WORDS)
    # What was submitted before stays.
    assert read_launch(here / "launches/first").jobs == ("79",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo",), "data/yfcc15m-sample/manifest.json: no manifest there"),
        ((*WORDS, "--partition", "gpu"), "there is no partition gpu; there is: main, urgent"),
        ((*WORDS, "--partition", "urgent"), "partition urgent allows 30 minutes"),
        ((*WORDS, "--nodes", "8"), "partition main has 4 such nodes"),
        ((*WORDS, "--nodes", "3"), "must be a multiple of the 24 ranks"),
        ((*WORDS, "--folder", "a%j"), "name another --folder"),
    ],
)
def test_what_cannot_be_is_known_at_once(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, *words)
    assert not (here / "launches").exists()
    assert slurm.calls("sbatch") == []


def test_the_partition_of_the_site_is_the_one_checked(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "checkout/slurm/site.sh").write_text("export SBATCH_PARTITION=urgent\n")
    assert "partition urgent allows 30 minutes" in refused(capsys, *WORDS)
    assert main([*WORDS, "--time-min", "20"]) == 0
    assert slurm.environment()["SBATCH_PARTITION"] == "urgent"


def test_a_dry_run_shows_everything_and_does_nothing(
    here: Path, slurm: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*WORDS, "--seeds", "0", "1", "--dry-run")
    assert main(words) == 0
    out = capsys.readouterr().out
    place = Place(folder=here / "launches/first", working_folder=here)
    assert script_text(parse(words).config, Site(), place, 2) in out
    assert "# run 1: slip train demo --data.manifest m.json --output runs/demo/seed-1 --seed 1\n" in out
    assert '"seed": 1' in out
    assert "checks    passed" in out
    assert "estimate" in out
    assert sorted(path.name for path in here.iterdir()) == ["m.json"]
    assert slurm.calls("sbatch") == []
    assert main([*words, "--partition", "gpu"]) == 0
    assert "checks    FAILED: there is no partition gpu" in capsys.readouterr().out
    (here / "launches/first").mkdir(parents=True)
    assert main(words) == 0
    assert "checks    FAILED: " in (out := capsys.readouterr().out)
    assert "has no launch.json" in out


def test_debug_trains_here_one_run_after_the_other(
    here: Path, no_slurm: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def fake(words: list[str]) -> int:
        seen.append(words)
        return 3 if "1" in words else 0

    monkeypatch.setattr("slip.train.main", fake)
    words = ("demo", "--data.manifest", "m.json", "--executor", "debug", "--seeds", "0", "1", "2")
    assert main(words) == 3
    assert [call[-2:] for call in seen] == [["--output", "runs/demo/seed-0"], ["--seed", "1"]]
    assert not (here / "launches").exists()


def test_a_launch_needs_no_torch(here: Path, no_slurm: Commands) -> None:
    script = (
        "import sys; from slip.launch.command import main; "
        f"assert main({[*WORDS, '--dry-run']!r}) == 0; assert not {{'torch', 'timm'}} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": str(no_slurm.folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --job-name=first" in done.stdout
    assert "checks    FAILED: sbatch, srun, squeue, sinfo, scancel not found" in done.stdout
