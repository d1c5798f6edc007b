"""A run that left a small codec, and a folder to work in that has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bitdial.recipes.saved_model import SavedCodec, SavedModel


def make_run(run: Path, seed: int, created: str, name: str = "factorized") -> Path:
    """Write a run of the compress recipe, whose network was not trained but makes other pictures of other pictures."""
    from bitdial.compression.codec import Codec
    from bitdial.compression.models import CodecOptions, build_codec_model

    options = CodecOptions(channels=4, latent_channels=4) if name == "factorized" else CodecOptions()
    torch.manual_seed(seed)
    model = build_codec_model(name, options)
    with torch.no_grad():
        for place, weights in model.named_parameters():
            if name == "factorized" and place.startswith(("g_a", "g_s")) and weights.ndim == 4:
                weights.mul_(2.0)
    codec = Codec(model)
    (run / "models").mkdir(parents=True)
    (run / "config.yaml").write_text("recipe: compress\n")
    described = SavedModel(recipe="compress", arm="codec", seed=0, model=name, codec=SavedCodec.of(codec, options))
    described.save(model, run / "models" / "codec-seed0.pt")
    networks = [{"name": "codec", "seed": 0, "model_id": codec.model_id}]
    (run / "results.json").write_text(json.dumps({"recipe": "compress", "created": created, "networks": networks}))
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, compress-2 the newer one."""
    pytest.importorskip("constriction")
    root = tmp_path_factory.mktemp("codecs") / "runs"
    for number in (1, 2):
        make_run(root / f"compress-{number}", number, f"2026-01-0{number}")
    return root


@pytest.fixture
def place(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the command is given in."""
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    return tmp_path
