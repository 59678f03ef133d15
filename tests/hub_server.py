"""A local server with the hub's API for huggingface_hub: model info, tree, resolve, and a CDN.

As on the hub, LFS files are redirected to another host, with their size and hash in headers.
"""

import contextlib
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository that serves a folder; ``requests`` are (method, path, Range)."""

    def __init__(self, folder, repo="someone/nano"):
        self.folder, self.repo = folder, repo
        self.requests = []
        self.status = {}  # part of a path -> (HTTP status, the hub's error code)
        self.cut = []  # bytes after which the next answers of the CDN are cut
        self.dies = False  # whether the server also stops when a connection is cut
        self.spoiled = set()  # files whose last byte is sent wrong
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = f"http://localhost:{self.server.server_port}/cdn/"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def got(self, method="GET"):
        """Names of the files that were sent, each as often as it was."""
        paths = [path for how, path, _ in self.requests if how == method]
        return sorted(p.rpartition("/")[2] for p in paths if "/resolve/" in p)

    def files(self):
        """Name -> size and hashes, as git and LFS have them."""
        rows = {}
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            data = path.read_bytes()
            row = {"size": len(data), "git": hashlib.sha1(b"blob %d\0" % len(data) + data)}
            if path.suffix in (".safetensors", ".bin"):
                row["lfs"] = hashlib.sha256(data).hexdigest()
            rows[path.relative_to(self.folder).as_posix()] = row | {"git": row["git"].hexdigest()}
        return rows

    def info(self):
        siblings = []
        for name, row in self.files().items():
            siblings.append({"rfilename": name, "size": row["size"], "blobId": row["git"]})
            if sha := row.get("lfs"):
                siblings[-1]["lfs"] = {"sha256": sha, "size": row["size"], "pointerSize": 130}
        config = {}
        with contextlib.suppress(OSError):
            config = json.loads((self.folder / "config.json").read_text())
        return {
            "_id": "0",
            "id": self.repo,
            "modelId": self.repo,
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "config": {"model_type": config["model_type"]} if "model_type" in config else {},
            "siblings": siblings,
        }

    def tree(self):
        rows = []
        for name, row in self.files().items():
            rows.append({"type": "file", "path": name, "size": row["size"], "oid": row["git"]})
            if sha := row.get("lfs"):
                rows[-1]["lfs"] = {"oid": sha, "size": row["size"], "pointerSize": 130}
        return rows


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            for part, (status, code) in hub.status.items():
                if part in path:
                    return self.answer(status, {"X-Error-Code": code} if code else {})
            api, revisions = f"/api/models/{hub.repo}", f"(?:main|v1|{COMMIT})"
            if path == api or re.fullmatch(f"{api}/revision/{revisions}", path):
                return self.answer(200, {}, json.dumps(hub.info()).encode())
            if re.fullmatch(f"{api}/tree/{revisions}", path):
                return self.answer(200, {}, json.dumps(hub.tree()).encode())
            if path.startswith(f"{api}/revision/"):
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            if path.startswith("/cdn/"):
                return self.file(path.removeprefix("/cdn/"), {})
            match = re.fullmatch(f"/{hub.repo}/resolve/{revisions}/(.+)", path)
            if match is None:
                return self.answer(401, {"X-Error-Code": "RepoNotFound"})
            row = hub.files().get(match[1])
            if row is None:
                return self.answer(404, {"X-Error-Code": "EntryNotFound"})
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{row["git"]}"'}
            if "lfs" not in row:
                return self.file(match[1], headers)
            headers["X-Linked-Etag"] = f'"{row["lfs"]}"'
            headers["X-Linked-Size"] = str(row["size"])
            return self.answer(302, headers | {"Location": hub.cdn + match[1]})

        do_HEAD = do_GET  # noqa: N815

        def file(self, name, headers):
            data = (hub.folder / name).read_bytes()
            if name in hub.spoiled:
                data = data[:-1] + bytes([data[-1] ^ 1])
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if wanted is None:
                return self.answer(200, headers, data)
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206, headers, data[start:])

        def answer(self, status, headers, data=b""):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut and "/cdn/" in self.path:
                self.wfile.write(data[: hub.cut.pop(0)])
                if hub.dies:
                    hub.status = {"/": (503, None)}
                self.connection.shutdown(socket.SHUT_WR)
                self.close_connection = True
            else:
                self.wfile.write(data)

    return Handler
