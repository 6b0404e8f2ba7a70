"""The order of the tests, and how pytest-xdist shares them out; without -n all run here, in this order."""

from __future__ import annotations

import os
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: its threads would compete with the other workers' for the same cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

TOGETHER = {
    "tests/integration/test_slurm_training.py": "the cluster",
    "tests/integration/test_build_on_slurm.py": "the cluster",
    "tests/integration/test_newcomer.py": "the first build",
    "tests/integration/test_shards_elsewhere.py": "the first build",
}
"""Files that share what takes long to make, or may be there only once: one worker has them, one after the other."""
FOLDERS = ("tests/integration", "tests/distributed", "tests/unit/slip", "tests/unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: what is left for the end then keeps all workers busy."""

    def folder(item: pytest.Item) -> int:
        return next((i for i, name in enumerate(FOLDERS) if item.nodeid.startswith(name)), len(FOLDERS))

    items.sort(key=folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """--dist loadfile, which takes the files in our order and keeps those of `TOGETHER` together."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return TOGETHER.get(file, file)

    config.option.loadscopereorder = False
    return ByFile(config, log)
