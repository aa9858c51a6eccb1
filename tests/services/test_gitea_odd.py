"""Gitea's forge on servers of many years."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.adapters.forges.gitea import GiteaForge
from nightcrew.core.model import Repo
from nightcrew.testing.company.gitea import Gitea

pytestmark = pytest.mark.slow

WEB = "acme/web"


async def test_a_server_that_does_not_tell_drafts_is_understood_by_their_titles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITEA_TOKEN", "gta_nightcrew")
    with Gitea(tmp_path / "gitea", version=(1, 20)) as gitea:
        gitea.state.repository(WEB, {"README.md": "#\n"}).bare.commit("a", "change", {"a": "1"})
        one, repo = GiteaForge("tea", {"url": gitea.url, "draft": True}, Path("/")), Repo("web", gitea.clone_url(WEB))
        number = (await one.open(repo, "a", "Add a map", "")).number
        before = await one.stamps(repo, [number])
        assert (await one.standing(repo, number)).draft
        assert (await one.update(repo, number, "Add two maps", "")).title == "Add two maps"
        await one.edit(repo, number, draft=False)
        assert not (await one.standing(repo, number)).draft
        assert await one.stamps(repo, [number]) != before
    assert gitea.violations == []
