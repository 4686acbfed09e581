"""A finished model or curated set on the Hugging Face Hub, with its card.

    python -m limo.hub runs/demo/model me/limo-demo
    python -m limo.hub runs/demo me/limo-demo-chains public

A folder with a model's config becomes a model repository as it is, one with `curated.parquet` a dataset repository:
card, rows, pairs and recipe, without the dropped rows. The key is that of `hf auth login`, or HF_TOKEN. Repositories
are private without `public`.
"""

import sys
from pathlib import Path

from limo.errors import UserError, reported
from limo.progress import say

DATASET = ["README.md", "curated.parquet", "pairs.parquet", "recipe.yaml"]  # of a run folder


def push(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Upload a model folder or a curated run to the Hub as `name` (owner/name), and return its address.

    Files that are there already are not sent again. Raises UserError for a folder that is neither, for a name or key
    that the Hub refuses, and if the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    folder = Path(folder).expanduser()
    model = any((folder / file).is_file() for file in ("config.json", "adapter_config.json"))
    if not model and not (folder / "curated.parquet").is_file():
        raise UserError(f"'{folder}' is neither a model (config.json) nor a curated run (curated.parquet)")
    kind, patterns = ("model", None) if model else ("dataset", DATASET)
    try:
        api = HfApi()
        url = api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, repo_type=kind, folder_path=folder, allow_patterns=patterns)
    except Exception as error:  # of three HTTP libraries and the Hub: each is its answer to a person's request
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"'{folder}' is kept but not uploaded as '{name}'; python -m limo.hub {folder} {name} tries again. {reason}"
        ) from error
    say(f"{folder} is at {url}")
    return str(url)


def main() -> None:
    """The command `python -m limo.hub`."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(__doc__)  # noqa: T201
        return
    with reported():
        if len(given) not in (2, 3) or given[2:] not in ([], ["public"]):
            raise UserError("usage: python -m limo.hub FOLDER OWNER/NAME [public]")
        push(given[0], given[1], private=len(given) == 2)


if __name__ == "__main__":
    main()
