"""JSON as it stands in files: finite numbers, texts, lists and mappings alone."""

import json
from pathlib import Path
from typing import Any, NoReturn

from metazoo.errors import ArtefactError


def json_text(path: Path | str, value: Any) -> str:
    """Indented JSON for `path`. NaN, infinity and what JSON has no form for are an ArtefactError."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (ValueError, TypeError, RecursionError) as error:
        raise ArtefactError(f"cannot write {path}: {error}; JSON holds finite numbers, texts and lists only") from error


def parsed_json(path: Path | str, data: bytes) -> Any:
    """What `data`, read from `path`, says; ArtefactError if it is not JSON (NaN and infinity are not)."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is not valid JSON ({error}); restore it or make it again") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
