"""Take requests for retraining: verify each one, answer, download the release, and train."""

import base64
import hashlib
import hmac
import json
import queue
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MAX_BYTES = 16 * 2**20
waiting = queue.Queue()
known = set()  # a real trainer keeps them on disk


def is_genuine(headers, body: bytes, secret: bytes) -> bool:
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
        return False
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    expected = "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return any(hmac.compare_digest(expected, one) for one in headers["webhook-signature"].split())


class Trainer(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(min(int(self.headers["Content-Length"]), MAX_BYTES))
        secret = Path("secrets/retrain").read_text().rstrip("\r\n").encode()
        genuine = is_genuine(self.headers, body, secret)
        if genuine and self.headers["webhook-id"] not in known:
            known.add(self.headers["webhook-id"])
            waiting.put(json.loads(body)["data"])
        self.send_response(202 if genuine else 401)
        self.end_headers()


def train():
    while True:
        asked = waiting.get()
        print(f"a new version of {asked['model']} is wanted: {asked['detail']}", flush=True)
        if release := asked["release"]:
            with urllib.request.urlopen(release["url"]) as response:
                content = response.read()
            if hashlib.sha256(content).hexdigest() != release["sha256"]:
                print("  the release differs from the one in the request", flush=True)
                continue
            print(f"  {release['lineage']['use']}", flush=True)
            examples = [json.loads(line) for line in content.splitlines()]
            weights = [example["weight"] for example in examples]
            scale = sum(weights) / sum(weight**2 for weight in weights)  # earlier data have the weight 1
            for example in examples:
                weight = scale * example["weight"]
                print("  learn", example["inputs"], "is", example["label"], "weight", weight, flush=True)


threading.Thread(target=train, daemon=True).start()
HTTPServer(("127.0.0.1", 8000), Trainer).serve_forever()
