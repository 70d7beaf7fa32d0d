import importlib
import subprocess
import sys

import pytest

import metazoo
from metazoo.renamed import _MODULES, _ROOMS


@pytest.mark.parametrize("former", [*_MODULES, "run.artefacts", "run.executor", "learn.heads", "taskspace.trust"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_module_of_version_0_1_is_found_where_its_content_is_now(former: str) -> None:
    sys.modules.pop(f"metazoo.{former}", None)
    with pytest.warns(FutureWarning, match=f"metazoo.{former} is now metazoo"):
        module = importlib.import_module(f"metazoo.{former}")
    assert module.__name__ == f"metazoo.{former}"


@pytest.mark.parametrize(
    ("module", "former", "home", "now"),
    [
        ("metazoo.zoo", "TrainingRecipe", "metazoo.zoo", "TrainingConfig"),
        ("metazoo.zoo", "group_rows", "metazoo.report.zoo_tables", "domain_rows"),
        ("metazoo.taskspace", "trust_of", "metazoo.audit", "trust_of"),
        ("metazoo.recover", "RecoveryRecipe", "metazoo.recover", "RecoveryConfig"),
        ("metazoo.recover", "contact_sheet", "metazoo.bank.contact_sheet", "contact_sheet"),
        ("metazoo.methods.trust", "TrustRecipe", "metazoo.pipeline.audit_stage", "TrustConfig"),
        ("metazoo.methods.stages", "BANK", "metazoo.pipeline.layout", "BANK"),
        ("metazoo.methods.stages", "embed_and_group", "metazoo.pipeline.embedding_stage", "embed_and_group"),
        ("metazoo.run.folder", "RunFolder", "metazoo.storage.run_folder", "RunFolder"),
        ("metazoo.learn.recipe", "LearningRecipe", "metazoo.learn.learning_config", "LearningConfig"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_name_of_version_0_1_is_what_it_is_called_now(module: str, former: str, home: str, now: str) -> None:
    with pytest.warns(FutureWarning, match=f"{module}.{former} is now {home}.{now}"):
        found = getattr(importlib.import_module(module), former)
    assert found is getattr(importlib.import_module(home), now)


def test_what_never_was_is_not_found() -> None:
    for name in ("metazoo.run.nothing", "metazoo.learn.nothing", "metazoo.nothing"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    with pytest.raises(AttributeError):
        _ = metazoo.zoo.NothingRecipe
    assert set(_ROOMS) == {"run", "learn", "taskspace", "methods"}


def test_the_former_names_cost_a_new_process_nothing() -> None:
    code = "import sys, metazoo; sys.exit('torch' in sys.modules or 'importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
