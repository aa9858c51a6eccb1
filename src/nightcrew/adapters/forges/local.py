"""temporary"""
from __future__ import annotations
import json
from pathlib import Path
from nightcrew.core.model import *
from nightcrew.core.model import PullRequest, replace
from nightcrew.errors import ForgeError
import msgspec
from nightcrew.git import git
class LocalForge:
    def __init__(self, name, settings, home): self.name=name
    def git_env(self, repo): return {}
    async def _dir(self, repo):
        d=(await git("rev-parse","--path-format=absolute","--git-common-dir",cwd=Path(repo.url))).strip()
        p=Path(d)/"nightcrew"/"pulls"; p.mkdir(parents=True,exist_ok=True); return p
    async def list(self, repo):
        d=await self._dir(repo)
        return [msgspec.json.decode(p.read_bytes(),type=PullRequest) for p in sorted(d.glob("*.json"),key=lambda p:-int(p.stem))]
    async def find(self, repo, branch): return next((p for p in await self.list(repo) if p.branch==branch),None)
    async def open(self, repo, branch, title, body):
        d=await self._dir(repo); n=len(list(d.glob("*.json")))+1
        p=PullRequest(repo.name,n,branch,repo.base,title,body,url=f"{d}/{n}.json")
        (d/f"{n}.json").write_bytes(msgspec.json.encode(p)); return p
    async def update(self, repo, number, title, body): 
        d=await self._dir(repo); p=replace(next(q for q in await self.list(repo) if q.number==number),title=title,body=body); (d/f"{number}.json").write_bytes(msgspec.json.encode(p)); return p
