"""Where archives of pages lie: files, folders, patterns, and addresses that fsspec knows; what they are, by name.

What goes wrong with a store is one line that names the address.
"""

from pathlib import Path
from typing import Any

from limo.errors import UserError

KINDS = {
    **dict.fromkeys((".warc", ".wet", ".warc.wet"), "warc"),
    **{".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".html": "html", ".htm": "html", ".xhtml": "html"},
}


def kind_of(path: str) -> str:
    """What an archive is, by its ending. Raises UserError for another ending."""
    name = path.lower().removesuffix(".gz")
    for ending, kind in KINDS.items():
        if name.endswith(ending):
            return kind
    raise UserError(
        f"'{path}' is no archive of pages: its name must end with {', '.join(KINDS)}, or one of these and .gz"
    )


def found(path: str) -> list[str]:
    """The archives of a path: a file, a folder with all below it, a pattern, or an address that fsspec knows.

    Raises UserError if there are none, or they cannot be listed.
    """
    if "://" not in path:
        return _local(path)
    import fsspec

    try:
        files, stripped = fsspec.core.url_to_fs(path)
        names = files.glob(stripped) if any(sign in path for sign in "*?[") else files.find(stripped)
    except ImportError as error:
        raise UserError(f"cannot list '{path}': {error}") from None
    except Exception as error:  # noqa: BLE001 - each store raises errors of its own
        raise UserError(
            f"cannot list '{path}': {first_line(error)}. Check the address, the network and the keys"
        ) from None
    listed = sorted(str(files.unstrip_protocol(name)) for name in names if _known(str(name)))
    if not listed:
        raise UserError(f"there is no archive of pages at '{path}'")
    return listed


def _local(path: str) -> list[str]:
    where = Path(path).expanduser()
    if where.is_file():
        kind_of(path)
        return [str(where)]
    if where.is_dir():
        listed = sorted(
            str(file) for file in where.rglob("*") if _known(file.name) and file.is_file() and not file.is_symlink()
        )
    else:
        import glob

        matching = glob.glob(str(where), recursive=True)  # noqa: PTH207 - the pattern may be absolute
        listed = sorted(file for file in matching if _known(file) and Path(file).is_file())
    if not listed:
        raise UserError(
            f"there is no archive of pages at '{path}': no such file, or none that ends with {', '.join(KINDS)}"
        )
    return listed


def _known(name: str) -> bool:
    try:
        return bool(kind_of(name))
    except UserError:
        return False


def stream_of(path: str) -> Any:
    """A file or an address, open for its bytes. Raises UserError where a store gives none."""
    if "://" not in path:
        return Path(path).open("rb")
    import fsspec

    try:
        return fsspec.open(path, "rb").open()
    except ImportError as error:
        raise UserError(f"cannot open '{path}': {error}") from None
    except Exception as error:  # noqa: BLE001 - each store raises errors of its own
        raise UserError(f"cannot open '{path}': {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """What went wrong, in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
