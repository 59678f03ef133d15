"""faster-whisper behind a bare FastAPI, as a peer of `tynda serve` for ``bench/serve.py``.

    python bench/serve_faster_whisper.py FOLDER [--port 8001] [--workers 2] [--threads 1]

FOLDER has a Whisper in CTranslate2's format. Needs faster-whisper, fastapi, uvicorn and
python-multipart. As in `tynda serve`, ``--workers`` recordings are transcribed at the same time
with ``--threads`` threads each, and the decoder is greedy at first, with the same temperatures.
"""

from __future__ import annotations

import argparse
import io
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Form
from faster_whisper import WhisperModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compute-type", default="float32")
    parser.add_argument("--beam-size", type=int, default=1)
    args = parser.parse_args()
    model = WhisperModel(
        args.folder,
        device="cpu",
        compute_type=args.compute_type,
        cpu_threads=args.threads,
        num_workers=args.workers,
    )
    app = FastAPI()

    @app.post("/v1/audio/transcriptions")
    def transcribe(
        file: Annotated[bytes, File()], model_name: Annotated[str, Form(alias="model")]
    ) -> dict[str, str]:
        segments, _ = model.transcribe(io.BytesIO(file), language="en", beam_size=args.beam_size)
        return {"text": "".join(segment.text for segment in segments).strip()}

    uvicorn.run(app, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
