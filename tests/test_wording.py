"""Texts and names use the terms of the field, and none of the private words of version 0.1."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PHRASES = (
    r"kinds? of images|one kind\b|each kind|several kinds|merged kinds?",
    r"\btold\b|stated domain",
    r"\b(go|goes|went|going|gone) on\b|taken up",
    r"\b(tell|tells|told|telling)\b[^.;]{0,40} apart",
    r"\bclaims?\b(?!\.md)|\bspecialists?\b",
    r"\bviews\b|_views\b|\bviews_",
    r"\bbut for\b|\bso many\b|\blikewise\b|\bsee there\b",
    r"\brecipes?\b|\bsettings?\b",
    r"\b(hear|hears|heard|hearing|silent)\b",
    r"\b(let|lets) go\b|\bastray\b",
    r"\b(stands?|stood) twice\b|\bany ?more\b",
    r"(?<!in-)\b_?places?\b|\bplaces_\w+|\w+_places?\b",
    r"\blistings?\b|\w+_listing\b",
    r"what_it_is|what it is\b|\bfate\b|fate_of|taken for\b|say of\b|said of\b",
)
# Names in files of users: options, keys of records, stages. Renaming them would change what an old file means.
STORED = {"views", "steps_per_views", "views.groups", "claims", "service", "specialist", "specialist-{n}",
          "specialist-{number}", "setting", "--setting", "recipe"}  # fmt: skip
# It translates the former names.
FORMER_NAMES = "renamed.py"


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a page, or names, strings and comments of a module."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        text = re.sub(r"^[a-zA-Z]*(\"\"\"|\")|(\"\"\"|\")$", "", token.string)
        if token.type not in (tokenize.OP, tokenize.NL, tokenize.NEWLINE) and text not in STORED:
            yield from enumerate(text.splitlines(), token.start[0])


def files() -> list[Path]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    modules = [path for suffix in ("py", "html", "css", "js", "j2") for path in (ROOT / "src").rglob(f"*.{suffix}")]
    return [path for path in sorted(pages + modules) if path.name != FORMER_NAMES]


@pytest.fixture(scope="module")
def lines() -> list[tuple[str, str]]:
    return [(f"{path.relative_to(ROOT)}:{number}", text) for path in files() for number, text in texts_of(path)]


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_private_word_is_left(phrase: str, lines: list[tuple[str, str]]) -> None:
    assert len(lines) > 10_000
    pattern = re.compile(phrase, re.IGNORECASE)
    assert [f"{where}: {text.strip()[:100]}" for where, text in lines if pattern.search(text)] == []
