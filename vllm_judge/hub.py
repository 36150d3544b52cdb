"""Files of a Hub repository: what is read of one is read of one commit."""

import textwrap
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download


def download(repository: str, name: str, revision: str | None, **options: Any) -> tuple[Path, str]:
    """A file of a repository, and the commit that it is of, by which everything else is to be read.

    Args:
        repository: "owner/name".
        name: the file's, at the top of the repository.
        revision: a branch, a tag or a commit; None is the main branch.
        options: of `huggingface_hub.hf_hub_download`, such as `token` and `cache_dir`.

    Raises:
        HFValidationError, HfHubHTTPError, OSError: as `hf_hub_download`.
    """
    path = Path(hf_hub_download(repository, name, revision=revision, **options))
    # A repository is cached by commit: .../snapshots/<commit>/<name>.
    return path, path.parent.name


def reason(error: Exception) -> str:
    """The first line of what an exception says, as the end of a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return textwrap.shorten(line, 400, placeholder=" ...").rstrip(".") + "."
