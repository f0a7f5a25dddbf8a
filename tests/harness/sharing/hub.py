"""A stand-in for the Hugging Face hub on this machine: the endpoints that the real client calls to push and to pull."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretoftheuser"
_LFS = (".parquet", ".safetensors", ".png")


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by id, in order

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        made = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[made] = files
        return made

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.head if revision == "main" else revision)


class Hub:
    """Its repositories by path ("datasets/me/run", "models/me/v"), large files by SHA-256, and all requests.

    `fault`, given a method and path, returns the status with which a request fails, or None; it may also change things.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


class _Refused(Exception):
    """An answer that is no success; `code` is the hub's own name of the error."""

    def __init__(self, status: int, code: str = "", **said: str) -> None:
        self.status, self.code, self.said = status, code, said


def _oid(name: str, data: bytes) -> str:
    if name.endswith(_LFS):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True  # no waits between packets
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self._answer(200, b"")

    def do_GET(self) -> None:
        self._do("GET")

    def do_POST(self) -> None:
        self._do("POST")

    def do_PUT(self) -> None:
        self._do("PUT")

    def _do(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append((method, path))
        try:
            if status := self.hub.fault(method, path):
                raise _Refused(status)
            found = self._found(method, path.strip("/").split("/"))
        except _Refused as refused:
            self._answer(refused.status, json.dumps(refused.said).encode(), {"X-Error-Code": refused.code})
            return
        if isinstance(found, bytes):
            self._file(found)
        else:
            self._answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _found(self, method: str, parts: list[str]) -> object:
        match method, parts:
            case "POST", ["api", "validate-yaml"]:
                return {"warnings": [], "errors": []}
            case "POST", ["api", "repos", "create"]:
                return self._create()
            case "GET", ["api", kind, owner, name, *rest]:
                repo = self._repo(f"{kind}/{owner}/{name}")
                revision = rest[1] if len(rest) > 1 else "main"
                files = self._files(repo, revision)
                if rest[:1] == ["tree"]:
                    return self._tree(files, "/".join(rest[2:]))
                sha = repo.head if revision == "main" else revision
                return {
                    "id": f"{owner}/{name}",
                    "sha": sha,
                    "private": repo.private,
                    "tags": [],
                    "downloads": 0,
                }
            case "POST", ["api", kind, owner, name, "preupload", revision]:
                there = self._files(self._repo(f"{kind}/{owner}/{name}", "write"), revision)
                return {"files": [self._mode(f["path"], there) for f in json.loads(self.body)["files"]]}
            case "POST", ["api", kind, owner, name, "commit", "main"]:
                return self._commit(self._repo(f"{kind}/{owner}/{name}", "write"), f"{kind}/{owner}/{name}")
            case "POST", [*where, "info", "lfs", "objects", "batch"]:
                self._repo(_path("/".join(where).removesuffix(".git")), "write")
                return {
                    "transfer": "basic",
                    "objects": [self._action(o) for o in json.loads(self.body)["objects"]],
                }
            case "PUT", ["large", oid]:
                self.hub.large[oid] = self.body
                return {}
            case "POST", ["verify"]:
                said = json.loads(self.body)
                data = self.hub.large[said["oid"]]
                if (hashlib.sha256(data).hexdigest(), len(data)) != (said["oid"], said["size"]):
                    raise _Refused(400)
                return {}
        if method == "GET" and "resolve" in parts:
            at = parts.index("resolve")
            files = self._files(self._repo(_path("/".join(parts[:at]))), parts[at + 1])
            name = "/".join(parts[at + 2 :])
            if name not in files:
                raise _Refused(404, "EntryNotFound")
            return files[name]
        raise AssertionError(f"the client asked for what the stand-in does not have: {method} {self.path}")

    def _create(self) -> object:
        self._check_token()
        said = json.loads(self.body)
        name = f"{said['organization']}/{said['name']}"
        key = f"{said['type']}s/{name}"
        url = f"{self.hub.url}/{key.removeprefix('models/')}"
        if key in self.hub.repos:
            raise _Refused(409, url=url)
        self.hub.repos[key] = Repo(private=said.get("visibility") == "private")
        self.hub.repos[key].commit({".gitattributes": b"*.parquet filter=lfs\n"})
        return {"url": url, "id": name}

    def _commit(self, repo: Repo, key: str) -> object:
        files = dict(repo.commits[repo.head])
        for line in self.body.splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "header" and value.get("parentCommit", repo.head) != repo.head:
                raise _Refused(412)
            if said["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif said["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif said["key"] == "deletedFile":
                del files[value["path"]]
        made = repo.commit(files)
        return {"commitUrl": f"{self.hub.url}/{key.removeprefix('models/')}/commit/{made}", "commitOid": made}

    def _mode(self, name: str, there: dict[str, bytes]) -> object:
        oid = _oid(name, there[name]) if name in there else None
        mode = "lfs" if name.endswith(_LFS) else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _action(self, said: dict[str, object]) -> object:
        if said["oid"] in self.hub.large:
            return said
        upload = {"href": f"{self.hub.url}/large/{said['oid']}"}
        return {**said, "actions": {"upload": upload, "verify": {"href": f"{self.hub.url}/verify"}}}

    def _tree(self, files: dict[str, bytes], below: str) -> object:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": _oid(name, data)}
            for name, data in sorted(files.items())
            if not below or name.startswith(f"{below}/")
        ]

    def _repo(self, key: str, doing: str = "read") -> Repo:
        repo = self.hub.repos.get(key)
        if repo is None:
            raise _Refused(404, "RepoNotFound")
        if doing == "write" or repo.private:
            self._check_token()
        return repo

    def _files(self, repo: Repo, revision: str) -> dict[str, bytes]:
        found = repo.files(revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound")
        return found

    def _check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401)

    def _file(self, data: bytes) -> None:
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        if not asked:
            self._answer(200, data)
            return
        first, _, last = asked.partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self._answer(206, part, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _path(where: str) -> str:
    return where if where.startswith("datasets/") else f"models/{where}"
