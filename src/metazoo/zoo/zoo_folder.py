"""Zoo folder: for each model `models/NAME.json`, its contract, and `models/NAME.safetensors`, its weights.

Weights are written before their contract and deleted after it, so that a process killed at any moment leaves a valid
zoo, and at most a weights file without a contract. The cost of adding a model does not depend on the size of the zoo.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from metazoo.choices import Permission
from metazoo.errors import ArtefactError, UsageError, ZooError
from metazoo.models import ImageClassifier
from metazoo.notebook import ShownInNotebook
from metazoo.storage.artefacts import remove_stale_temporaries
from metazoo.storage.lock import exclusive
from metazoo.storage.run_folder import names_in
from metazoo.text import some_of
from metazoo.zoo.contract import ModelContract, Provenance, TrainingRecord, checked_contract
from metazoo.zoo.contract_files import NAME, delete_contract, mark_as_zoo, migrate, read_contracts, write_contract
from metazoo.zoo.importing.model_description import described
from metazoo.zoo.importing.own_modules import classifier_of
from metazoo.zoo.teachers import Teachers, WhiteBoxTeacher
from metazoo.zoo.weights import read_weights, weights_path, write_weights


class Zoo(ShownInNotebook):
    """Models of any architectures, domains and classes in one folder. Iteration gives the contracts, sorted by name.

    Opening reads only the contracts; weights are read and checked by `teacher`. Changes by other processes are seen
    after opening the zoo again.
    """

    def __init__(self, folder: Path, contracts: Collection[ModelContract]) -> None:
        self.folder = folder
        self.contracts: tuple[ModelContract, ...] = _sorted(contracts)
        self._held = False

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open an existing zoo.

        Raises:
            UsageError: the folder does not exist or is not a zoo.
            ArtefactError: a contract or `zoo.json` is damaged or of another format version.
        """
        folder = Path(folder)
        return cls(folder, read_contracts(folder))

    @classmethod
    def create(cls, folder: Path | str) -> Self:
        """Open the zoo at `folder`, or create an empty one.

        Raises:
            UsageError: `folder` is a file, or a folder with other content.
            RunError: another process is creating the zoo.
            ArtefactError: the folder cannot be read or written.
        """
        folder = Path(folder)
        if not (folder / NAME).exists():
            _check_free(folder)
            with exclusive(folder):
                if not (folder / NAME).exists():
                    mark_as_zoo(folder)
        return cls.open(folder)

    def __len__(self) -> int:
        return len(self.contracts)

    def __repr__(self) -> str:
        """Folder and size, such as `Zoo('my-zoo', 12 models, 3 domains)`."""
        domains = len({contract.domain for contract in self})
        counts = [f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in ((len(self), "model"), (domains, "domain"))]
        return f"Zoo({str(self.folder)!r}, {', '.join(counts)})"

    def __iter__(self) -> Iterator[ModelContract]:
        return iter(self.contracts)

    @property
    def sha256(self) -> str:
        """SHA-256 over all contracts, which contain the hashes of all weights, in hexadecimal.

        Permissions for recovered images are left out, so that a run can be resumed after they change; it obeys them.
        """
        return _sha256_of([contract.identity() for contract in self.contracts])

    def reference(self, *contracts: ModelContract) -> "ZooReference":
        """Reference to these models of the zoo, for a unit of work that needs no others."""
        hashes = tuple((contract.name, _sha256_of(contract.identity())) for contract in contracts)
        return ZooReference(self.folder.absolute(), hashes)

    def contract(self, name: str) -> ModelContract:
        """Contract of one model.

        Raises:
            UsageError: there is no such model.
        """
        for contract in self.contracts:
            if contract.name == name:
                return contract
        present = some_of([contract.name for contract in self.contracts])
        raise UsageError(self.folder, f"no model {name!r}", f"choose one of {present}" if present else "add models")

    def find(self, name: str) -> ModelContract | None:
        """Contract of the model of this name, ignoring capitals as some file systems do; None if there is none."""
        wanted = name.casefold()
        return next((contract for contract in self.contracts if contract.name.casefold() == wanted), None)

    def teacher(self, name: str) -> WhiteBoxTeacher:
        """Load one model, and check hash, shapes and values of its weights.

        Raises:
            UsageError: there is no such model.
            ArtefactError: the weights file is missing, damaged or changed.
            ZooError: the weights do not fit the contract, are not finite, or a variance is negative.
        """
        contract = self.contract(name)
        return WhiteBoxTeacher(contract, read_weights(self.folder, contract))

    def teachers(self) -> tuple[WhiteBoxTeacher, ...]:
        """Load every model, in the order of the contracts; see `teacher`."""
        return tuple(self.teachers_in_turn())

    def teachers_in_turn(self, device: str = "cpu") -> Teachers:
        """All models on `device`, each loaded on first use; see `Teachers`."""
        return Teachers(self.folder, self.contracts, device)

    def add(self, module: nn.Module, **fields: Any) -> ModelContract:
        """Add a trained module of the user. It is run on random images and does not change.

        Args:
            module: classifier on any device. Its architecture must be registered; see `register_architecture`.
            **fields: fields of `ModelDescription`: classes, input_size, mean, std and domain are required, except that
                an `ImageClassifier` knows its own. `architecture` may be omitted if only one registered architecture
                builds the class of the module; `name` is that of the architecture by default.

        Raises:
            UsageError: a field is missing or impossible, no registered architecture builds the module or several do, or
                the zoo has a model of that name (ignoring capitals).
            ZooError: the weights do not fit the architecture or are not finite, or the module gives other outputs than
                the network of the architecture.
            RunError: another process is writing to the zoo.
            ArtefactError: the zoo cannot be read or written.
        """
        if not isinstance(module, nn.Module):
            raise UsageError("module", f"must be an nn.Module, not {type(module).__name__}", "see `Zoo.store`")
        classifier, known, provenance = classifier_of(module, described(fields, "description"))
        assert known.classes is not None
        assert known.domain is not None
        return self.store(
            known.name or classifier.spec.architecture.replace(":", "-"),
            classifier,
            class_names=known.classes,
            domain=known.domain,
            accuracy=known.accuracy,
            recovered_images=known.recovered_images or "show",
            provenance=provenance,
        )

    def store(
        self,
        name: str,
        classifier: ImageClassifier,
        *,
        class_names: Sequence[str],
        domain: str,
        accuracy: float | None = None,
        training: TrainingRecord | None = None,
        recovered_images: Permission = "show",
        provenance: Provenance | None = None,
    ) -> ModelContract:
        """Store a classifier of this package, as it is; for the arguments see `ModelContract`.

        Raises:
            UsageError: a value is out of bounds, or the zoo has a model of that name (ignoring capitals).
            ZooError: the weights are not sound.
            RunError: another process is writing to the zoo.
            ArtefactError: the zoo cannot be read or written.
        """
        values: dict[str, Any] = {"name": name, "spec": classifier.spec, "class_names": tuple(class_names)}
        values |= {"domain": domain, "accuracy": accuracy, "training": training, "recovered_images": recovered_images}
        values["provenance"] = provenance
        checked_contract(**values, weights_sha256="0" * 64)
        with self.writing():
            present = self.find(name)
            if present is not None:
                raise UsageError(self.folder, f"already has model {present.name!r}", "choose another name")
            contract = ModelContract(**values, weights_sha256=write_weights(self.folder, name, classifier))
            write_contract(self.folder, contract)
            self.contracts = _sorted((*self.contracts, contract))
        return contract

    def remove(self, names: Collection[str]) -> None:
        """Remove models and delete their weights.

        Raises:
            UsageError: a model does not exist; none is removed.
            RunError: another process is writing to the zoo.
            ArtefactError: the zoo cannot be read or written.
        """
        names = {names} if isinstance(names, str) else set(names)
        with self.writing():
            for path in [weights_path(self.folder, self.contract(name).name) for name in sorted(names)]:
                delete_contract(self.folder, path.stem)
                self.contracts = tuple(contract for contract in self.contracts if contract.name != path.stem)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise ArtefactError(path, f"cannot be deleted: {error.strerror}", "delete it yourself") from error

    def permit(self, names: Collection[str], recovered_images: Permission) -> None:
        """Set the permission for images recovered from models.

        Raises:
            UsageError: a model or the permission does not exist; nothing is changed.
            RunError: another process is writing to the zoo.
            ArtefactError: the zoo cannot be read or written.
        """
        names = {names} if isinstance(names, str) else set(names)
        with self.writing():
            changed = {
                name: checked_contract(**dict(self.contract(name)) | {"recovered_images": recovered_images})
                for name in sorted(names)
            }
            for contract in changed.values():
                write_contract(self.folder, contract)
            self.contracts = tuple(changed.get(contract.name, contract) for contract in self.contracts)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the zoo for several changes through this object, after reading earlier changes by others.

        Raises:
            RunError: another process, or another `Zoo` object of this process, is writing to the zoo.
            ArtefactError: the zoo cannot be read or written.
        """
        if self._held:
            yield
            return
        read_contracts(self.folder)  # a deleted folder must not be created again
        with exclusive(self.folder):
            remove_stale_temporaries(self.folder)
            self.contracts = _sorted(read_contracts(self.folder))
            migrate(self.folder, self.contracts)
            self._held = True
            try:
                yield
            finally:
                self._held = False


@dataclass(frozen=True)
class ZooReference:
    """Reference to models of a zoo by path, name and hash, sent with a unit of work.

    Attributes:
        path: folder of the zoo.
        models: name and SHA-256 of the contract of each model; the contract contains the hash of the weights.
    """

    path: Path
    models: tuple[tuple[str, str], ...]

    def open(self) -> Zoo:
        """Open the zoo with these models only. A process caches the contracts and reads them again if they differ.

        Raises:
            ZooError: a model is missing or has changed since the unit of work was made.
            UsageError, ArtefactError: see `Zoo.open`.
        """
        if any(_listed(self.path).get(name, ("",))[0] != sha256 for name, sha256 in self.models):
            _listed.cache_clear()
        listed = _listed(self.path)
        for name, sha256 in self.models:
            if name not in listed or listed[name][0] != sha256:
                problem = "has changed" if name in listed else "is missing"
                subject = f"model {name!r} of {self.path}"
                raise ZooError(subject, f"{problem} since this work began", "restore it, or start again")
        return Zoo(self.path, [listed[name][1] for name, _ in self.models])


@functools.lru_cache(maxsize=1)
def _listed(folder: Path) -> dict[str, tuple[str, ModelContract]]:
    """Contracts of a zoo by name, with the hash of each."""
    return {contract.name: (_sha256_of(contract.identity()), contract) for contract in read_contracts(folder)}


def _sha256_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def zoo_with_models(zoo: Zoo | Path | str) -> Zoo:
    """Open a zoo that holds at least one model.

    Args:
        zoo: zoo, or its folder.

    Raises:
        UsageError: the zoo is empty, or the folder is not a zoo.
        ArtefactError: see `Zoo.open`.
    """
    zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    if len(zoo) == 0:
        raise UsageError(zoo.folder, "holds no model", "add some with `metazoo zoo build` or `metazoo zoo add`")
    return zoo


def _sorted(contracts: Collection[ModelContract]) -> tuple[ModelContract, ...]:
    return tuple(sorted(contracts, key=lambda contract: contract.name))


def _check_free(folder: Path) -> None:
    held = names_in(folder, "a zoo")
    if held:
        raise UsageError(folder, f"holds {held[0]!r} and is not a zoo", "choose a new or empty folder")
