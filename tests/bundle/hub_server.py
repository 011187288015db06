"""A Hugging Face hub of our own, as far as push and pull call for one. WRITER may all, others read what is public."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

WRITER = "hf_writer"
Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, tuple[str, Files]]] = {}  # by revision: commit and files
        self.private: set[str] = set()
        self.refused: dict[str, tuple[str, int, str]] = {}  # repository -> reason, status, code
        self.uploads: Files = {}
        self.requests: list[str] = []

    def commit(self, repo: str, files: Files) -> str:
        earlier = self.repositories.setdefault(repo, {})
        sha = hashlib.sha1(f"{len(earlier)}{sorted(files.items())}".encode()).hexdigest()
        earlier[sha] = earlier["main"] = (sha, files)
        return sha


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second would wait 40 ms for the first
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def answer(self, content: Any, status: int = 200, code: str = "", **headers: str) -> None:
        if status >= 400 and isinstance(content, str):  # the reason of a refusal; code: the hub's word for it
            content, headers = {"error": content}, {"X_Error_Code": code, "X_Error_Message": content}
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers | {"Content_Length": str(len(body))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def respond(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path).strip("/")
        hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization")
        parts = path.removeprefix("api/models/").split("/")
        repo = "/".join(parts[:2]).removesuffix(".git")
        match parts:
            case _ if repo in hub.refused:
                self.answer(*hub.refused[repo])
            case ["lfs", oid] | [
                "api",
                "validate-yaml" as oid,
            ]:  # a large file, and what asks whether the head of README.md is YAML
                hub.uploads[oid] = body
                self.answer({})
            case ["api", "repos", "create"] | [_, _, "commit", _] if token != f"Bearer {WRITER}":
                self.answer("This may not write.", 403 if token else 401)
            case ["api", "repos", "create"]:
                self.create(**json.loads(body))
            case _ if repo not in hub.repositories or (repo in hub.private and token != f"Bearer {WRITER}"):
                self.answer("Invalid username or password.", 401, "RepoNotFound")
            case [_, _]:
                self.read(repo, "revision", "main", "")
            case [_, _, "revision" | "tree" | "resolve" as what, revision, *name]:
                self.read(repo, what, revision, "/".join(name))
            case [*_, "preupload", _]:
                files = json.loads(body)["files"]
                modes = ["lfs" if file["path"].endswith(".safetensors") else "regular" for file in files]
                told = [{"uploadMode": mode, "shouldIgnore": False} for mode in modes]
                self.answer({"files": [file | more for file, more in zip(files, told, strict=True)]})
            case [*_, "objects", "batch"]:
                files = json.loads(body)["objects"]
                links = [{"upload": {"href": f"{hub.address}/lfs/{file['oid']}"}} for file in files]
                self.answer({"objects": [file | {"actions": link} for file, link in zip(files, links, strict=True)]})
            case [*_, "commit", _]:
                self.write(repo, *map(json.loads, body.splitlines()))

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def create(self, name: str, organization: str, visibility: str = "", **_: Any) -> None:
        hub, repo = self.server, f"{organization}/{name}"
        self.answer({"url": f"{hub.address}/{repo}"}, 409 if repo in hub.repositories else 200)
        if repo not in hub.repositories:
            hub.private |= {repo} if visibility == "private" else set()
            hub.commit(repo, {".gitattributes": b"*.safetensors filter=lfs"})

    def read(self, repo: str, what: str, revision: str, name: str) -> None:
        if revision not in self.server.repositories[repo]:
            return self.answer("No such revision.", 404, "RevisionNotFound")
        sha, files = self.server.repositories[repo][revision]
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": repo, "sha": sha, "private": repo in self.server.private, "siblings": siblings})
        if what == "tree":
            return self.answer([{"type": "file", "path": file, "size": len(files[file]), "oid": sha} for file in files])
        return self.answer(files[name], ETag=f'"{hashlib.sha256(files[name]).hexdigest()}"', X_Repo_Commit=sha)

    def write(self, repo: str, head: dict[str, Any], *lines: dict[str, Any]) -> None:
        sha, files = self.server.repositories[repo]["main"]
        if head["value"]["parentCommit"] != sha:
            return self.answer("A commit has happened since.", 412)
        new = dict(files)
        for value in (line["value"] for line in lines):
            new[value["path"]] = self.server.uploads.get(value.get("oid")) or base64.b64decode(value.get("content", ""))
            if len(value) == 1:  # a path alone: away with it
                del new[value["path"]]
        sha = self.server.commit(repo, new)
        return self.answer({"commitUrl": f"{self.server.address}/{repo}/commit/{sha}", "commitOid": sha})
