from pathlib import Path
from typing import Any

import pytest
import yaml
from adapt_helpers import NAMES, made, network, of_two_domains
from huggingface_hub import ModelCard

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.adapt.card import escape, meta_model_card
from metazoo.adapt.front_matter import front_matter, licences_of, with_results
from metazoo.methods.registry import get_method
from metazoo.runs.config import resolve_config
from metazoo.zoo import Zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    zoo = Zoo.create(tmp_path / "zoo")
    zoo.store("one", network(), class_names=("a", "b", "c"), domain="<script>|x|[y](z)`", accuracy=75.25)
    return zoo


def card(
    zoo: Zoo, records: dict[str, Any] | None = None, channels: int = 3, images: bool = True, **options: Any
) -> str:
    description = {"versions": {"metazoo": "1", "torch": "2"}, "images": images}
    method, config = get_method("tgr"), resolve_config(options, seed=7).as_record()
    return meta_model_card(
        network(channels=channels),
        zoo,
        config,
        description,
        records or {},
        title=method.title,
        reference=method.reference,
    )


def test_a_card_shows_only_known_values(zoo: Zoo) -> None:
    text = card(zoo)
    assert "from 1 pre-trained model and **no training images**" in text
    assert "| architecture | conv4, width 4 |" in text
    assert "| input | 16 x 16 pixels, 3 channels," in text
    assert f"| zoo | 1 model, SHA-256 {zoo.sha256} |" in text
    assert "preset default, seed 7 |" in text
    assert "Grouping strategy" not in text
    assert "None" not in text.replace("null", "")
    assert ", 1 channel," in card(zoo, channels=1)


def test_its_front_matter_and_its_run_are_yaml(zoo: Zoo) -> None:
    text = card(zoo)
    _, front, rest = text.split("---\n", 2)
    assert yaml.safe_load(front)["tags"][-1] == "tgr"
    assert yaml.safe_load(rest.split("```yaml\n")[1].split("```")[0]) == resolve_config(seed=7).as_record()


def test_names_are_escaped(zoo: Zoo) -> None:
    text = card(zoo)
    (row,) = (line for line in text.splitlines() if line.startswith("| one |"))
    assert row == r"| one | conv4 | unknown | unknown | &lt;script&gt;\|x\|\[y\]\(z\)\` | 3 | 16 px | 75.2 % |  |  |"


def test_records_of_the_run_are_shown(zoo: Zoo) -> None:
    health = {"teachers": [{"teacher": "one", "agreement": 0.914}], "warning": "1 of 1 teachers is weak"}
    trust = {"models": [{"model": "one", "score": 0.426}], "warning": "1 of 1 models is alone"}
    quality = {"group_means": [0.25, None], "within_mean": 0.25, "between_mean": None}
    groups = [[f"m{number}" for number in range(14)], ["one"]]
    grouping = {"strategy": "dispersed", "groups": groups, "quality": quality}
    text = card(zoo, {"health": health, "trust": trust, "groups": grouping})
    assert "| one | conv4 | " in text
    assert "| 75.2 % | 91 % | 0.43 |" in text
    assert "1 of 1 teachers is weak" in text
    assert "1 of 1 models is alone" in text
    assert "dispersed. Mean dissimilarity of models: 0.2500 within groups.\n" in text
    assert "m10, m11, ... | 0.2500 |" in text
    assert "| 2 | one | - |" in text


def test_the_use_of_recovered_images_is_stated(zoo: Zoo) -> None:
    for name in ("two", "three"):
        zoo.store(name, network(), class_names=("a", "b", "c"), domain="d")
    records = {"health": {"teachers": [], "warning": None}}
    kept = {"show": "and shown there as contact sheets", "keep": "and not shown", "discard": "were deleted"}
    for permission, words in kept.items():
        zoo.permit(["one", "two", "three"], permission)  # pyright: ignore[reportArgumentType]
        text = card(zoo, records)
        assert [other for other in kept if kept[other] in text] == [permission]
        assert (
            f"The images of 3 models {'' if permission == 'discard' else 'are kept in the run folder (`bank`) '}{words}"
            in text
        )
    zoo.permit(["one", "two"], "show")
    text = card(zoo, records, images=False)
    assert "The images of 2 models are kept in the run folder (`bank`) and not shown. The images of 1 model" in text
    assert "recovered while the meta-model learned from them, and not stored" in card(zoo)


def test_escaped_text_stays_on_its_line() -> None:
    assert escape("a\n# b\r\n<img>&*_") == r"a \# b &lt;img&gt;&amp;\*\_"


def test_a_meta_model_without_its_run_has_a_short_card(tmp_path: Path) -> None:
    MetaModel(of_two_domains(), method="<tgr>", preset="default", seed=7).save(tmp_path / "m")
    text = (tmp_path / "m" / "README.md").read_text()
    assert "# Meta-model by &lt;tgr&gt;\n" in text
    assert "| architecture | conv4, width 4 |" in text
    assert "| domains | birds, ships; " in text
    assert "preset default, seed 7 |" in text
    assert yaml.safe_load(text.split("---\n", 2)[1])["library_name"] == "metazoo"
    own = MetaModel.load(tmp_path / "m")
    own.card = "mine\n"
    own.save(tmp_path / "m")
    assert MetaModel.load(tmp_path / "m").card == (tmp_path / "m" / "README.md").read_text() == "mine\n"


