"""Processes killed with SIGKILL while they build, add to and remove from a zoo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from zoo_helpers import build_small, classifier, content

from metazoo.zoo import Zoo, verify_zoo

if sys.platform == "win32":
    pytest.skip("needs fork and SIGKILL", allow_module_level=True)

# A build of two models: owner of the lock, mark, owner again, weights and contract of each model.
MOMENTS_OF_A_BUILD = 7

# One interpreter imports the library and forks a child a case, so that the import is paid for once.
_HARNESS = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
from metazoo.zoo import Zoo
from zoo_helpers import build_small, classifier

def die_at(count, when):
    seen = [0]
    def moment(function, is_one=lambda *_: True):
        def patched(*args, **options):
            if not is_one(*args):
                return function(*args, **options)
            seen[0] += 1
            if seen[0] == count and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            function(*args, **options)
            if seen[0] == count and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
        return patched
    os.replace = moment(os.replace)
    Path.unlink = moment(Path.unlink, lambda path, **_: path.parent.name == "models" and path.exists())

def add(folder):
    Zoo.open(folder).store("added", classifier(), class_names=("a", "b", "c"), domain="d")

def remove(folder):
    Zoo.open(folder).remove(["small-thin-resnet-w4-s0-000"])

acts = {"build": build_small, "add": add, "remove": remove}
outcome = {}
for act, count, when, folder in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        die_at(count, when)
        acts[act](Path(folder))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    outcome[folder] = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
print(json.dumps(outcome))
"""
CASES = [
    *(("build", count, when) for count in range(1, MOMENTS_OF_A_BUILD + 1) for when in ("before", "after")),
    *(("add", count, when) for count in range(1, 4) for when in ("before", "after")),
    *(("remove", count, when) for count in range(1, 3) for when in ("before", "after")),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small(tmp_path_factory.mktemp("whole") / "zoo").folder


@pytest.fixture(scope="module")
def killed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one zoo a case, its process killed at the case's moment."""
    parent = tmp_path_factory.mktemp("killed")
    folders = [parent / f"{act}-{count}-{when}" for act, count, when in CASES]
    for folder, (act, _, _) in zip(folders, CASES, strict=True):
        if act != "build":
            build_small(folder)
    arguments = [[*case, str(folder)] for case, folder in zip(CASES, folders, strict=True)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _HARNESS, json.dumps(arguments)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {str(folder): True for folder in folders}
    return parent


@pytest.mark.parametrize(("act", "count", "when"), CASES)
def test_a_killed_process_leaves_a_whole_zoo_and_calling_again_ends_the_same(
    killed: Path, whole: Path, act: str, count: int, when: str
) -> None:
    folder = killed / f"{act}-{count}-{when}"
    if act == "build":
        if (folder / "zoo.json").exists():
            assert {finding.status for finding in verify_zoo(Zoo.open(folder))} <= {"sound", "note"}
        resumed = build_small(folder)
    else:
        resumed = Zoo.open(folder)
        assert {finding.status for finding in verify_zoo(resumed)} <= {"sound", "note"}
        names = {contract.name for contract in resumed}
        if act == "add" and "added" not in names:
            resumed.store("added", classifier(), class_names=("a", "b", "c"), domain="d")
        if act == "add":
            weight = resumed.teacher("added").classifier.network.head.weight
            assert torch.equal(weight, classifier().network.head.weight)
            resumed.remove(["added"])
        # A removal that was committed may leave the file of the model, which the next build of it overwrites.
        resumed = build_small(folder)
    # A removal killed before it was committed leaves nothing to build, so its temporary file waits for the next writer.
    left = {name: data for name, data in content(folder).items() if not name.endswith(".tmp")}
    assert left == content(whole)
    assert act == "remove" or left == content(folder)
    with resumed.writing():
        assert content(folder) == left
