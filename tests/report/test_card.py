from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from metazoo.adapt import MetaModel
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.runs.card import escape, meta_model_card
from metazoo.runs.config import resolve_config
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


def network(channels: int = 3) -> ImageClassifier:
    spec = ClassifierSpec(
        architecture="conv4",
        arguments={"width": 4},
        classes=2,
        input_size=16,
        channels=1 if channels == 1 else 3,
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
    )
    return build_classifier(spec, torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    zoo = Zoo.create(tmp_path / "zoo")
    zoo.add("one", network(), class_names=("a", "b"), domain="<script>|x|[y](z)`", accuracy=75.25)
    return zoo


def meta_model(channels: int = 3) -> MetaModel:
    return MetaModel(network(channels), method="tgr", preset="default", seed=7)


def card(zoo: Zoo, folder: RunFolder, channels: int = 3, **options: Any) -> str:
    description = {"versions": {"metazoo": "1", "torch": "2"}}
    return meta_model_card(zoo, resolve_config(options, seed=7), description, meta_model(channels), folder)


def test_a_card_says_what_is_known_and_nothing_else(zoo: Zoo, tmp_path: Path) -> None:
    text = card(zoo, RunFolder(tmp_path / "run"))
    assert "learned from 1 pre-trained model and **no training images**" in text
    assert "| architecture | conv4, width 4 |" in text
    assert "| input | 16 x 16 pixels, 3 channels, in" in text
    assert f"| zoo | 1 model, SHA-256 {zoo.sha256} |" in text
    assert "preset default, seed 7 |" in text
    assert "Groups are" not in text
    assert "None" not in text.replace("null", "")
    assert ", 1 channel, in" in card(zoo, RunFolder(tmp_path / "run"), channels=1)


def test_its_front_matter_and_its_run_are_yaml(zoo: Zoo, tmp_path: Path) -> None:
    text = card(zoo, RunFolder(tmp_path / "run"))
    _, front, rest = text.split("---\n", 2)
    assert yaml.safe_load(front)["tags"][-1] == "tgr"
    assert yaml.safe_load(rest.split("```yaml\n")[1].split("```")[0]) == resolve_config(seed=7).as_record()


def test_names_of_foreign_origin_are_only_text(zoo: Zoo, tmp_path: Path) -> None:
    text = card(zoo, RunFolder(tmp_path / "run"))
    (row,) = (line for line in text.splitlines() if line.startswith("| one |"))
    assert row == r"| one | conv4 | &lt;script&gt;\|x\|\[y\]\(z\)\` | 2 | 16 px | 75.2 % |  |  |"


def test_what_a_run_has_found_is_told(zoo: Zoo, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    health = {"teachers": [{"teacher": "one", "agreement": 0.914}], "warning": "1 of 1 teachers is weak"}
    folder.write_json("recovery.json", health)
    trust = {"models": [{"model": "one", "score": 0.426}], "warning": "1 of 1 models is alone"}
    folder.write_json("taskspace/trust.json", trust)
    quality = {"group_means": [0.25, None], "within_mean": 0.25, "between_mean": None}
    groups = [[f"m{number}" for number in range(14)], ["one"]]
    folder.write_json("taskspace/groups.json", {"strategy": "dispersed", "groups": groups, "quality": quality})
    text = card(zoo, folder)
    assert "| one | conv4 | " in text
    assert "| 75.2 % | 91 % | 0.43 |" in text
    assert "1 of 1 teachers is weak" in text
    assert "1 of 1 models is alone" in text
    assert "Groups are dispersed: mean dissimilarity 0.2500 within groups.\n" in text
    assert "m10, m11, ... | 0.2500 |" in text
    assert "| 2 | one | - |" in text


def test_the_fate_of_recovered_images_is_told(zoo: Zoo, tmp_path: Path) -> None:
    for name in ("two", "three"):
        zoo.add(name, network(), class_names=("a", "b"), domain="d")
    kept = {"show": "and shown as contact sheets there", "keep": "and shown nowhere", "discard": "were deleted once"}
    for permission, words in kept.items():
        zoo.permit(["one", "two", "three"], permission)  # pyright: ignore[reportArgumentType]
        text = card(zoo, RunFolder(tmp_path / "run"))
        assert [other for other in kept if kept[other] in text] == [permission]
        assert (
            f"Those of 3 models {'' if permission == 'discard' else 'are kept in the run folder (`bank`) '}{words}"
            in text
        )
    config, description = resolve_config(), {"versions": {}, "images": False}
    zoo.permit(["one", "two"], "show")
    text = meta_model_card(zoo, config, description, meta_model(), RunFolder(tmp_path / "run"))
    assert "Those of 2 models are kept in the run folder (`bank`) and shown nowhere. Those of 1 model were" in text


def test_a_study_on_real_images_says_so(zoo: Zoo, tmp_path: Path) -> None:
    text = card(zoo, RunFolder(tmp_path / "run"), source={"kind": "images", "data": "some_photos"})
    assert "learned from 1 pre-trained model and real images of their classes." in text
    assert "real ones of some\\_photos, for a study, so this run is **not data-free**" in text
    assert "the run folder holds real ones. Those of 1 model are kept" in text
    assert "data-free" not in yaml.safe_load(text.split("---\n", 2)[1])["tags"]
    assert "seen a real image" not in text
    assert "no training images" not in text


def test_images_by_formulas_reveal_nothing(zoo: Zoo, tmp_path: Path) -> None:
    text = card(zoo, RunFolder(tmp_path / "run"), source={"kind": "leaves"})
    assert "No image was recovered" in text
    assert "can resemble" not in text
    assert "nothing of this run has seen a real image" in text
    assert "data-free" in yaml.safe_load(text.split("---\n", 2)[1])["tags"]


def test_escaped_text_stays_on_its_line() -> None:
    assert escape("a\n# b\r\n<img>&*_") == r"a \# b &lt;img&gt;&amp;\*\_"