def test_a_classifier_has_a_card(tmp_path: Path) -> None:
    names = ("<b>\n# x", "a|b", "\udcff")
    classifier = made(head="soft-k-means-free", class_names=names, mirrored=True, source="runs/first")
    classifier.save(tmp_path / "c")
    text = (tmp_path / "c" / "README.md").read_text()
    assert "# Few-shot classifier of 3 classes\n" in text
    assert "It classifies all images of a call together" in text
    for row in ("made from | runs/first", "head | soft-k-means-free", "batch norm | running", "input | 16 x 16 "):
        assert f"| {row}" in text
    assert "| features | means over an image and its mirror image |" in text
    assert "\n0. &lt;b&gt;\\\\n\\# x\n1. a\\|b\n2. \\\\udcff\n" in text
    FewShotClassifier.load(tmp_path / "c").save(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == text
    made(module=of_two_domains(), class_names=NAMES).save(tmp_path / "c")
    text = (tmp_path / "c" / "README.md").read_text()
    assert "It classifies each image on its own." in text
    assert "conv4, width 4 \\(2 networks\\)" in text
    assert "| domains | birds " in text


OTHER = {"license": "other", "license_name": "licences-of-the-source-models"}
LICENCES: dict[str, tuple[list[str | None], dict[str, str], tuple[str, ...]]] = {
    "one": (["MIT", "mit"], {"license": "mit"}, ("mit",)),
    "two words": (["CC BY 4.0"], {"license": "cc-by-4.0"}, ("cc-by-4.0",)),
    "several": (["mit", "apache-2.0"], OTHER, ("apache-2.0", "mit")),
    "some unknown": (["mit", None], OTHER, ("mit", "unknown")),
    "own": (["My licence: 1\n---"], OTHER, ("my-licence:-1----",)),
    "all unknown": ([None, None], {}, ()),
    "no models": ([], {}, ()),
}


@pytest.mark.parametrize("case", LICENCES)
def test_a_card_has_the_licence_that_all_models_have(case: str) -> None:
    licences, wanted, listed = LICENCES[case]
    text = front_matter(["tgr"], licences)
    found = ModelCard(text).data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == wanted
    assert licences_of(f"{text}\n# Card") == listed
    assert licences_of(front_matter([], listed)) == listed


_ALIASES = "".join(f"k{level}: &k{level} [{', '.join([f'*k{level - 1}'] * 9)}]\n" for level in range(1, 40))
_MERGES = "".join(f"k{n}: &k{n}\n  <<: [{', '.join([f'*k{n - 1}'] * 9)}]\n" for n in range(1, 40))
HOSTILE = {
    "impossible date": "date: 2024-02-30\n",
    "deep": f"license: {'[' * 1500}{']' * 1500}\n",
    "aliases": f"k0: &k0 [mit]\n{_ALIASES}license: *k39\nsource_licences: *k39\n",
    "merges": f"k0: &k0\n  a: b\n{_MERGES}license: *k39\n",
    "no text": "license: {a: mit}\n",
    "itself": "license: &own [*own]\n",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_the_licence_in_a_hostile_card_is_unknown(case: str) -> None:
    assert licences_of(f"---\n{HOSTILE[case]}---\n# Card\n") == ()


def test_a_licence_is_read_beside_what_yaml_cannot_convert() -> None:
    assert licences_of("---\ndate: 2024-02-30\nlicense: [mit, {a: b}]\n---\n") == ("mit",)


@pytest.mark.parametrize(
    "card",
    [
        "",
        "---\ndate: 2024-02-30\n---\n# Mine\n",
        "# Mine\n",
        "---\n[1, 2]\n---\n# Mine\n",
        "---\n: {\n---\n# Mine\n",
        "---\nno end",
    ],
)
def test_results_join_any_card(card: str) -> None:
    row = {"subject": "s", "ways": 5, "shots": 1, "image_set": "---\nbirds: #1", "accuracy": 60.125, "interval": 1.5}
    row |= {"episodes": 100, "head": "logistic", "batch_norm": "running"}
    first = with_results(card, [row], "first table")
    assert licences_of(card) == ()
    assert card.rstrip() in first
    text = with_results(f"{first}\n## Privacy\n\nstays\n", [row | {"accuracy": 70.0}, row], "second\\1 table")
    data: Any = ModelCard(text).data
    found = data.eval_results
    assert [(own.dataset_name, own.metric_value) for own in found] == [
        ("---\nbirds: #1", 70),
        ("---\nbirds: #1", 60.12),
    ]
    assert text.count("## Results") == 1
    assert "first table" not in text
    assert text.endswith("## Results\n\nsecond\\1 table\n\n## Privacy\n\nstays\n")


def test_a_backbone_is_named_with_its_origin_and_licence(zoo: Zoo) -> None:
    description = {"versions": {"metazoo": "1"}, "uses": "backbone"}
    record = {"source": "hf:a/vit", "revision": "1" * 40, "licence": "MIT"}
    method, config = get_method("frozen-backbone"), resolve_config(method="frozen-backbone").as_record()
    words: dict[str, Any] = {"title": method.title, "reference": method.reference}
    text = meta_model_card(network(), zoo, config, description, {"backbone": record}, **words)
    assert "## Source models\n\nhf:a/vit@111111111111; licence: MIT.\n" in text
    assert licences_of(text) == ("mit",)
    text = meta_model_card(network(), zoo, config, description | {"uses": "nothing"}, {}, **words)
    assert licences_of(text) == ()
