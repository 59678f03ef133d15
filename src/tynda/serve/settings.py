"""The settings of the server, declared once for its file, its environment and its flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tynda.checks import MAX_COUNT, Range, Rule, check, setting
from tynda.errors import TyndaError
from tynda.store import library

__all__ = ["ServeSettings"]

ADDRESS = "Address"
MODEL = "Model"
LIMITS = "Limits"
LIVE = "Live sessions"
ACCESS = "Access"
STORE = "Store of jobs"

Port = Annotated[int, Range(0, 65_535)]
Count = Annotated[int, Range(1, MAX_COUNT)]
Seconds = Annotated[float, Range(0, 1e6, above=True)]
Name = Annotated[str, Rule("a name that is not empty", lambda text: text.strip() != "")]


@dataclass(frozen=True)
class ServeSettings:
    """The settings of `tynda serve`. Raises `TyndaError` for invalid values."""

    host: Name = setting(
        "127.0.0.1",
        "Address on which HTTP and WebSockets are served; 0.0.0.0 is every network of this "
        "machine.",
        heading=ADDRESS,
        metavar="ADDRESS",
    )
    port: Port = setting(8000, "Port of HTTP and WebSockets; 0 is any free one.", heading=ADDRESS)
    wyoming_port: Port | None = setting(
        None,
        "Port of the Wyoming protocol, which is served only where this is given. The protocol has "
        "no keys: whoever reaches the port may use it.",
        heading=ADDRESS,
    )
    wyoming_host: Name = setting(
        "127.0.0.1", "Address of the Wyoming protocol.", heading=ADDRESS, metavar="ADDRESS"
    )
    tls_certificate: str = setting(
        "",
        "Certificate chain (PEM), with which HTTPS is served.",
        heading=ADDRESS,
        metavar="FILE",
    )
    tls_key: str = setting(
        "", "Private key of `tls_certificate` (PEM).", heading=ADDRESS, metavar="FILE"
    )
    model: Name = setting(
        library.DEFAULT, "Model that is served, as of transcribe.", heading=MODEL, metavar="MODEL"
    )
    aliases: str = setting(
        "whisper-1",
        "Further names, separated by commas, under which requests may ask for the model.",
        heading=MODEL,
        metavar="NAMES",
    )
    grammar: str = setting(
        "",
        "File of the grammar whose commands the web app recognises on the device (extra "
        "`commands`). Default: an example of a home.",
        heading=MODEL,
        metavar="FILE",
    )
    threads: Count | None = setting(
        None, "Number of threads of the model. Default: one for each processor.", heading=MODEL
    )
    unload_seconds: Annotated[float, Range(0, 1e6)] = setting(
        0.0,
        "Unload the model, and return its memory, when it was not used for this time; 0 keeps it.",
        heading=MODEL,
        metavar="SECONDS",
    )
    workers: Annotated[int, Range(1, 64)] = setting(
        2,
        "Number of recordings that are transcribed at the same time; as many further threads "
        "compute live sessions.",
        heading=LIMITS,
    )
    queue: Annotated[int, Range(0, 10_000)] = setting(
        16,
        "Number of further recordings that may wait; the next one is answered by 429.",
        heading=LIMITS,
    )
    max_upload: Annotated[float, Range(0.001, 2000)] = setting(
        25.0, "Maximum size of a recording.", heading=LIMITS, metavar="MB"
    )
    max_seconds: Seconds = setting(
        7200.0, "Maximum duration of a recording.", heading=LIMITS, metavar="SECONDS"
    )
    request_seconds: Seconds = setting(
        600.0,
        "Maximum time of a request, from its first byte to its last.",
        heading=LIMITS,
        metavar="SECONDS",
    )
    decode_seconds: Annotated[float, Range(1, 86_400)] = setting(
        300.0,
        "Maximum processor time of decoding a recording, in a process of its own.",
        heading=LIMITS,
        metavar="SECONDS",
    )
    decode_memory: Annotated[float, Range(0.1, 1000)] = setting(
        0.5,
        "Maximum memory of decoding a recording, beside its own size.",
        heading=LIMITS,
        metavar="GB",
    )
    shutdown_seconds: Annotated[float, Range(0, 3600)] = setting(
        30.0,
        "Time in which running requests may end after SIGTERM or Ctrl-C.",
        heading=LIMITS,
        metavar="SECONDS",
    )
    live_sessions: Count = setting(
        8, "Number of live sessions at the same time; the next one is refused.", heading=LIVE
    )
    live_seconds: Seconds = setting(
        14_400.0, "Maximum duration of a live session's audio.", heading=LIVE, metavar="SECONDS"
    )
    resume_seconds: Annotated[float, Range(0, 3600)] = setting(
        60.0,
        "Time for which a live session waits for its client after a dropped connection.",
        heading=LIVE,
        metavar="SECONDS",
    )
    data: str = setting(
        "",
        "Folder of the store. Default: serve in tynda's folder of the user's data.",
        heading=STORE,
        metavar="FOLDER",
    )
    database: str = setting(
        "",
        "URL of the store's database: postgresql://user@host/name (extra `postgresql`) or "
        "sqlite:///FILE. Default: SQLite in the folder `data`.",
        heading=STORE,
        metavar="URL",
    )
    recordings: str = setting(
        "",
        "Folder of the recordings, or a URL of fsspec such as s3://bucket/folder. Default: "
        "recordings in the folder `data`.",
        heading=STORE,
        metavar="FOLDER",
    )
    master_key_file: str = setting(
        "",
        "File of the master key, which is created with the store. Default: serve-master.key in "
        "tynda's folder of the user's configuration.",
        heading=STORE,
        metavar="FILE",
    )
    master_key_command: str = setting(
        "",
        "Command that prints the master key, such as that of a key service; it is run once, "
        "without a shell.",
        heading=STORE,
        metavar="COMMAND",
    )
    keep_days: Annotated[float, Range(0, 36_500)] = setting(
        7.0,
        "Number of days after which a recording and its texts are deleted, once its job has "
        "finished; 0 keeps them.",
        heading=STORE,
    )
    keep_consented_days: Annotated[float, Range(0, 36_500)] = setting(
        365.0,
        "The same for recordings from which models may learn.",
        heading=STORE,
    )
    job_workers: Annotated[int, Range(1, 64)] = setting(
        1, "Number of jobs that are transcribed at the same time.", heading=STORE
    )
    max_jobs: Annotated[int, Range(1, 1_000_000)] = setting(
        100,
        "Number of jobs of one user that may wait; the next one is answered by 429.",
        heading=STORE,
    )
    job_seconds: Seconds = setting(
        21_600.0, "Maximum time of a job, once it runs.", heading=STORE, metavar="SECONDS"
    )
    job_attempts: Annotated[int, Range(1, 1_000_000)] = setting(
        10,
        "Number of times that a job is begun whose server dies each time; then it fails.",
        heading=STORE,
    )
    lease_seconds: Annotated[float, Range(1, 3600)] = setting(
        60.0,
        "Time after which another server begins a job again, where the one that runs it has died.",
        heading=STORE,
        metavar="SECONDS",
    )
    keys_file: str = setting(
        "",
        "File of the API keys. Default: serve-keys.json in tynda's folder of the user's "
        "configuration.",
        heading=ACCESS,
        metavar="FILE",
    )
    cors: str = setting(
        "",
        "Origins, separated by commas, whose web pages may call the server; none by default.",
        heading=ACCESS,
        metavar="ORIGINS",
    )
    docs: bool = setting(
        False,
        "Serve /docs, a page with which a browser tries the interface. The browser loads the page "
        "from a network of others (jsdelivr); /openapi.json is always served.",
        heading=ACCESS,
    )

    def __post_init__(self) -> None:
        check(self)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise TyndaError("tls_certificate and tls_key belong together: give both, or none")

    @property
    def max_bytes(self) -> int:
        """Maximum number of bytes of a recording."""
        return round(self.max_upload * 1e6)
