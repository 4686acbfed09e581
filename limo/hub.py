"""A finished model or curated set on the Hugging Face Hub, with the card that stands beside it.

    python -m limo.hub runs/demo/model me/limo-demo
    python -m limo.hub runs/demo me/limo-demo-chains public

A folder with a model's config becomes a model repository as it is, one with `curated.parquet` a dataset repository:
card, rows, pairs and recipe; what was set aside stays at home. The key is the one of `hf auth login`, or HF_TOKEN.
Repositories are private unless `public` is said. `train.args.push_to_hub=true` does the same after a training.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.errors import UserError, reported
from limo.progress import say

DATA = ["README.md", "curated.parquet", "pairs.parquet", "recipe.yaml"]  # of a run folder, what others train on
USAGE = "python -m limo.hub FOLDER OWNER/NAME [public]"


def push(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Upload a model folder or a curated run to the Hub as `name` (owner/name), and return its address.

    Uploading again makes a new commit, in which only what differs is sent. Raises UserError for a folder that is
    neither, for a name or key that the Hub does not take, and where the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    folder = Path(folder).expanduser()
    kind = _kind(folder)
    try:
        api = HfApi()
        url = api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        patterns = DATA if kind == "dataset" else None
        api.upload_folder(
            repo_id=url.repo_id,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=patterns,
            commit_message="LIMO toolkit",
        )
    except Exception as error:  # of three HTTP libraries, and the Hub's own: all are its answer to a person's request
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{_again(folder, name)} {reason}") from error
    say(f"{folder} is at {url}")
    return str(url)


def check_push(args: Mapping[str, Any]) -> None:
    """Raise UserError if a training's arguments ask for an upload that cannot be, before the training is paid for."""
    if args.get("hub_token"):
        raise UserError("train.args.hub_token would stand in the recipe: set HF_TOKEN, or log in with hf auth login")
    if not args.get("push_to_hub"):
        return
    from huggingface_hub import get_token

    if not args.get("hub_model_id"):
        raise UserError("train.args.push_to_hub needs a name: train.args.hub_model_id=owner/name")
    if not get_token():
        raise UserError("train.args.push_to_hub needs a key: set HF_TOKEN, or log in with hf auth login")


def push_trained(folder: Path, args: Mapping[str, Any]) -> None:
    """Upload a finished training's model as its arguments say, if they do."""
    if args.get("push_to_hub"):
        push(folder / "model", args["hub_model_id"], private=args.get("hub_private_repo") is not False)


def _kind(folder: Path) -> str:
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return "model"
    if (folder / "curated.parquet").is_file():
        return "dataset"
    raise UserError(f"'{folder}' is neither a model (config.json) nor a curated run (curated.parquet)")


def _again(folder: Path, name: str) -> str:
    return f"'{folder}' is kept but not uploaded as '{name}'; python -m limo.hub {folder} {name} tries again."


def main() -> None:
    """The command `python -m limo.hub`."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(__doc__)  # noqa: T201
        return
    with reported():
        if len(given) not in (2, 3) or given[2:] not in ([], ["public"]):
            raise UserError(f"usage: {USAGE}")
        push(given[0], given[1], private=len(given) == 2)


if __name__ == "__main__":
    main()
