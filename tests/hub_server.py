"""A small server on the loopback that speaks the protocol of the Hugging Face Hub, for uploads and downloads."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_writerwriterwriter"
READER = "hf_readerreaderreader"


@dataclass
class Repository:
    """Commits by hash, each with its files, and the hash of every branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files besides the former ones, and return its hash."""
        files = self.files(branch) | files
        parts = [
            branch,
            str(len(self.commits)),
            *(f"{name}:{hashlib.sha1(files[name]).hexdigest()}" for name in sorted(files)),
        ]
        commit = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return dict(self.commits.get(self.branches.get(branch, ""), {}))

    def commit_of(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


class HubServer:
    """State of the server.

    Attributes:
        requests: method and path of every request.
        stored: large files by SHA-256.
        cut: number of bytes after which the connection of every download of a large file breaks; None for never.
        message: error message of a refused token.
        address, store: address of the hub, and of its store of large files, which must never see a token.
        claimed: size that HEAD gives instead of that of a file, by name.
        is_full: whether the store takes no more files.
        knows_private: whether new repositories are private if they should be.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.cut: int | None = None
        self.message = "Invalid credentials in Authorization header"
        self.claimed: dict[str, int] = {}
        self.is_full = False
        self.knows_private = True
        self.address = ""
        self.store = ""

    def downloads(self) -> list[str]:
        """Names of the files that were downloaded since the last call."""
        found = [request.rpartition("/")[2] for request in self.requests if request.startswith("GET /file/")]
        found += [request.rpartition("/")[2] for request in self.requests if re.match("GET .+/resolve/", request)]
        self.requests.clear()
        return found


class _Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.path.startswith(("/file/", "/lfs/")) and "Authorization" in self.headers:
            self.hub.requests.append("token sent to the store")
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        routes = {
            "POST /api/repos/create": self._create,
            "POST /api/validate-yaml": lambda _: self._json({"errors": [], "warnings": []}),
            r"GET /api/models/(\w[\w.-]*/[\w.-]+)(?:/revision/(.+))?": self._info,
            r"POST /api/models/(\w[\w.-]*/[\w.-]+)/branch/(.+)": self._branch,
            r"POST /api/models/(\w[\w.-]*/[\w.-]+)/preupload/(.+)": self._preupload,
            r"POST /api/models/(\w[\w.-]*/[\w.-]+)/commit/(.+)": self._commit,
            r"POST /(\w[\w.-]*/[\w.-]+?)\.git/info/lfs/objects/batch": self._batch,
            r"PUT /lfs/([0-9a-f]{64})": self._store,
            r"(?:HEAD|GET) /(\w[\w.-]*/[\w.-]+)/resolve/([^/]+)/(.+)": self._resolve,
            r"(?:HEAD|GET) /file/([0-9a-f]{64})/.+": self._file,
        }
        try:
            for pattern, route in routes.items():
                match = re.fullmatch(pattern, f"{self.command} {self.path}")
                if match is not None:
                    return route(data, *(None if group is None else unquote(group) for group in match.groups()))
            raise _Refusal(404)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, b"{}", headers={name: text for name, text in headers.items() if text})

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token not in (None, TOKEN, READER):
            raise _Refusal(401, message=self.hub.message.replace("TOKEN", str(token)))
        return token

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        token, repository = self._token(), self.hub.repositories.get(name)
        if repository is None or (repository.private and token is None):
            raise _Refusal(404, "RepoNotFound")
        if write and token != TOKEN:
            raise _Refusal(403, message="You need write access")
        return repository

    def _create(self, data: bytes) -> None:
        asked = json.loads(data)
        if self._token() != TOKEN:
            raise _Refusal(403 if self._token() else 401, message="You cannot create a repository")
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            raise _Refusal(409)
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        made = Repository(is_private and self.hub.knows_private)
        made.commit({".gitattributes": b"*.safetensors filter=lfs"})
        self.hub.repositories[name] = made
        self._json({"url": f"{self.hub.address}/{name}"})

    def _info(self, _: bytes, name: str, revision: str | None) -> None:
        repository = self._repository(name)
        commit = repository.commit_of(revision or "main")
        if commit is None:
            raise _Refusal(404, "RevisionNotFound")
        files = [{"rfilename": file} for file in repository.commits[commit]]
        self._json({"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": files})

    def _branch(self, data: bytes, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        if branch in repository.branches:
            raise _Refusal(409)
        start = repository.commit_of(json.loads(data or b"{}").get("startingPoint") or "main")
        repository.branches[branch] = str(start)
        self._json({})

    def _preupload(self, data: bytes, name: str, revision: str) -> None:
        files = self._repository(name, write=True).files(revision)
        answers, ignored = [], files.get(".gitignore", b"").decode().split()
        for asked in json.loads(data)["files"]:
            path, is_large = asked["path"], asked["path"].endswith(".safetensors")
            former = files.get(path)
            blob = None if former is None else b"blob %d\0" % len(former) + former
            known = None if blob is None or former is None else hashlib.sha1(blob).hexdigest()
            if is_large and former is not None:
                known = hashlib.sha256(former).hexdigest()
            mode = "lfs" if is_large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": path in ignored})
            answers[-1] |= {} if known is None else {"oid": known}
        self._json({"files": answers})

    def _batch(self, data: bytes, name: str) -> None:
        self._repository(name, write=True)
        objects = []
        for asked in json.loads(data)["objects"]:
            upload = {"upload": {"href": f"{self.hub.store}/lfs/{asked['oid']}"}}
            objects.append(asked | ({} if asked["oid"] in self.hub.stored else {"actions": upload}))
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, data: bytes, sha256: str) -> None:
        if self.hub.is_full or hashlib.sha256(data).hexdigest() != sha256:
            raise _Refusal(413)
        self.hub.stored[sha256] = data
        self._send(200, b"")

    def _commit(self, data: bytes, name: str, revision: str) -> None:
        repository = self._repository(name, write=True)
        if revision not in repository.branches:
            raise _Refusal(404, "RevisionNotFound")
        files = {}
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = repository.commit(files, revision)
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})

    def _resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        commit = repository.commit_of(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound")
        data, headers = repository.commits[commit].get(file), {"X-Repo-Commit": commit}
        if data is None:
            raise _Refusal(404, "EntryNotFound")
        sha256 = hashlib.sha256(data).hexdigest()
        if file.endswith(".safetensors"):
            self.hub.stored[sha256] = data
            size = self.hub.claimed.get(file, len(data))
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size)}
            return self._send(302, b"", headers | {"Location": f"{self.hub.store}/file/{sha256}/{file}"})
        return self._send(200, data, headers | {"ETag": f'"{sha256}"'}, self.hub.claimed.get(file))

    def _file(self, _: bytes, sha256: str) -> None:
        data = self.hub.stored[sha256]
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        headers = {"ETag": f'"{sha256}"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, cut=self.hub.cut)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        size: int | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data) if size is None or self.command == "GET" else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the class calls it
        pass


@contextlib.contextmanager
def serve_hub(folder: Path) -> Iterator[HubServer]:
    """Start a server that HF_ENDPOINT names, with an empty cache in `folder` and the token of a writer."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    hub.store = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    values = {
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "no-token"),
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_XET": True,  # another protocol, of a compiled library
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(constants, name, value, raising=False)  # not all versions have all of them
        patch.setenv("HF_ENDPOINT", hub.address)
        patch.setenv("HF_TOKEN", TOKEN)
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
