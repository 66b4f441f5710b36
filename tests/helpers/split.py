"""A model with all its weights as several shards, written by llama.cpp's own `gguf` package."""

from __future__ import annotations

from pathlib import Path

import gguf

_OWN = ("GGUF.", "general.architecture", "split.")


def split(model: Path, folder: Path, stem: str, most_bytes: int) -> list[Path]:
    """The shards of `model` in `folder`, in their order, each with up to `most_bytes` of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(model)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(None, architecture, split_max_size=most_bytes)
    for field in reader.fields.values():
        if not field.name.startswith(_OWN):
            kind = field.types[0]
            sub = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file(path=folder / f"{stem}.gguf")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob(f"{stem}-*.gguf"))
