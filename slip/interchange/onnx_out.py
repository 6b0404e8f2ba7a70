"""The towers as ONNX graphs, one file each, for any number of pictures or captions at a time.

In: a trained model. Out: image.onnx and, where there is a text tower, text.onnx (opset 18, float32), config.json,
README.md. Needs the packages onnx and onnxscript; where onnxruntime is installed too, what it computes from the files
is compared with the network before they are given out.

Shape letters: B pictures or captions, S side of a picture in pixels, L tokens, D width of the shared embedding, W width
of a tower.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import CheckpointError, ConfigError
from slip.data.tokenizer import END_TOKEN, START_TOKEN
from slip.interchange.about import Export, as_json, origin, preprocess, readme
from slip.interchange.names import left_out
from slip.models.model import Model

logger = logging.getLogger(__name__)

LAST = "config.json"
IMAGE, TEXT = "image.onnx", "text.onnx"
_OPSET = 18
_MOST = 1e-5
"""The largest difference of a value of an embedding of length 1."""


class _ImageTower(nn.Module):
    """(B, 3, S, S) -> (B, W) and, with a text tower, (B, D)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_B3SS: Tensor) -> tuple[Tensor, ...]:
        feature_BW = self.model.image_features(image_B3SS)
        return (feature_BW, feature_BW @ self.model.image_projection) if self.model.has_text else (feature_BW,)


class _TextTower(nn.Module):
    """(B, L) -> (B, D): `Model.encode_text`, reading the end token in a way that leaves B open in a graph."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BL: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        x_BLW = model.transformer(model.token_embedding(tokens_BL) + model.positional_embedding)
        end_B1W = tokens_BL.argmax(dim=-1)[:, None, None].expand(-1, 1, x_BLW.shape[-1])
        return (model.ln_final(x_BLW.gather(1, end_B1W)[:, 0]) @ model.text_projection,)


def _check_installed() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--to onnx needs {' and '.join(missing)}, not installed here: pip install onnx onnxscript")


def _without_traces(path: Path) -> None:
    """Take out what says how the graph came about: it names files of this machine, and no two runs agree on it."""
    import onnx

    proto = onnx.load(str(path))
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        if part is not proto:
            part.ClearField("doc_string")
    onnx.save(proto, str(path))


def _write_graph(tower: nn.Module, example: Tensor, path: Path, *, inputs: str, outputs: list[str]) -> None:
    # What the exporter's passes do and what it warns of is nothing a user can act on.
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            (example,),
            str(path),
            dynamo=True,
            input_names=[inputs],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    _without_traces(path)


def largest_difference(path: Path, tower: nn.Module, inputs: Tensor) -> float:
    """Between onnxruntime's outputs and the network's, as rows of length 1."""
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        wanted = tower(inputs)
    rows = [[F.normalize(one, dim=-1) for one in (torch.from_numpy(f), w)] for f, w in zip(found, wanted, strict=True)]
    return max(float((a - b).abs().max()) for a, b in rows)


def _examples(export: Export, count: int) -> tuple[Tensor, Tensor]:
    """Pictures and captions of noise."""
    draw = torch.Generator().manual_seed(count)
    size, length = export.trained.config.image_size, export.trained.config.context_length
    tokens_BL = torch.randint(1, START_TOKEN, (count, length), generator=draw)
    tokens_BL[:, 0] = START_TOKEN
    tokens_BL[torch.arange(count), torch.arange(1, count + 1) % (length - 1) + 1] = END_TOKEN
    return torch.randn(count, 3, size, size, generator=draw), tokens_BL


def write(export: Export, folder: Path) -> None:
    """Write the folder's files; CheckpointError when they do not compute the same."""
    _check_installed()
    model = export.trained.model.cpu().eval()
    model.requires_grad_(False)
    pictures, captions = _examples(export, 2)
    outputs = ["image_feature", "image_embedding"] if model.has_text else ["image_feature"]
    towers: dict[str, tuple[nn.Module, Tensor]] = {IMAGE: (_ImageTower(model), pictures)}
    _write_graph(*towers[IMAGE], folder / IMAGE, inputs="image", outputs=outputs)
    if model.has_text:
        towers[TEXT] = (_TextTower(model), captions)
        _write_graph(*towers[TEXT], folder / TEXT, inputs="tokens", outputs=["text_embedding"])
    _check(export, folder, {name: tower for name, (tower, _) in towers.items()})
    config: dict[str, Any] = {"preprocess": preprocess(export), "origin": origin(export)}
    if model.has_text:
        config["context_length"] = export.trained.config.context_length
        config["logit_scale"] = float(model.logit_scale.exp())
    (folder / LAST).write_text(as_json(config), encoding="utf-8")
    code = f'import onnxruntime\n\nimage = onnxruntime.InferenceSession("{IMAGE}").run(None, {{"image": pictures}})'
    if model.has_text:
        code += f'\ntext = onnxruntime.InferenceSession("{TEXT}").run(None, {{"tokens": tokens}})'
    notes = f"Outputs of {IMAGE}: {', '.join(outputs)}, not normalised. Float32, any number of rows at a time."
    text = readme(export, code=code, notes=notes, without=left_out(model.state_dict(), text=model.has_text))
    (folder / "README.md").write_text(text, encoding="utf-8")


def _check(export: Export, folder: Path, towers: dict[str, nn.Module]) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        logger.warning("onnxruntime is not installed: the files are written, but not compared with the network")
        return
    # Another number of rows than the graphs were made with.
    pictures, captions = _examples(export, 3)
    for name, tower in towers.items():
        differs = largest_difference(folder / name, tower, pictures if name == IMAGE else captions)
        if not differs <= _MOST:
            raise CheckpointError(
                f"{name}: onnxruntime gives other embeddings than the network (by {differs:.1e}, at most {_MOST:.0e} "
                "is rounding); nothing is exported. Take another form (--to safetensors), or another version of torch"
            )
        logger.info("%s: onnxruntime gives the same embeddings, to %.0e", name, differs)
