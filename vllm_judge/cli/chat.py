"""The command `vllm-judge chat`."""

from typing import Annotated

import typer

from vllm_judge.cli.screen import say


def chat(
    url: Annotated[str, typer.Option(help="A running `vllm serve` with a judge.")],
    model: Annotated[str | None, typer.Option(help="The served model, by default the first.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; anyone who reaches it can ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8643,
) -> None:
    """Serves a page that answers a question strictly and judged, side by side, every token coloured."""
    import uvicorn

    from vllm_judge.chat.app import chat_app, served_model

    url = url.rstrip("/").removesuffix("/v1")
    page = chat_app(url, model or served_model(url), host)
    say(f"http://{host}:{port}/ asks {url}. Ctrl-C ends.")
    uvicorn.run(page, host=host, port=port, log_level="warning")
