"""What listens while the crew works: webhooks, and the proxy through which agents read the forge. Off by default."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightcrew.app import App
    from nightcrew.director import Director

__all__ = ["listening"]


@asynccontextmanager
async def listening(app: App, director: Director) -> AsyncIterator[None]:
    """Listen as [webhooks] and [proxy] say, while the block lasts. What cannot listen says so and is done without."""
    async with AsyncExitStack() as stack:
        if app.config.webhooks.listen:
            from nightcrew.web import webhooks  # noqa: PLC0415 - a server that most do not need

            await stack.enter_async_context(webhooks.listening(app, director))
        if app.config.proxy.enabled:
            from nightcrew.web import proxy  # noqa: PLC0415

            await stack.enter_async_context(proxy.listening(app, director))
        yield
