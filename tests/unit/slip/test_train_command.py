"""The command line of training: recipes, options that change them, mistakes, help."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slip.objectives.needs import needs_of
from slip.recipes import recipe, recipes
from slip.train import main, parse

ROOT = Path(__file__).resolve().parents[3]


def test_options_change_the_recipe() -> None:
    assert parse([]) == recipe("demo")
    found = parse(["slip_vitb16_yfcc15m_25ep", "--optim.lr", "1e-4", "--data.manifest", "s3://b/manifest.json"])
    published = recipe("slip_vitb16_yfcc15m_25ep")
    assert found.optim == replace(published.optim, lr=1e-4)
    assert found.data == replace(published.data, manifest=("s3://b/manifest.json",))
    assert found.model == published.model


def test_published_recipes() -> None:
    names = {f"{o}_{t}_yfcc15m_25ep" for o in ("clip", "simclr", "slip") for t in ("vits16", "vitb16", "vitl16")}
    names |= {f"slip_{t}_yfcc15m_{epochs}ep" for t in ("vits16", "vitb16", "vitl16") for epochs in (50, 100)}
    names |= {f"{o}_vitb16_{data}" for o in ("clip", "slip") for data in ("cc3m_40ep", "cc12m_35ep")}
    ablations = (
        "clip_strong",
        "slip_apart",
        "slip_mocov3",
        "slip_byol",
        "slip_mim",
        "siglip",
        "mocov3",
        "flip",
        "aclip",
    )
    assert set(recipes()) == names | {f"{kind}_vitb16_yfcc15m_25ep" for kind in ablations} | {"demo"}
    for objective, lr, decay in (("clip", 5e-4, 0.5), ("simclr", 3.2e-3, 0.1), ("slip", 3e-3, 0.1)):
        found = recipe(f"{objective}_vitl16_yfcc15m_25ep")
        optim = found.optim
        assert (found.model.tower, found.objective.name) == ("vitl16", objective)
        assert (optim.lr, optim.weight_decay, optim.global_batch, optim.epochs) == (lr, decay, 4096, 25)
        assert (optim.betas, optim.eps, optim.warmup_epochs) == ((0.9, 0.98), 1e-8, 1)
        assert (optim.lr_start, optim.lr_end) == (1e-6, 1e-5)
    cc3m = recipe("slip_vitb16_cc3m_40ep")
    assert (cc3m.data.manifest, cc3m.optim.epochs, cc3m.optim.warmup_epochs) == (("data/cc3m/manifest.json",), 40, 2)


def test_what_the_ablations_change() -> None:
    found = {name: recipe(f"{name}_vitb16_yfcc15m_25ep") for name in ("clip_strong", "slip_apart", "flip", "aclip")}
    needs = {name: needs_of(config.objective, config.model) for name, config in found.items()}
    assert needs["clip_strong"].views == ("ssl",)
    assert found["slip_apart"].data.ssl_manifest == ("data/yfcc85m/manifest.json",)
    assert found["flip"].model.masking == "random"
    assert (needs["aclip"].views, needs["aclip"].caption_views) == (("ssl", "ssl"), (0, 1))
    assert needs["aclip"].momentum_views == (0, 1)


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert main(["slip_vitb17"]) == 2
    assert main(["demo", "--optim.epochs", "-1"]) == 2
    assert main(["--data.manifest", "/nowhere/manifest.json"]) == 1
    assert main(["--objective.name", "clip", "--data.ssl-manifest", "/nowhere"]) == 2
    assert main(["--objective.ssl", "mim", "--objective.clip-view", "shared"]) == 2
    logged = capsys.readouterr().err
    assert "no recipe is called 'slip_vitb17'; near: slip_vitb16_" in logged
    assert "--optim.epochs is -1.0" in logged
    assert "/nowhere/manifest.json: no manifest there; build the embedded sample" in logged
    assert "--data.ssl-manifest gives the SSL terms of slip pictures of their own" in logged
    assert "--objective.clip-view shared matches the two views" in logged
    assert "Traceback" not in logged
    with pytest.raises(SystemExit) as ended:
        main(["--optim.learning-rate", "1"])
    assert ended.value.code == 2
    logging.getLogger().handlers.clear()


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys\nfrom slip.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'timm', 'pyarrow'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "Seconds" in ended.stdout or "Samples per optimizer step" in ended.stdout
