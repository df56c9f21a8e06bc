"""`steerchat serve`: the model for other programs. Its libraries are an extra, and nothing else imports them."""

from __future__ import annotations

import importlib.util
from typing import Any

import click

from ..values.errors import UsageError
from ..values.results import Notice
from .start import given_settings, new_screen, open_chat, setting_options

_LIBRARIES = ("starlette", "uvicorn", "prometheus_client")


def serve_command() -> click.Command:
    """`steerchat serve`."""
    options = [
        click.Option(["--host"], default="127.0.0.1", show_default=True, metavar="ADDRESS", help="where to listen"),
        click.Option(["--port"], default=8321, show_default=True, type=click.IntRange(1, 65535), metavar="PORT"),
        click.Option(
            ["--token"],
            envvar="STEERCHAT_TOKEN",
            metavar="TEXT",
            help="what clients must send; needed where others can reach the address",
        ),
        click.Option(["--allow-host"], multiple=True, metavar="NAME", help="a name under which clients ask; repeat"),
        click.Option(["--allow-origin"], multiple=True, metavar="URL", help="a site whose pages may ask; repeat"),
        click.Option(["--rows"], default=32, show_default=True, type=click.IntRange(1, 256), help="answers at once"),
        click.Option(
            ["--waiting"], default=128, show_default=True, type=click.IntRange(0, 4096), help="more that wait"
        ),
        click.Option(
            ["--deadline"], default=300.0, show_default=True, type=click.FloatRange(1), help="seconds a request"
        ),
        click.Option(
            ["--class", "classroom"],
            is_flag=True,
            help="students join with a code, each for themselves; the token is the teacher's",
        ),
        *setting_options(),
    ]
    text = (
        "Serve the model to other programs, as OpenAI's API has it, and a page at the same address. Steer by the "
        "model's name (smollm2+happy:16:2.0) or the field \"steer\". Needs the extra: pip install 'steerchat[serve]'."
    )
    return click.Command("serve", params=options, callback=_serve, help=text, short_help="Serve the model to programs.")


def _serve(
    host: str,
    port: int,
    token: str | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    rows: int,
    waiting: int,
    deadline: float,
    classroom: bool,
    **settings: Any,
) -> None:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"the server needs {', '.join(missing)}", "pip install 'steerchat[serve]'")
    from ..serve.classroom import Classroom
    from ..serve.service import Service
    from ..serve.start import check_address, check_port, serve

    check_address(host, token, classroom)
    check_port(host, port)
    screen = new_screen()
    with open_chat("serve", given_settings(settings), screen.aside) as chat:
        chat.start()
        service = Service(chat, rows, waiting, deadline, Classroom() if classroom else None)
        serve(service, host, port, token, allow_host, allow_origin, lambda text: screen.aside(Notice(text)))
