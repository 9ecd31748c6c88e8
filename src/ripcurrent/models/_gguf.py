"""GGUF files, and the safetensors copy that the first load of one leaves in the user's cache.

Reading a GGUF file of 135 M parameters takes 15-40 s, its copy under 1 s. The copy holds the same weights bit by bit,
in float32: four bytes a parameter on disk. Its folder is named by the file's content and the version of transformers.
"""

import logging
import os
import shutil
import struct
import tempfile
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ripcurrent.errors import RipcurrentError
from ripcurrent.models._coverage import check_config
from ripcurrent.models._identity import WHOLE_FILE_BYTES, combine_sha256, file_sha256
from ripcurrent.models._libraries import first_line, quiet_libraries

logger = logging.getLogger(__name__)

# What transformers and gguf raise on a file that is cut short, damaged or of an unknown architecture.
_READ_ERRORS = (
    *(ValueError, LookupError, OSError, RuntimeError, TypeError),
    *(AttributeError, ArithmeticError, MemoryError, struct.error),
)
COPY_FORMAT = "2"
"""To be raised when copies made before are no longer to be used."""


def cache_folder() -> Path:
    """``RIPCURRENT_CACHE``, else ``ripcurrent`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    if own := os.environ.get("RIPCURRENT_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "ripcurrent"
    return Path.home() / ".cache" / "ripcurrent"


def converted_gguf(file: Path, *, name: str) -> Path:
    """Folder with the safetensors copy and the tokenizer of a GGUF file, made now if it is not there yet.

    A second process that needs it waits for the first.
    """
    with open(file, "rb") as opened:
        if opened.read(4) != b"GGUF":
            raise RipcurrentError(f"{file} is not a GGUF file.", "Copy or fetch it again.")
    folder = cache_folder() / "gguf" / _cache_key(file)
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if folder.is_dir():
                return folder
            logger.info("first load of %s: leaving a safetensors copy in %s", file.name, folder)
            # of a process that was killed
            shutil.rmtree(part, ignore_errors=True)
            try:
                _convert(file, part, name=name)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise RipcurrentError(
            f"The copy of {file.name} cannot be written to {folder.parent}: {first_line(error)}.",
            "Free some space there, or name another folder in the environment variable RIPCURRENT_CACHE.",
        ) from error
    return folder


def _cache_key(file: Path) -> str:
    stat = file.stat()
    changed = str(stat.st_mtime_ns) if stat.st_size > WHOLE_FILE_BYTES else ""
    return combine_sha256([COPY_FORMAT, file_sha256(file), str(stat.st_size), changed, transformers.__version__])[:32]


def _refuse_unread(file: Path, model: PreTrainedModel) -> None:
    """Refuse a file of which transformers leaves something out, so that another model would be measured.

    It reads no scaling of rotary positions but gpt-oss's, and passes over tensors that it has no place for.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    hint = "Name the model's safetensors folder or hub id instead, which has all of it."
    factors = [tensor for tensor in reader.tensors if tensor.name.startswith("rope_f")]
    scaled = [tensor.name for tensor in factors if not (tensor.data == 1).all()]
    for field in reader.fields.values():
        if field.name.endswith(".rope.scaling.type") and field.contents() != "none":
            factor = reader.fields.get(field.name.replace(".type", ".factor"))
            if field.contents() != "linear" or factor is None or factor.contents() != 1:
                scaled.append(f"{field.name} {field.contents()}")
    rope = getattr(model.config, "rope_parameters", None) or {}
    if scaled and rope.get("rope_type", "default") == "default":
        raise RipcurrentError(
            f"{file} scales its rotary positions ({scaled[0]}), and transformers {transformers.__version__} reads no "
            "such scaling from GGUF: it would be another model.",
            hint,
        )
    # what transformers leaves out on purpose: layers that predict several tokens, tables that follow from settings
    others = [t for t in reader.tensors if not any(part in t.name for part in ("nextn", "rope_f", "rot_embd"))]
    held, read = sum(int(t.n_elements) for t in others), sum(p.numel() for p in model.parameters())
    if held > read:
        raise RipcurrentError(
            f"{file} holds {held:,} weights, of which transformers {transformers.__version__} reads {read:,}: the rest "
            "has no place in its model, which would be another one.",
            hint,
        )


def _convert(file: Path, folder: Path, *, name: str) -> None:
    with tempfile.TemporaryDirectory() as alone:
        # On its own in a folder, so that no tokenizer or configuration that lies beside the file is taken for its own.
        link = Path(alone) / "model.gguf"
        link.symlink_to(file.resolve())
        try:
            with quiet_libraries(hide_stderr=True):
                config = AutoConfig.from_pretrained(alone, gguf_file=link.name, local_files_only=True)
                check_config(config, name)
                tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=link.name, local_files_only=True)
                model, loading = AutoModelForCausalLM.from_pretrained(
                    alone,
                    gguf_file=link.name,
                    dtype=torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except _READ_ERRORS as error:
            raise RipcurrentError(
                f"{file} cannot be read as a chat model: it is cut short, damaged, or of an architecture that "
                f"transformers {transformers.__version__} does not know ({type(error).__name__}: {first_line(error)}).",
                "Copy or fetch it again, or name the model's safetensors folder instead.",
            ) from error
    if missing := sorted(loading["missing_keys"]):
        raise RipcurrentError(
            f"{file} lacks {len(missing)} of the model's tensors, the first {missing[0]}.", "Copy or fetch it again."
        )
    _refuse_unread(file, model)
    _forget_gguf(model)
    # The file's own name for the model is a title, often of a training run; the copy should not pass for a hub id.
    model.config._name_or_path = file.name
    with quiet_libraries():
        model.save_pretrained(folder, max_shard_size="1TB")
        tokenizer.save_pretrained(folder)


def _forget_gguf(model: PreTrainedModel) -> None:
    # The weights are plain by now, but save_pretrained refuses a model that still says it is quantized.
    vars(model.config).pop("quantization_config", None)
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(model).pop(attribute, None)
