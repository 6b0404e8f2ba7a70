"""All tensors of a trained model as a safetensors file, and the writer of such files.

In: a trained model. Out: model.safetensors under the published names, config.json, README.md. The package safetensors
writes its metadata in an order that changes from call to call; here the same weights give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from slip.interchange.about import Export, as_json, metadata, origin, preprocess, readme

LAST = "config.json"
"""The file that is written last."""
WEIGHTS = "model.safetensors"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> None:
    """Write a safetensors file (github.com/huggingface/safetensors, "Format").

    Eight bytes with the length of the header (little endian), the header as JSON (dtype, shape and place of each
    tensor, and strings under "__metadata__"), then the tensors, wide ones first so that each is aligned.
    """
    unknown = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in _DTYPES}
    if unknown:
        raise CheckpointError(f"tensors of a kind that safetensors does not know: {unknown}")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(strings)}
    start = 0
    for name in order:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def write(export: Export, folder: Path) -> None:
    """Write the folder's files."""
    write_safetensors(folder / WEIGHTS, export.trained.model.state_dict(), metadata(export))
    (folder / LAST).write_text(as_json({**origin(export), "preprocess": preprocess(export)}), encoding="utf-8")
    text = readme(
        export,
        code=f'from safetensors.torch import load_file\n\ntensors = load_file("{WEIGHTS}")',
        notes=f"Every tensor of the network, heads included, by its published name. {LAST} has the settings.",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
