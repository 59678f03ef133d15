"""A PostgreSQL server for the tests, from Debian's packages, in a temporary folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def programs():
    """Return the folder of PostgreSQL's programs, or None."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        folders.append(Path(found).parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextmanager
def server():
    """Run a server on a Unix socket until the block ends; yield a function that makes databases
    and returns their URLs."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: the extra postgresql has it")
    about = pwd.getpwuid(os.getuid())
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        about = pwd.getpwnam("postgres")
    as_user = {"user": about.pw_uid, "group": about.pw_gid} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg-") as base:
        os.chmod(base, 0o755)
        data = Path(base) / "data"
        data.mkdir(mode=0o700)
        os.chown(data, about.pw_uid, about.pw_gid)

        def run(program, *args):
            command = [str(folder / program), *args]
            subprocess.run(command, check=True, cwd=data, stdout=subprocess.DEVNULL, **as_user)

        run("initdb", "-D", str(data), "-U", "tynda", "-A", "trust", "--no-sync")
        options = f"-k {data} -c listen_addresses= -c fsync=off -c max_connections=200"
        run("pg_ctl", "-D", str(data), "-w", "-l", str(data / "log"), "-o", options, "start")

        def database():
            name = f"t{uuid.uuid4().hex}"
            import psycopg

            address = f"host={data} user=tynda dbname=postgres"
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return f"postgresql://tynda@/{name}?host={data}"

        try:
            yield database
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
