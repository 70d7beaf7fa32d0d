from pathlib import Path

import pytest

from metazoo.cli.feature_source import FeatureSource


@pytest.mark.parametrize("given", [".", "../run", "../../alice/run", "../../alice/run/", "{}/alice/run"])
def test_a_classifier_names_its_source_without_folders(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "alice" / "run"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert FeatureSource(Path(given.format(tmp_path)), None, None).record == "run"


def test_a_classifier_names_a_repository_with_its_commit() -> None:
    assert FeatureSource(f"hf:owner/run@{'0' * 40}", None, None).record == f"hf:owner/run@{'0' * 40}"
