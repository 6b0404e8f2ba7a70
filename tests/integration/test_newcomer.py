"""What `make demo` runs, in an empty folder: both commands without settings, then the same again."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.integration.conftest import FirstBuild, run_in

ROOT = Path(__file__).resolve().parents[2]


def test_both_commands_work_without_arguments(first_build: FirstBuild) -> None:
    folder = first_build.folder
    assert "EMBEDDED SAMPLE" in first_build.log
    output = folder / "data/yfcc15m-sample"
    manifest = json.loads((output / "manifest.json").read_bytes())
    assert manifest["num_samples"] > 2000
    assert {"dead_link", "placeholder", "truncated", "duplicate_row", "not_in_list"} <= {
        reason for reason, count in manifest["funnel"]["rejected"].items() if count
    }
    assert "Generated pictures" in (output / "report.html").read_text(encoding="utf-8")

    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in output.iterdir()}
    run_in(folder, str(ROOT / "pipeline/build_yfcc15m.py"))
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in output.iterdir()} == before

    # A whole training run takes minutes; ten steps and the evaluation show that the defaults fit together.
    log = run_in(folder, "-m", "slip.train", "--max-steps", "10")
    assert re.search(r"zero-shot on data/sample/heldout: top-1 [\d.]+ % \(\d+ of 500 pictures\)", log), log
    again = run_in(folder, "-m", "slip.train", "--max-steps", "10")
    assert "this run is finished: 10 of 10 steps are done" in again
    accuracies = [re.findall(r"zero-shot accuracy ([\d.]+)%", text) for text in (log, again)]
    assert accuracies[0] == accuracies[1] != []
