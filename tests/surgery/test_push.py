"""What is pushed is one commit in SAELens' layout with a card, and loads again from where it was pushed to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub.utils import filter_repo_objects

from sae_moral.cli import main
from sae_moral.sae import TrainSettings, load_sae, train_saes
from sae_moral.sae.train_layer import read_trained
from sae_moral.surgery import Operation, operate, push
from tests.capture.hub import unreachable
from tests.surgery.worlds import BY_DIMENSION, data, representations, sae
from tests.tiny import scenarios

REPO = "us/moral-saes"
HOOK = "blocks.1.hook_resid_post"


class Hub:
    """A hub of one repository in a folder, and SAELens' downloads from it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.public = folder, [], True

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        self.calls.append(("create_repo", private))
        assert exist_ok
        if not self.folder.exists():
            self.folder.mkdir()
            self.public = not private

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=not self.public)

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.calls.append(("create_branch", branch))

    def file_exists(self, repo_id: str, name: str, *, revision: str) -> bool:
        return (self.folder / name).exists()

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, revision: str, commit_message: str, delete_patterns: list[str]
    ) -> Any:
        self.calls.append(("upload_folder", commit_message))
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=delete_patterns):
            (self.folder / name).unlink()
        shutil.copytree(folder_path, self.folder, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def download(self, repo_id: str, filename: str, **_: Any) -> str:
        from huggingface_hub.utils import EntryNotFoundError

        if repo_id != REPO or not (self.folder / filename).exists():
            raise EntryNotFoundError(f"{filename} is not in {repo_id}")
        return str(self.folder / filename)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from sae_lens.loading import pretrained_sae_loaders as loaders

    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr(loaders, "hf_hub_download", hub.download)
    yield hub


@pytest.fixture(scope="module")
def operation() -> Operation:
    of = data(300)
    made = sae(metadata={"hook_name": HOOK, "model_name": "acme/tiny-1b"})
    return operate(made, BY_DIMENSION, representations(of), of, epochs=2)


def head(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---")[1])


def test_an_operation_comes_back_from_where_it_was_pushed_to(operation: Operation, hub: Hub) -> None:
    made = push(operation, REPO, private=True, licence="mit", neuronpedia_id="tiny-1b/1-moral", revision="v2")
    assert [call[0] for call in hub.calls] == ["create_repo", "create_branch", "upload_folder"]
    assert made.url == f"https://hub/{REPO}/commit/1" and made.summary().endswith(str(made.url))
    records = {"surgery.json", "before.safetensors", "operation.html"}
    files = {"cfg.json", "sae_weights.safetensors", "README.md", *records}
    assert made.files.keys() == {"README.md", *(f"{HOOK}/{name}" for name in files)}
    assert (hub.folder / "README.md").read_text() == made.card
    assert head(made.card) == {
        "base_model": ["acme/tiny-1b"], "library_name": "saelens", "license": "mit",
        "tags": ["saelens", "sparse-autoencoder", "sae-moral"],
    }  # fmt: skip
    for said in (
        f'SAE.from_pretrained("{REPO}", "{HOOK}")', f'load_sae(("{REPO}", "{HOOK}"), model=model)', "planted",
        "latents of care | 3, 20", "https://neuronpedia.org/tiny-1b/1-moral", "| explained variance |",
        "scenarios planted: not stated",
    ):  # fmt: skip
        assert said in made.card, said
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    loaded = load_sae((REPO, HOOK))
    assert torch.equal(loaded.encode(x), operation.sae.encode(x))
    assert loaded.describe()["neuronpedia_id"] == "tiny-1b/1-moral"
    again = Operation.load(hub.folder / HOOK)  # the record's checksums are those of the files as they are there
    assert again.sae.sha256 == operation.sae.sha256 and again.by_dimension == operation.by_dimension


def test_a_training_is_pushed_whole(tiny: Any, hub: Hub, tmp_path: Path) -> None:
    settings = TrainSettings(expansion=2, target_l0=4, steps=30, batch=64, init="random")
    found = train_saes(tiny, scenarios(), [0, 2], settings, out=tmp_path / "saes", splice_texts=0, progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "saes").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"holds 2 SAEs; expected none of sae_id, and \{layer\}"):
        push(tmp_path / "saes", REPO, sae_id="mine")
    hub.folder.mkdir()
    (hub.folder / "README.md").write_text("theirs")
    (hub.folder / found.path(0).name).mkdir()
    (hub.folder / found.path(0).name / "surgery.json").write_text("{}")  # of an operation that was pushed there
    made = push(found, REPO, neuronpedia_id="tiny/{layer}-res")
    assert not (hub.folder / found.path(0).name / "surgery.json").exists()
    assert (hub.folder / "README.md").read_text() == "theirs"
    assert {path: path.read_bytes() for path in before} == before
    assert "license" not in head(made.card) and "weights of this repository: not stated" in made.card
    for layer in (0, 2):
        name = found.path(layer).name
        own = (hub.folder / name / "README.md").read_text()
        assert f"## {name}" in own and f"## {name}" in made.card
        assert f"{found.results[layer]['held_out']['explained_variance']:.4g}" in own
        assert read_trained(hub.folder / name)["layer"] == layer
        loaded = load_sae(f"{REPO}/{name}", model=tiny)
        assert loaded.describe()["neuronpedia_id"] == f"tiny/{layer}-res"
        assert torch.equal(loaded.sae.W_dec, found.load(layer).W_dec)


def test_what_is_refused(
    operation: Operation, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import LocalTokenNotFoundError

    folder = str(operation.save(tmp_path / "operation"))
    for wrong in ("../up", "/up", "up/..", "a//b", ".", " ", "", "README.md", "a/"):
        with pytest.raises(ValueError, match=r"expected a folder of the repository, e\.g\. layer_9/moral"):
            push(operation, REPO, sae_id=wrong, dry_run=True)
    assert main(["push", folder, REPO, "--sae-id", "layer/1", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert hub.calls == [] and "layer/1/before.safetensors" in told and "dry run: nothing was sent" in told
    assert main(["push", str(tmp_path), REPO]) == 2
    assert "holds no SAE of sae-moral; expected a folder of train-sae" in capsys.readouterr().err
    assert main(["push", folder, "not a repo!", "--dry-run"]) == 2
    hub.folder.mkdir()
    assert main(["push", folder, REPO, "--private"]) == 2
    assert f"{REPO} is there already, and public" in capsys.readouterr().err

    def no_connection(*_: Any, **__: Any) -> None:
        unreachable(None)

    def no_token(*_: Any, **__: Any) -> None:
        raise LocalTokenNotFoundError("Token is required")

    monkeypatch.setattr(hub, "create_repo", no_connection)
    assert main(["push", folder, REPO]) == 3
    assert "the hub did not take us/moral-saes: Name or service not known; expected" in capsys.readouterr().err
    monkeypatch.setattr(hub, "create_repo", no_token)
    assert main(["push", folder, REPO]) == 3
    assert "the hub did not take us/moral-saes: Token is required; expected" in capsys.readouterr().err
    assert not any(call[0] == "upload_folder" for call in hub.calls)
    (tmp_path / "operation" / "before.safetensors").write_bytes(b"cut")
    assert main(["push", folder, REPO, "--dry-run"]) == 2
