"""What the hub's library raises, as one clear sentence each."""

from __future__ import annotations

from huggingface_hub import errors, is_offline_mode


def explain(error: Exception, repo_id: str, revision: str | None) -> str:
    """Say why a repository could not be had, and what to do about it.

    Parameters
    ----------
    error : Exception
        Of ``snapshot_download``.
    repo_id : str
    revision : str | None
        That was asked for.
    """
    at = f"{repo_id!r} at revision {revision or 'main'!r}"
    match error:
        case errors.GatedRepoError():
            return (
                f"access to {repo_id!r} is gated: the hub gives it only to accounts that have "
                "accepted its conditions. Accept them on the repository's page and pass a token of "
                "that account with hf_token=…"
            )
        case errors.RepositoryNotFoundError():
            return (
                f"the hub has no repository {repo_id!r} that may be read with the token given. "
                "Check the spelling; for a private repository pass hf_token=…"
            )
        case errors.RevisionNotFoundError():
            return (
                f"the repository {repo_id!r} has no revision {revision!r}; allowed: a branch, a "
                "tag or a commit of it. Leave revision out for 'main'"
            )
        case errors.HFValidationError():
            return f"{repo_id!r} is no id that the hub allows ({_line(error)}). Check the spelling"
        case errors.LocalEntryNotFoundError() if is_offline_mode():
            return (
                f"the hub's cache on this machine has no complete snapshot of {at}, and "
                "HF_HUB_OFFLINE forbids to ask the hub. Unset it, download the repository before, "
                "or check download_dir"
            )
        case errors.LocalEntryNotFoundError():
            return (
                f"the hub cannot be reached ({_line(error.__cause__ or error)}), and its cache on "
                f"this machine has no complete snapshot of {at}. Check the connection and "
                "HF_ENDPOINT, or pass a local path"
            )
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return (
                f"the hub refuses access to {repo_id!r} ({_line(error)}). Pass a valid token with "
                "hf_token=…, or hf_token=False to send none"
            )
        case _:
            return (
                f"the download of {at} failed ({_line(error)}). Try again: what has arrived is "
                "kept; or download it by other means and pass the local path"
            )


def _line(error: BaseException) -> str:
    """Return a message of several lines as one."""
    return " ".join(f"{type(error).__name__}: {error}".split())
