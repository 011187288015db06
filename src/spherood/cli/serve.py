"""spherood serve."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from spherood.cli.options import Trust
from spherood.errors import ConfigError

TOKEN = "SPHEROOD_TOKEN"  # an environment variable: a command line is seen by everybody on a machine


def serve(
    bundles: Annotated[
        list[str], typer.Argument(help="Bundles: FOLDER, or NAME=FOLDER. The first answers who names none.")
    ],
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in: set a token then.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    shadow: Annotated[
        Path | None, typer.Option(help="A second bundle that judges the same images and answers nobody.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"A file with the bearer token that requests must carry; or set {TOKEN}.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images judged together, at most.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; beyond, requests get 503.")] = 512,
    most_megabytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 32,
    most_megapixels: Annotated[int, typer.Option(min=1, help="Of an image, by its header.")] = 50,
    traffic: Annotated[int, typer.Option(min=0, help="Images that the page remembers, in memory; 0: none.")] = 200,
    trust: Trust = None,
) -> None:
    """Answer requests for verdicts, with a page for people and metrics for Prometheus.

    Example: **spherood serve runs/demo/bundle**

    Example: **curl -F images=@cat.png localhost:8000/v1/predict**

    A bundle that is replaced on disk is taken over without a lost request; one that cannot be loaded is refused, and
    the old one goes on. Ctrl-C finishes what was taken.
    """
    from spherood.errors import optional

    uvicorn = optional("uvicorn", "serve", "spherood serve")
    for module in ("fastapi", "python_multipart", "prometheus_client"):
        optional(module, "serve", "spherood serve")
    from spherood.service.app import Settings, create_app
    from spherood.service.pictures import Limits
    from spherood.service.served import Served

    if port:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
            except OSError as error:
                raise ConfigError(f"{host}:{port}: {error.strerror}. Choose another: --port, --host.") from None
    served: dict[str, Served] = {}
    for text in bundles:
        name, folder = _named(text)
        if name in served:
            raise ConfigError(f"spherood serve: two bundles are called '{name}'. Write NAME=FOLDER.")
        served[name] = Served(name, folder, trust or ())
    settings = Settings(
        served=served,
        shadow=None if shadow is None else Served("shadow", shadow, trust or ()),
        token=_token(token_file),
        batch=batch,
        room=queue,
        traffic=traffic,
        limits=Limits(body=most_megabytes * 1_000_000, pixels=most_megapixels * 1_000_000),
    )
    if settings.token is None and host not in ("127.0.0.1", "localhost", "::1"):
        print(f"note: {host} without a token: whoever reaches this port can ask.", file=sys.stderr)
    print(f"serving {', '.join(served)} at http://{host}:{port} (page), /docs, /metrics", file=sys.stderr)
    uvicorn.run(create_app(settings), host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if equals and "/" not in name:
        return name, Path(folder)
    path = Path(text)
    whole = path.absolute()
    return (whole.parent.name if whole.name.startswith("bundle") else whole.name), path


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN) or None
    if not file.is_file():
        raise ConfigError(f"{file}: no such file. It should hold the token.")
    token = file.read_text(encoding="utf-8").strip()
    if not token.isascii() or len(token) < 8:
        raise ConfigError(f"{file}: expected a token of 8 or more ASCII characters.")
    return token
