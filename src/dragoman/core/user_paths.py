"""Paths that people write, which may begin with `~`."""

from pathlib import Path


def user_path(text: str | Path) -> Path:
    """Return the path with the home directory that `~` stands for; as it is if that is not known, as shells do."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # There is no such user, or in a container no home directory.
        return path
