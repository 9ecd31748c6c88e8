"""A model's tokenizer, read without its weights, and without what only they need: seconds less to import."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ripcurrent.errors import RipcurrentError
from ripcurrent.models._chat_model import set_variables, split_variables
from ripcurrent.models._libraries import first_line, quiet_libraries
from ripcurrent.models._source import (
    EMBEDDED,
    EMBEDDED_BARE,
    TOKENIZER_CONFIG,
    VOCABULARIES,
    Source,
    converted_gguf,
    embedded_gguf,
    find_adapter,
    find_model,
    find_tokenizer,
)


def load_tokenizer(name: str, *, adapter: str | None = None) -> PreTrainedTokenizerBase:
    """A model's tokenizer, as :func:`load_model` has it; its weights need not be there."""
    name, variables = split_variables(name)
    with quiet_libraries():
        tokenizer = _load_tokenizer(find_tokenizer(name) or found_model(name)[1], name)
        if adapter is not None:
            tokenizer = _of_adapter(tokenizer, find_adapter(adapter), adapter)
    set_variables(tokenizer, variables, name)
    return tokenizer


def found_model(name: str) -> tuple[Source, Path]:
    """Where a model lies, and the folder that its tokenizer and its weights or their copy are read from."""
    source = Source(embedded_gguf(), None) if name in (EMBEDDED, EMBEDDED_BARE) else find_model(name)
    return source, converted_gguf(source.path, name=name) if source.is_gguf else source.path


def _of_adapter(tokenizer: PreTrainedTokenizerBase, folder: Path, adapter: str) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with an adapter, which was trained with it; the model's where there is none."""
    if not (folder / TOKENIZER_CONFIG).is_file() or not any((folder / file).is_file() for file in VOCABULARIES):
        return tokenizer
    own = _load_tokenizer(folder, adapter)
    if own.chat_template is None:
        own.chat_template = tokenizer.chat_template
    return own


def _load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    try:
        # Mistral's own library, where it is installed, would give a tokenizer without offsets
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, mistral_format=False
        )
    except Exception as error:  # what a tokenizer's own library cannot read is a bare Exception
        raise RipcurrentError(
            f"{name} has no tokenizer that can be read: {first_line(error)}.",
            "Save the model's tokenizer into the same folder.",
        ) from error
    if not tokenizer.is_fast:
        raise RipcurrentError(
            f"The tokenizer of {name} cannot tell which text a token stands for.",
            "Save its fast version (tokenizer.json) into the model's folder.",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer
