"""OHIF as a hospital would have it: its files and the archive behind one address."""

import base64
import hashlib
import http.client
import json
import subprocess
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "ohif"
CONFIG = """window.config = {
  routerBasename: "/", extensions: [], modes: [], showStudyList: true, showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false, showLoadingIndicator: true, investigationalUseDialog: { option: "never" },
  defaultDataSourceName: "archive",
  dataSources: [{
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb", sourceName: "archive",
    configuration: {
      friendlyName: "archive", name: "archive", qidoRoot: "/dicom-web", wadoRoot: "/dicom-web",
      qidoSupportsIncludeField: false, imageRendering: "wadors", thumbnailRendering: "wadors", enableStudyLazyLoad: true,
      supportsFuzzyMatching: false, supportsWildcard: false, omitQuotationForMultipartRequest: true,
    },
  }],
};"""


def built() -> Path:
    """The folder of the viewer's built files, fetched from the registry of npm when they are not there yet."""
    package = json.loads((HERE / "package.json").read_text())
    ((name, version),) = package["dependencies"].items()
    archive = CACHE / f"ohif-app-{version}.tgz"
    files = CACHE / version
    if not (files / "package/dist/index.html").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=CACHE, check=True, capture_output=True)
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != package["integrity"]:
            raise ValueError(f"{archive} is not what tests/ohif/package.json pins")
        with tarfile.open(archive) as packed:
            packed.extractall(files, filter="data")
    return files / "package" / "dist"


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    archive = ""
    login = ""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/dicom-web"):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", CONFIG.encode())
        else:
            if not Path(self.translate_path(path)).is_file():
                self.path = "/index.html"  # a page of the viewer
            super().do_GET()

    def _pass_on(self) -> None:
        connection = http.client.HTTPConnection(self.archive)
        headers = {"Accept": self.headers.get("Accept", "*/*"), "Authorization": f"Basic {self.login}"}
        connection.request("GET", self.path, headers=headers)
        answer = connection.getresponse()
        self._answer(answer.status, answer.getheader("Content-Type", ""), answer.read())
        connection.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


def serve(dist: Path, archive: str, user: str, password: str) -> ThreadingHTTPServer:
    """Serve the viewer and, below ``/dicom-web``, the archive at ``host:port``, from one port of the loopback."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(_Handler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(dist))

    Handler.archive, Handler.login = archive, login
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
