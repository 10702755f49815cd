import http.server
import threading
from types import SimpleNamespace

from tune_sam.operations.ui import _wait


def test_a_server_of_this_machine_is_not_asked_through_a_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tune_sam.operations.ui.PATIENCE", 10)

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            _wait(SimpleNamespace(poll=lambda: None), server.server_port, "/health")
        finally:
            server.shutdown()
