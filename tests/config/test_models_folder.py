"""Models from the files of `models_folder`: where they are looked for, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.config import load, load_own
from exporter.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exporter.yml").write_text("models_folder: models.d")
    (tmp_path / "models.d").mkdir()
    return tmp_path / "models.d"


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_models_come_from_files_and_folders_of_teams(folder: Path) -> None:
    """In the order of their names; profiles are relative to the file; hidden and other files are not read."""
    write(folder / "b.yaml", "models: [{name: b, profile: p/b.json, profiles: {'2': /b2.json}}, {name: c}]")
    write(folder / "team" / "a.yml", "models: [{name: a, profile: a.json}]")
    write(folder / "..2026" / "b.yaml", "no model")
    write(folder / ".hidden.yml", "no model")
    write(folder / "notes.txt", "no model")
    models = load(folder.parent / "exporter.yml").models
    assert [model.name for model in models] == ["b", "c", "a"]
    assert (models[0].profile, models[0].profiles) == (f"{folder}/p/b.json", {"2": "/b2.json"})
    assert models[2].profile == f"{folder}/team/a.json"


def test_an_empty_folder_is_valid(folder: Path) -> None:
    """Its first model may come later; the models of exporter.yml are optional then."""
    assert load(folder.parent / "exporter.yml").models == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a", "FILE: models: is required: a list of models, as in exporter.yml"),
        ("models: []", "FILE: models: expected at least 1 entry, got 0"),
        ("- name: a", 'FILE: expected the key models:, got [{"name": "a"}]'),
        ("models: [{name: a, window: 5m}]", 'FILE: models[0].window: is not known; did you mean "windows"?'),
        ("models: [{name: a}, {name: a}]", 'FILE: models[1].name: "a" is duplicated; every model needs a name'),
        ("models: [{name: b}, {name: z}]", 'FILE: models[1].name: "z" is a model in OWN already'),
        (
            "models: [{name: b, mapping: {names: [z]}}]",
            'FILE: models[0].mapping.names[0]: "z" is a model in OWN already',
        ),
        (
            "models: [{name: y}]",
            'FILE: models[0].name: "y" is among the mapping.names of "z" in OWN already',
        ),
    ],
)
def test_a_wrong_file_is_refused_by_name(folder: Path, text: str, message: str) -> None:
    """With the key; where a name is taken, the text names both files."""
    own = write(folder.parent / "exporter.yml", "models_folder: models.d\nmodels: [{name: z, mapping: {names: [y]}}]")
    file = write(folder / "team.yml", text)
    with pytest.raises(ConfigError) as error:
        load(own)
    assert str(error.value).replace(str(file), "FILE").replace(str(own), "OWN").startswith(message)
    assert [model.name for model in load_own(own).models] == ["z"]


def test_what_is_no_file_and_what_is_no_folder(folder: Path) -> None:
    """A pipe, which could be read for ever, a link to nothing, and a folder that is not there are named."""
    os.mkfifo(folder / "pipe.yml")
    with pytest.raises(ConfigError, match=r"pipe\.yml: is not a file"):
        load(folder.parent / "exporter.yml")
    (folder / "pipe.yml").unlink()
    (folder / "link.yml").symlink_to("nothing")
    with pytest.raises(ConfigError, match=r"link\.yml: cannot be read: No such file or directory"):
        load(folder.parent / "exporter.yml")
    write(folder.parent / "exporter.yml", "models_folder: elsewhere")
    with pytest.raises(ConfigError, match=r"models_folder: .*/elsewhere cannot be read: No such file or directory"):
        load(folder.parent / "exporter.yml")
