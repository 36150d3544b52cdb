"""A head's folder sent to the Hub: model card with the target's name and licence, weights, judge.json, plots."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard

from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.hub import reason
from vllm_judge.judge_json import JUDGE_JSON, Place, may_be_repository

# What belongs to a head, its drafter in a folder of its own included; not what else may lie there.
SENT = ["*.json", "*.safetensors", "*.md", "*.png", "*.html", "*.jinja", "LICENSE*", "NOTICE*"]
LICENCE = ("license", "license_name", "license_link")


def push(folder: Path, repository: str, private: bool, target: str | None = None) -> str:
    """Makes the repository where there is none, and sends the folder in one commit.

    Args:
        folder: the head's; its README.md gets `base_model` and the target's licence into its metadata.
        repository: "owner/name".
        private: whether a repository that is made is for its owner alone.
        target: the target's Hub repository; by default what the head says.

    Returns:
        The commit's address.

    Raises:
        HeadError, JudgeConfigError: the folder holds no head, or a judge.json that cannot be read.
        JudgeError: judge.json or the head names what nobody else has, or the Hub does not take it.
    """
    head = JudgeHead.from_pretrained(folder)
    if (folder / JUDGE_JSON).exists():
        for unportable in Place.find(str(folder)).unportable():
            raise JudgeError(unportable)
    target = target or head.target_model
    if target is None or Path(target).exists() or not may_be_repository(target):
        raise JudgeError(f"the head in {folder} was fitted on {target}, which is no Hub repository: give --target.")
    hub = HfApi()
    try:
        write_metadata(folder, target, licence(hub, target))
        hub.create_repo(repository, private=private or None, exist_ok=True)
        commit: Any = hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=SENT, commit_message=f"Judge head for {target}"
        )
    except Exception as error:  # what files and networks can do has no end
        raise JudgeError(
            f"{folder} was not sent to {repository}: {reason(error).rstrip('.')}; "
            "the Hub takes it from who is logged in (`hf auth login`, or HF_TOKEN) and may write there."
        ) from None
    return str(commit.commit_url)


def licence(hub: HfApi, target: str) -> dict[str, str]:
    """The target's licence as its own card's metadata has it; empty where that says none."""
    card = hub.model_info(target).card_data
    found = card.to_dict() if card else {}
    return {name: found[name] for name in LICENCE if found.get(name)}


def write_metadata(folder: Path, target: str, licence: dict[str, str]) -> None:
    """Writes target and licence into the metadata of the folder's README.md, whose text stays as it is."""
    path = folder / "README.md"
    card = ModelCard(path.read_text(encoding="utf-8")) if path.exists() else ModelCard(f"# Judge head for {target}\n")
    for name, value in {"base_model": target, **licence}.items():
        setattr(card.data, name, value)
    path.write_text(str(card), encoding="utf-8")
