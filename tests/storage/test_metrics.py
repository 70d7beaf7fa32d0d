import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from error_checks import raises

from metazoo.errors import ArtefactError
from metazoo.storage.metrics import MetricsLog


def test_rows_are_on_disk_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "new" / "metrics.jsonl")
    assert log.rows() == []
    log.append({"stage": "learn", "step": 1, "loss": 0.5})
    log.append({"stage": "learn"}, step=2)
    expected = [{"stage": "learn", "step": 1, "loss": 0.5}, {"stage": "learn", "step": 2}]
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == expected == log.rows()


def test_values_become_plain_finite_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(
        {
            "nan": float("nan"),
            "nested": {"list": [float("inf"), (1, np.float32("-inf"))]},
            "numpy": np.float64(0.5),
            "tensor": torch.tensor([1.0, float("nan")]),
            "scalar": torch.tensor(3),
            "text": "line\n\u2028separator Ω",
            "flag": True,
            "none": None,
        }
    )
    assert log.rows() == [
        {
            "nan": None,
            "nested": {"list": [None, [1, None]]},
            "numpy": 0.5,
            "tensor": [1.0, None],
            "scalar": 3,
            "text": "line\n\u2028separator Ω",
            "flag": True,
            "none": None,
        }
    ]
    with raises(ArtefactError, subject="metrics.jsonl", problem="set"):
        log.append({"set": {1}})
    assert len(log.rows()) == 1


def test_an_incomplete_line_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    log = MetricsLog(path)
    log.append(step=3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    path.write_text('{"step": 1}\n{"st')
    MetricsLog(path).truncate_after("learn", 2)
    assert path.read_text() == '{"step": 1}\n'


def test_a_reader_ignores_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsLog(path)
    writer.append(step=1)
    with path.open("a") as half_written:
        half_written.write('{"st')
        half_written.flush()
        assert MetricsLog(path).rows() == [{"step": 1}]
        half_written.write('ep": 2}\n')
    assert MetricsLog(path).rows() == [{"step": 1}, {"step": 2}]


def test_truncation_drops_only_later_rows_of_the_stage_and_keeps_the_rest_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = ['{"stage":"recover",  "step": 9}', '{"stage": "learn", "step": 2}', '{"stage": "learn", "note": "no step"}']
    lost = ['{"stage": "learn", "step": 3}', '{"stage": "learn", "step": 4}']
    path.write_text("".join(line + "\n" for line in [kept[0], lost[0], kept[1], lost[1], kept[2]]))
    log = MetricsLog(path)
    log.truncate_after("learn", 2)
    assert path.read_text().splitlines() == kept
    inode = path.stat().st_ino
    log.truncate_after("learn", 2)
    assert path.stat().st_ino == inode
    MetricsLog(tmp_path / "absent.jsonl").truncate_after("learn", 2)
    assert not (tmp_path / "absent.jsonl").exists()


@pytest.mark.parametrize("line", ["{", "[1]", "", "\x00"])
def test_damage_in_the_middle_is_named_and_kept(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    content = f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'
    path.write_text(content)
    log = MetricsLog(path)
    with raises(ArtefactError, subject="metrics.jsonl", problem="line 2"):
        log.truncate_after("learn", 0)
    assert path.read_text() == content


def test_a_disk_that_fills_up_leaves_no_part_of_a_row(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.append(step=1)
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, limits[1]))
    try:
        with raises(ArtefactError, subject="metrics.jsonl", problem=os.strerror(errno.EFBIG)):
            log.append(step=2, text="long enough to cross the limit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
