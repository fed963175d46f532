"""Models on the Hugging Face hub, by `hf:owner/name` or `hf:owner/name/file.safetensors`."""

from pathlib import Path
from typing import Any

from iqa_armor.errors import ArmorError, ModelLoadError, OutputError, failing
from iqa_armor.pipeline.card import card_file

PREFIX, MODEL_FILE = "hf:", "model.safetensors"
FAILURES = (OSError, ValueError)  # what the hub's errors are children of


def on_hub(path: Path | str | None) -> bool:
    return str(path or "").startswith(PREFIX)


def local_target(path: Path) -> Path:
    """Return the file that is written: in the working folder for a place on the hub, of the same name."""
    return Path(f"{_place(path, OutputError)[0].rpartition('/')[2]}.safetensors") if on_hub(path) else path


def fetched(path: Path | str) -> Path:
    """Return the local file of a model, fetched where it names a place on the hub; a ModelLoadError without it."""
    if not on_hub(path):
        return Path(path)
    repository, name = _place(path, ModelLoadError)
    hub = _hub(ModelLoadError)
    with failing(f"cannot fetch {path}", FAILURES, error=ModelLoadError):
        return Path(hub.hf_hub_download(repository, name))


def push(model: Path, place: Path | str | None) -> None:
    """Send a model file, and the card beside it as README.md, to the hub, if this names it; else an OutputError."""
    if place is None or not on_hub(place):
        return
    (repository, name), api = _place(place, OutputError), _hub(OutputError).HfApi()
    with failing(f"cannot push to {place}", FAILURES, error=OutputError, advice=f"{model} is kept"):
        api.create_repo(repository, exist_ok=True)
        for file, there in ((model, name), (card_file(model), "README.md")):
            if file.is_file():
                api.upload_file(path_or_fileobj=str(file), path_in_repo=there, repo_id=repository)


def _place(path: Path | str, failure: type[ArmorError]) -> tuple[str, str]:
    owner, *rest = str(path).removeprefix(PREFIX).split("/", 2)
    if not owner or not rest or not rest[0]:
        raise failure(f"{path} names no place on the hub; write {PREFIX}owner/name")
    return f"{owner}/{rest[0]}", rest[1] if len(rest) > 1 else MODEL_FILE


def _hub(failure: type[ArmorError]) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise failure("hf: needs pip install huggingface_hub") from error
    return huggingface_hub
