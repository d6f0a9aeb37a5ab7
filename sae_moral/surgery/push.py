"""`push`: SAEs trained or operated here to a repository of the hub, in SAELens' layout, with a model card."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_moral.errors import in_one_line
from sae_moral.io import file_checksums, read_json, write_json, write_record, write_text
from sae_moral.sae.files import RECORD_SCHEMA, RECORDS
from sae_moral.sae.train import TrainedSaes
from sae_moral.sae.train_layer import RECORD as TRAINED
from sae_moral.sae.train_layer import read_trained
from sae_moral.surgery.card import Described, card, of_operation, of_trained
from sae_moral.surgery.operation import RECORD as OPERATED
from sae_moral.surgery.operation import Operation

README = "README.md"


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be.

    Attributes:
        repo_id: the repository.
        files: its new files, with their bytes.
        card: the model card.
        url: of the commit; None for a dry run.
    """

    repo_id: str
    files: dict[str, int]
    card: str
    url: str | None = None

    def summary(self) -> str:
        """The files, and where they are."""
        lines = [f"{size:>14,}  {name}" for name, size in self.files.items()]
        end = f"pushed to {self.url}" if self.url else f"dry run: nothing was sent to {self.repo_id}"
        return "\n".join([*lines, end])


def push(
    what: Operation | TrainedSaes | str | Path,
    repo_id: str,
    *,
    sae_id: str | None = None,
    revision: str = "main",
    private: bool = False,
    licence: str | None = None,
    neuronpedia_id: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Upload one SAE, or all of a training, in one commit: SAELens' files, our records, and a card in each folder. A
    folder of that name in the repository is replaced; the repository's own README is written only where it has none.

    Args:
        what: an operation or a training, the folder of one, or of a trained SAE.
        repo_id: `owner/name`; made if it is not there.
        sae_id: folder in the repository; the hook name by default.
        revision: branch; made if it is not there.
        private: make the repository private; one that is public already is refused.
        licence: of the weights, as the hub calls it, e.g. `mit`; none is chosen for you.
        neuronpedia_id: the SAE's place on Neuronpedia, e.g. `gemma-3-270m/9-moral`, which goes into its metadata where
            SAELens looks for it; with `{layer}` for several.
        dry_run: send nothing; say what would be sent.

    Raises:
        ValueError: a folder that holds nothing of the kind, one id for several SAEs or one that is no folder's name, a
            public repository.
        DataError: damaged files.
        RuntimeError: the hub refuses; says why.

    Example:
        push("operation", "me/operated-saes", private=True, licence="mit")
    """
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    if sae_id is not None and {"", ".", "..", README} & {part.strip() for part in sae_id.split("/")}:
        raise ValueError(f"sae_id {sae_id!r}; expected a folder of the repository, e.g. layer_9/moral")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "repository"
        saes, places = _staged(what, folder, sae_id, neuronpedia_id)
        for one in saes:
            write_text(folder / one.sae_id / README, card([one], repo_id, licence, places))
        whole = card(saes, repo_id, licence, places)
        write_text(folder / README, whole)
        if dry_run:
            return Pushed(repo_id, _sizes(folder), whole)
        url = _uploaded(folder, repo_id, revision, private, [one.sae_id for one in saes])
        return Pushed(repo_id, _sizes(folder), whole, url)


def _staged(
    what: Operation | TrainedSaes | str | Path, folder: Path, sae_id: str | None, neuronpedia_id: str | None
) -> tuple[list[Described], Mapping[str, str]]:
    """The files in their places, what a card says of each SAE, and its place on Neuronpedia."""
    source = what.folder if isinstance(what, TrainedSaes) else what
    found = [source] if isinstance(source, Operation) else _found(Path(source))
    if len(found) > 1 and (sae_id is not None or "{layer}" not in (neuronpedia_id or "{layer}")):
        raise ValueError(
            f"{source} holds {len(found)} SAEs; expected none of sae_id, and {{layer}} in neuronpedia_id, or one SAE's "
            "folder"
        )
    saes, places = [], {}
    for one in found:
        place = folder.parent / "staged"
        if isinstance(one, Operation):
            one.save(place)
            made, hook, layer = one, one.hook_name, one.layer
        else:
            shutil.copytree(one, place, ignore=shutil.ignore_patterns(".*"))
            made = read_trained(place)
            hook, layer = made["hook_name"], made["layer"]
        if neuronpedia_id is not None:
            _say_neuronpedia(place, neuronpedia_id.replace("{layer}", str(layer)))
        name, config = sae_id or hook, read_json(place / "cfg.json", what="a configuration")
        saes.append(of_operation(name, made, config) if isinstance(made, Operation) else of_trained(name, made, config))
        if known := config.get("metadata", {}).get("neuronpedia_id"):
            places[name] = known
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        place.rename(folder / name)
    return saes, places


def _found(folder: Path) -> list[Operation | Path]:
    if (folder / OPERATED).exists():
        return [Operation.load(folder)]
    found = [path.parent for path in (folder / TRAINED, *sorted(folder.glob(f"*/{TRAINED}"))) if path.exists()]
    if not found:
        raise ValueError(
            f"{folder} holds no SAE of sae-moral; expected a folder of train-sae (with {TRAINED} in it or in its "
            f"folders) or of operate (with {OPERATED})"
        )
    return [*found]


def _say_neuronpedia(folder: Path, place: str) -> None:
    """Into the metadata, and the checksums that the record has of the files."""
    config = read_json(folder / "cfg.json", what="a configuration")
    config["metadata"] = {**config.get("metadata", {}), "neuronpedia_id": place}
    write_json(folder / "cfg.json", config)
    name = OPERATED if (folder / OPERATED).exists() else TRAINED
    about: dict[str, Any] = read_json(folder / name)
    content = {key: value for key, value in about.items() if key not in ("kind", "schema_version", "checksum")}
    (folder / name).unlink()
    content["files"] = file_checksums(folder)
    write_record(folder / name, RECORDS[name], RECORD_SCHEMA, content)


def _uploaded(folder: Path, repo_id: str, revision: str, private: bool, sae_ids: list[str]) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise ValueError(f"{repo_id} is there already, and public; choose another name, or leave private out")
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if api.file_exists(repo_id, README, revision=revision):
            (folder / README).unlink()
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=f"Upload {', '.join(sae_ids)}",
            delete_patterns=[f"{glob.escape(one)}/*" for one in sae_ids],  # no file of an SAE that was there before
        )
    except ValueError:
        raise
    except Exception as error:  # of huggingface_hub, or of the HTTP client in it, which has types of its own
        raise RuntimeError(
            f"the hub did not take {repo_id}: {in_one_line(error, 300)}; expected a connection, a repository you may "
            "write to, and a login with a token that may write (hf auth login)"
        ) from error
    return str(getattr(commit, "commit_url", f"https://huggingface.co/{repo_id}"))


def _sizes(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
