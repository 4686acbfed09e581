"""The one exception for what a person got wrong, and where it ends.

A `UserError` says in one line what is wrong, where, why, and what to do. `limo.recipe.command` prints it without a
traceback and exits with code 2. Everything else that escapes is a mistake of ours and shows its traceback.
"""

import errno


class UserError(ValueError):
    """Something a person can put right: a path, a key, a value, a missing package."""


def one_line(error: OSError) -> UserError | None:
    """The operating system's refusals that a person can act on, as one line; None for any other."""
    where = f" '{error.filename}'" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return UserError(
                f"no space left on the disk while writing{where}. What was finished is kept: free some space and run "
                "the same command again"
            )
        case errno.EACCES | errno.EROFS | errno.EPERM:
            return UserError(
                f"may not write or read{where}: {error.strerror}. Choose another folder with runs=<folder>"
            )
        case errno.ENOENT if error.filename:
            return UserError(f"no such file{where}. Check the path; relative paths start at the current folder")
        case _:
            return None
