"""Files of onnxruntime-web, which runs ONNX in browsers: from a package, from the cache, or by npm.

They are part of every exported page but not of metazoo, because of their size. The version is pinned, and its files are
checked, so every page holds the runtime that the tests have run.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

from metazoo.errors import ArtefactError, UsageError
from metazoo.execution.progress import message
from metazoo.storage.artefacts import cannot_read, write_bytes

RUNTIME_VERSION = "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
PACKAGE = f"onnxruntime-web@{RUNTIME_VERSION}"
_SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_FOLDERS = ("", "dist", "package/dist", "node_modules/onnxruntime-web/dist")
_MOST_BYTES = 1 << 26
_SECONDS = 600


def runtime_files(package: Path | str | None = None) -> dict[str, bytes]:
    """Content of the files `SCRIPT` and `WASM` of onnxruntime-web, by name.

    Args:
        package: file (`.tgz`) or folder of the npm package, such as `npm pack` or `npm install` makes. None: the
            cache of the user (`XDG_CACHE_HOME`), which npm fills if it is empty.

    Raises:
        UsageError: the package is missing, is no such package, or has another version; or npm is missing or fails.
        ArtefactError: the package cannot be read.
    """
    if package is not None:
        return _checked(package, _of_package(Path(package)))
    cache = _cache()
    if cache is not None:
        with contextlib.suppress(UsageError, ArtefactError):  # missing, or damaged: made again
            return _checked(cache, _of_package(cache))
    with tempfile.TemporaryDirectory() as folder:
        files = _checked(PACKAGE, _of_package(_packed(Path(folder))))
    if cache is not None:
        with contextlib.suppress(ArtefactError):  # without a cache, the next page takes longer
            for name, data in files.items():
                write_bytes(cache / name, data)
    return files


def _cache() -> Path | None:
    """Folder of the cache; None for a user without a home folder, which a container may have."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "metazoo" / f"onnxruntime-web-{RUNTIME_VERSION}"


def _of_package(package: Path) -> dict[str, bytes]:
    try:
        if package.is_dir():
            return {name: data for name in _SHA256 if (data := _of_folder(package, name)) is not None}
        with tarfile.open(package, "r:gz") as archive:
            return {name: data for name in _SHA256 if (data := _of_archive(archive, name)) is not None}
    except FileNotFoundError as error:
        raise UsageError(package, "does not exist", _remedy()) from error
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise cannot_read(package, error) from error


def _of_folder(folder: Path, name: str) -> bytes | None:
    found = next((path for inner in _FOLDERS if (path := folder / inner / name).is_file()), None)
    return None if found is None or found.stat().st_size > _MOST_BYTES else found.read_bytes()


def _of_archive(archive: tarfile.TarFile, name: str) -> bytes | None:
    with contextlib.suppress(KeyError):
        member = archive.getmember(f"package/dist/{name}")
        content = archive.extractfile(member) if member.size <= _MOST_BYTES else None
        return None if content is None else content.read()
    return None


def _checked(package: Path | str, files: dict[str, bytes]) -> dict[str, bytes]:
    for name, expected in _SHA256.items():
        if name not in files:
            raise UsageError(package, f"holds no {name}", _remedy())
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise UsageError(package, f"{name} is not that of {PACKAGE} (another SHA-256)", _remedy())
    return files


def _packed(folder: Path) -> Path:
    """Download the package into a folder; npm follows its own configuration, such as another registry."""
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(PACKAGE, "not in the cache, and npm, which downloads it, is not installed", _remedy())
    message(f"note: npm downloads {PACKAGE} (33 MB), once")
    command = [npm, "pack", "--ignore-scripts", "--loglevel=error", PACKAGE]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(PACKAGE, f"npm does not run ({error})", _remedy()) from error
    made = next(folder.glob("*.tgz"), None)
    if done.returncode or made is None:
        reason = " ".join(done.stderr.replace("npm error", "").split())[:300] or f"exit code {done.returncode}"
        raise UsageError(PACKAGE, f"npm cannot download it ({reason})", _remedy())
    return made


def _remedy() -> str:
    return f"run `npm pack {PACKAGE}`, on any machine, and give the file that it writes with --runtime"
