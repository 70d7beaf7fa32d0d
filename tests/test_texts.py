from pathlib import Path

import pytest
from error_checks import raises

from metazoo.errors import UsageError
from metazoo.text import absolute_path, expanded_path, some_of, without_folders


def test_the_first_names_and_how_many_more_there_are() -> None:
    assert some_of([]) == ""
    assert some_of("abcde") == "a, b, c, d, e"
    assert some_of("abcdefg") == "a, b, c, d, e and 2 more"
    assert some_of(("only",), 1) == "only"
    assert some_of(("first", "second", "third"), 1) == "first and 2 more"


def test_paths_have_home_folders_and_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    assert expanded_path("~/absent/b") == tmp_path / "absent" / "b"
    assert expanded_path(str(tmp_path / "file" / "below")) == tmp_path / "file" / "below"
    assert absolute_path("a/b", tmp_path) == str(tmp_path / "a" / "b")
    assert absolute_path("~/b", Path("elsewhere")) == str(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("a" * 5000, "too long"),
        ("~nobodyxyz/b", "home directory"),
        ("a\0b", "null"),
        ("-", "standard input"),
        ("file:///a", "URLs"),
    ],
)
def test_texts_that_are_no_paths_are_refused(text: str, problem: str) -> None:
    with raises(UsageError, problem=problem) as caught:
        expanded_path(text)
    assert len(caught.value.subject) <= 80
    assert caught.value.subject.isprintable()


def test_paths_lose_their_folders_and_other_values_stay() -> None:
    home = "/home/alice/secret"
    options = {
        "backbone": f"{home}/vit.pth",
        "weights": [f"{home}/a", "../../home/alice/b", "~/c", 3],
        "deep": {"validation": f"cifar-fs/val:{home}/root", "empty": None},
    }
    assert without_folders(options) == {
        "backbone": "vit.pth",
        "weights": ["a", "b", "c", 3],
        "deep": {"validation": "cifar-fs/val:root", "empty": None},
    }
    same = ["glyphs:greek", "hf:owner/name@main", "timm:resnet18.a1_in1k", "tgr", "", 0.5, True, {}]
    assert without_folders(same) == same
