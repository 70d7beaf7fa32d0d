import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from error_checks import raises

from metazoo.errors import ArtefactError, UsageError
from metazoo.export import web_runtime
from metazoo.export.web_runtime import PACKAGE, RUNTIME_VERSION, SCRIPT, WASM, runtime_files

FILES = {SCRIPT: b"export default 1", WASM: b"\0asm"}
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small files in the role of the runtime, and an empty cache."""
    pins = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    monkeypatch.setattr(web_runtime, "_SHA256", pins)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def package_of(path: Path, files: dict[str, bytes]) -> Path:
    description = {"name": "onnxruntime-web", "version": RUNTIME_VERSION}
    with tarfile.open(path, "w:gz") as archive:
        content = {"package.json": json.dumps(description).encode()}
        for name, data in (content | {f"dist/{name}": data for name, data in files.items()}).items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("inner", ["", "dist", "package/dist", "node_modules/onnxruntime-web/dist"])
def test_a_folder_is_read(inner: str, tmp_path: Path) -> None:
    folder_of(tmp_path / "given" / inner, FILES)
    assert runtime_files(tmp_path / "given") == FILES
    assert not (tmp_path / "cache").exists()


def test_a_package_file_is_read(tmp_path: Path) -> None:
    assert runtime_files(package_of(tmp_path / "own.tgz", FILES)) == FILES


def test_other_content_is_refused(tmp_path: Path) -> None:
    other = package_of(tmp_path / "other.tgz", FILES | {WASM: b"\0asM"})
    with raises(UsageError, subject=str(other), problem=WASM, remedy=f"npm pack {PACKAGE}"):
        runtime_files(other)
    less = package_of(tmp_path / "less.tgz", {SCRIPT: FILES[SCRIPT]})
    with raises(UsageError, subject=str(less), problem=f"holds no {WASM}"):
        runtime_files(less)
    with raises(UsageError, subject=str(tmp_path), problem=f"holds no {SCRIPT}"):
        runtime_files(tmp_path)
    with raises(UsageError, subject="none.tgz", problem="does not exist", remedy="--runtime"):
        runtime_files(tmp_path / "none.tgz")


@pytest.mark.parametrize("damage", [b"no archive", b""])
def test_a_damaged_package_is_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.tgz").write_bytes(damage)
    with raises(ArtefactError, subject="bad.tgz", problem="cannot be read"):
        runtime_files(tmp_path / "bad.tgz")


def test_a_package_with_any_damaged_byte_is_refused_or_unharmed(tmp_path: Path) -> None:
    whole = package_of(tmp_path / "whole.tgz", FILES).read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole[: position + 1] if position % 2 else whole)
        damaged[position] ^= 0x55
        (tmp_path / "bad.tgz").write_bytes(damaged)
        with contextlib.suppress(ArtefactError, UsageError):
            assert runtime_files(tmp_path / "bad.tgz") == FILES


def test_links_and_huge_members_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "link.tgz", "w:gz") as archive:
        link = tarfile.TarInfo(f"package/dist/{SCRIPT}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(UsageError):
        runtime_files(tmp_path / "link.tgz")
    monkeypatch.setattr(web_runtime, "_MOST_BYTES", 3)
    with raises(UsageError, problem="holds no"):
        runtime_files(package_of(tmp_path / "own.tgz", FILES))


def test_the_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "cache" / "metazoo" / f"onnxruntime-web-{RUNTIME_VERSION}", FILES)
    monkeypatch.setenv("PATH", "")
    assert runtime_files() == FILES


def test_without_npm_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with raises(UsageError, subject=PACKAGE, problem="npm", remedy="--runtime"):
        runtime_files()


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("PATH", "")
    with raises(UsageError, subject=PACKAGE, problem="npm", remedy="--runtime"):
        runtime_files()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a registry of packages on this machine, which npm asks."""
    folder = tmp_path / "registry"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name, value in (("registry", address), ("cache", tmp_path / "npm"), ("fetch_retries", 0), ("audit", "false")):
        monkeypatch.setenv(f"npm_config_{name}", str(value))
    data = package_of(folder / "own.tgz", FILES).read_bytes()
    version = {
        "name": "onnxruntime-web",
        "version": RUNTIME_VERSION,
        "dist": {"tarball": f"{address}/own.tgz", "shasum": hashlib.sha1(data).hexdigest()},
    }
    listed = {"name": "onnxruntime-web", "dist-tags": {}, "versions": {RUNTIME_VERSION: version}}
    (folder / "onnxruntime-web").write_text(json.dumps(listed))
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@needs_npm
def test_npm_fills_the_cache_from_its_registry(
    registry: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime_files() == FILES
    note = f"note: npm downloads {PACKAGE} (33 MB), once\n"
    assert capsys.readouterr().err == note
    monkeypatch.setenv("PATH", "")
    assert runtime_files() == FILES
    assert capsys.readouterr().err == ""


@needs_npm
def test_a_failure_of_npm_is_told_and_leaves_no_cache(registry: Path, tmp_path: Path) -> None:
    (registry / "onnxruntime-web").unlink()
    with raises(UsageError, subject=PACKAGE, problem="404", remedy="--runtime"):
        runtime_files()
    assert not (tmp_path / "cache").exists()
