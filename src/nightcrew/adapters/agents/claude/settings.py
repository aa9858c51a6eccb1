"""`[agents.<name>]` of a Claude Code."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

PASSED = (
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_BASE_URL", "CLAUDE_CONFIG_DIR",
    "ANTHROPIC_CUSTOM_HEADERS", "CLAUDE_CODE_USE_BEDROCK", "AWS_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_BEDROCK_BASE_URL",
    "CLAUDE_CODE_USE_VERTEX", "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID", "GOOGLE_APPLICATION_CREDENTIALS",
    "CLAUDE_CODE_USE_FOUNDRY", "ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_RESOURCE", "HTTP_PROXY", "HTTPS_PROXY",
    "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE",
)  # fmt: skip

_MILLISECONDS = Annotated[int, Meta(ge=1000, le=10**9)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[agents.<name>]` with kind "claude". Times in milliseconds."""

    program: str = "claude"  # a name on the PATH, or a whole path
    models: tuple[str, ...] = ("sonnet", "opus")  # the ladder, cheapest first
    account: str = ""  # agents of one account share its limits; default: told from the login below
    provider: str = ""  # whose servers; default: anthropic, bedrock, vertex, foundry, or the host of ANTHROPIC_BASE_URL
    config_dir: str = ""  # the account's folder (CLAUDE_CONFIG_DIR): one for all its sessions, writable, never a copy
    token: str = ""  # "$NAME" of a long-lived token from `claude setup-token`; goes before a login in config_dir
    api_key: str = ""  # "$NAME" of an API key; goes before a token
    memory: Annotated[int, Meta(ge=1, le=10**6)] = 1024  # megabytes that a session takes, until that is measured
    env: dict[str, str] = {}  # "$NAME" is taken from nightcrew's environment when a session starts
    pass_env: tuple[str, ...] = PASSED  # taken over from nightcrew's environment where they are set
    permission_mode: str = "bypass"  # or a mode of the CLI: "dontAsk", "acceptEdits", ...
    allowed_tools: tuple[str, ...] = ()  # as --allowedTools takes them
    disallowed_tools: tuple[str, ...] = ("Bash(git push*)", "Bash(gh *)", "EnterWorktree")  # as --disallowedTools
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 1  # nightcrew does the waiting, once for all sessions
    api_timeout_ms: _MILLISECONDS = 300_000  # one request to the provider
    stream_idle_ms: Annotated[int, Meta(ge=10_000, le=10**9)] = 120_000  # the CLI takes no less
    bash_timeout_ms: _MILLISECONDS = 300_000  # one shell command, unless the model asks for longer
    bash_max_timeout_ms: _MILLISECONDS = 900_000  # the longest it may ask for
    extra_args: tuple[str, ...] = ()  # put at the end of the command line
