"""`iqa-armor serve`: a model over HTTP."""

import socket

from iqa_armor.cli import arguments
from iqa_armor.cli.console import say, say_next, show_if_json, stdout
from iqa_armor.cli.options import options
from iqa_armor.errors import OutputError, failing
from iqa_armor.pipeline.settings import Service


@options(
    without={"threat", "lower_is_better", "overwrite", "dry_run"},
    usual=("host", "port", "batch_size", "wait", "timeout", "max_size", "device"),
)
def serve(
    model: arguments.ModelArg,
    service: Service,
    defenses: arguments.Defenses,
    call: arguments.ModelCall,
    draws: arguments.Draws,
) -> None:
    """POST the bytes of an image to /score; /health and /metrics (Prometheus) say how it does.

    It has no users and no encryption: put it behind a proxy that has, before others can reach it.

    Examples:
        iqa-armor serve model.safetensors --port 8000
        curl --data-binary @photo.jpg http://127.0.0.1:8000/score
    """
    from iqa_armor.pipeline.serve import make_app

    device, host, port = call.chosen(), service.host, service.port
    opened = defenses.around(call.load(model)).to(device)
    app = make_app(opened, service, seed=draws.seed)
    from uvicorn import Config, Server

    says, advice = f"cannot listen on {host}, port {port}", "see --host and --port"
    with failing(says, (OSError, UnicodeError), error=OutputError, advice=advice):
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    with listening:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        if not show_if_json({"url": url, "model": opened.name}):
            say(f"{opened.name} answers at {url}/score; Ctrl-C ends it")
            say_next("--data-binary", "@photo.jpg", f"{url}/score", program="curl")
        stdout.file.flush()
        config = Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=int(service.timeout) + 1)
        try:
            Server(config).run(sockets=[listening])
        except KeyboardInterrupt as stop:
            stop.add_note("images that had come were answered first")
            raise
