"""Real bare repositories served over HTTP by git's own server program, with the forge's tokens."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

ALONE = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
WHO = {
    "GIT_AUTHOR_NAME": "Forge", "GIT_AUTHOR_EMAIL": "forge@example.com", "GIT_COMMITTER_NAME": "Forge",
    "GIT_COMMITTER_EMAIL": "forge@example.com",
}  # fmt: skip


@dataclass(frozen=True)
class Bare:
    """A bare repository of a stand-in. Its methods raise CalledProcessError when git fails."""

    path: Path

    @classmethod
    def make(cls, path: Path, files: Mapping[str, str]) -> Bare:
        """A new one whose `main` has one commit with these files."""
        path.parent.mkdir(parents=True, exist_ok=True)
        env = {"PATH": os.environ["PATH"], **ALONE}
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(path)], check=True, env=env)
        made = cls(path)
        made.git("config", "http.receivepack", "true")
        made.commit("main", "Start", files)
        return made

    def git(self, *args: str, input: str | None = None) -> str:  # noqa: A002
        """What `git ARGS` prints there, stripped."""
        return self.run(*args, input=input, check=True).stdout.strip()

    def run(self, *args: str, input: str | None = None, check: bool = False) -> subprocess.CompletedProcess[str]:  # noqa: A002
        env = {"PATH": os.environ["PATH"], **ALONE, **WHO}
        argv = ["git", "-C", str(self.path), *args]
        return subprocess.run(argv, env=env, input=input, check=check, capture_output=True, text=True)

    def sha(self, ref: str) -> str:
        """The commit a ref is at, "" when there is none."""
        return self.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").stdout.strip()

    def commit(self, branch: str, message: str, files: Mapping[str, str], start: str = "main") -> str:
        """Put a commit with these files on top of the branch, made from `start` when it is not there; its sha."""
        parent = self.sha(f"refs/heads/{branch}") or self.sha(f"refs/heads/{start}")
        lines = [f"100644 blob {self.git('hash-object', '-w', '--stdin', input=t)}\t{n}" for n, t in files.items()]
        index = {"GIT_INDEX_FILE": str(self.path / f"index.{branch.replace('/', '-')}")}
        env = {"PATH": os.environ["PATH"], **ALONE, **WHO, **index}
        if parent:
            subprocess.run(["git", "-C", str(self.path), "read-tree", parent], check=True, env=env)
        argv = ["git", "-C", str(self.path), "update-index", "--add", "--index-info"]
        subprocess.run(argv, check=True, env=env, input="\n".join(lines) + "\n", text=True)
        argv = ["git", "-C", str(self.path), "write-tree"]
        tree = subprocess.run(argv, check=True, env=env, capture_output=True, text=True).stdout.strip()
        Path(index["GIT_INDEX_FILE"]).unlink(missing_ok=True)
        sha = self.git("commit-tree", tree, *(("-p", parent) if parent else ()), "-m", message)
        self.git("update-ref", f"refs/heads/{branch}", sha)
        return sha

    def conflicts(self, base: str, head: str) -> bool:
        """Whether the two do not merge by themselves."""
        return self.run("merge-tree", "--write-tree", base, head).returncode != 0

    def merge(self, base: str, head: str, message: str, *, squash: bool = False) -> str:
        """Merge commit `head` into the branch `base`; the new commit. Raises CalledProcessError for a conflict."""
        before = self.sha(f"refs/heads/{base}")
        tree = self.git("merge-tree", "--write-tree", before, head).splitlines()[0]
        parents = ("-p", before) if squash else ("-p", before, "-p", head)
        sha = self.git("commit-tree", tree, *parents, "-m", message)
        self.git("update-ref", f"refs/heads/{base}", sha, before)
        return sha

    def contains(self, commit: str, other: str) -> bool:
        """Whether `other` is in the history of `commit`."""
        return self.run("merge-base", "--is-ancestor", other, commit).returncode == 0


def server(
    root: Path, allowed: Callable[[str, str, bool], bool]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler for `/{owner}/{name}.git/{rest}` and deeper paths, of the bare repositories under `root`.

    `allowed(user, password, writes)` says whether a login may do that.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        service = request.query.get("service", request.path.rpartition("/")[2])
        user, _, password = _login(request).partition(":")
        if not allowed(user, password, service == "git-receive-pack"):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'}, text="not you")
        env = {
            "PATH": os.environ["PATH"], **ALONE, "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": request.path, "REQUEST_METHOD": request.method, "QUERY_STRING": request.query_string,
            "CONTENT_TYPE": request.headers.get("content-type", ""), "REMOTE_USER": user or "x",
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "HTTP_GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        }  # fmt: skip
        child = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        out, _ = await child.communicate(await request.read())
        head, _, body = out.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(status=status, headers=headers, body=body)

    return handle


def _login(request: web.Request) -> str:
    """`user:password` of a Basic login, ":" for none."""
    kind, _, word = request.headers.get("authorization", "").partition(" ")
    return base64.b64decode(word).decode() if kind.lower() == "basic" else ":"
