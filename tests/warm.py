"""A Python that has imported torch and the like already, which takes most of a short command's time.

`python tests/warm.py FOLDER` imports them, puts an executable `python` into FOLDER and serves it: that sends its
arguments, folder, environment and standard streams here, and a fork of this process does what it was called for. If the
executable is killed, the fork gets SIGTERM. `sys.executable` is that executable in there, so what snakemake or torchrun
starts is warm as well.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
code = server.recv(1)
sys.exit(code[0] if code else 70)
"""


def serve(folder: Path) -> None:
    """Says one line once it listens; ends with the process that started it."""
    import_slow_ones()
    address, client = folder / "socket", folder / "python"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    sys.executable = str(client)
    # What is imported stays: no fork need look through it for garbage.
    gc.freeze()
    print("warm", flush=True)
    # Nobody waits for the forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener.settimeout(5)
    starter = os.getppid()
    while os.getppid() == starter:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            answer(connection)
        connection.close()


def import_slow_ones() -> None:
    """Libraries alone: this repository's own modules are those of the folder in which a command runs."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import snakemake.cli  # noqa: F401
    import transformers.models.auto.modeling_auto
    import transformers.models.llama.modeling_llama
    import transformers.trainer  # noqa: F401
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # Compiles hundreds of patterns, which the first model to be loaded would.
    get_checkpoint_conversion_mapping("llama")


def answer(connection: socket.socket) -> None:
    """Run the command, send its exit code and end."""
    code = 1
    try:
        length, streams, *_ = socket.recv_fds(connection, 8, 3)
        asked = connection.makefile("rb").read(int.from_bytes(length, "big"))
        arguments, folder, environment = json.loads(asked)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        threading.Thread(target=end_with, args=[connection], daemon=True).start()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = run(arguments)
        # As Python's own end does.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        connection.send(bytes([code]))
        os._exit(code)


def end_with(connection: socket.socket) -> None:
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


def run(arguments: list[str]) -> int:
    """The exit code of `python [-u] script.py ...` or `python [-u] -m module ...`."""
    arguments = arguments[arguments[0] == "-u" :]
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    sys.path[0] = str(Path.cwd() if is_module else Path(arguments[0]).resolve().parent)
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(":"))
    try:
        if is_module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
