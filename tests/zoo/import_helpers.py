"""Models of other libraries with random weights, and a small server that speaks the file protocol of the hub."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

SIDE = 32
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SAID: dict[str, Any] = {"classes": ("cat", "dog", "emu"), "input_size": SIDE, "mean": MEAN, "std": STD}
SAID |= {"domain": "pets"}


def library_model(architecture: str, classes: int = 3, channels: int = 3) -> nn.Module:
    """As a user of the library would make it."""
    library, _, name = architecture.partition(":")
    torch.manual_seed(5)
    if library == "torchvision":
        return torchvision.models.get_model(name, num_classes=classes).eval()
    size: dict[str, Any] = {"img_size": SIDE} if "vit" in name else {}
    return timm.create_model(name, num_classes=classes, in_chans=channels, **size).eval()


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What `model` says of images in [0, 1], normalised as `SAID` has it."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        return model((images - mean) / std)


def timm_config(architecture: str, **changes: Any) -> dict[str, Any]:
    """config.json as timm writes it."""
    published = {"tag": "own", "input_size": [3, SIDE, SIDE], "mean": MEAN, "std": STD, "crop_pct": 0.8}
    published |= {"interpolation": "bicubic", "license": "mit", "num_classes": 3}
    config = {"architecture": architecture, "num_classes": 3, "num_features": 64, "global_pool": "avg"}
    return config | {"label_names": ["cat", "dog", "emu"], "pretrained_cfg": published} | changes


class Hub:
    """Repositories by name, each with its files; every request is kept in `requests`."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.claimed_size: int | None = None

    def add(self, name: str, config: Any, model: nn.Module, folder: Path) -> None:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "hub.safetensors")
        weights = (folder / "hub.safetensors").read_bytes()
        self.files[name] = {"config.json": json.dumps(config).encode(), "model.safetensors": weights}


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """The address of a server of `hub`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, whole: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^?]+))?(?:\?.*)?", self.path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            name = (api or file or [None, ""])[1]
            files, headers = hub.files.get(str(name)), {"X-Repo-Commit": COMMIT}
            if files is None:
                return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, whole)
            if api is not None:
                if api[2] not in (None, "main", "v1", COMMIT):
                    return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, whole)
                info = {"id": name, "sha": COMMIT, "tags": ["timm", "license:apache-2.0"], "siblings": []}
                return self.send(200, json.dumps(info).encode(), headers | {"Content-Type": "application/json"}, whole)
            assert file is not None
            data = files.get(file[3])
            if data is None or file[2] != COMMIT:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, whole)
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            return self.send(200, data, headers, whole)

        def send(self, status: int, data: bytes, headers: dict[str, str], whole: bool) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            size = len(data) if hub.claimed_size is None or whole else hub.claimed_size
            self.send_header("Content-Length", str(size))
            self.end_headers()
            if whole:
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the class calls it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
