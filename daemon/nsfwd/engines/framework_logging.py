"""Keeps frameworks quiet: no chatter on any stream, and nobody is told that they are used.

Must run before any framework is imported. ``import openvino`` alone reports to its makers where the package
``openvino_telemetry`` can be imported; where it cannot, OpenVINO uses a stub of its own. A daemon that looks at
people's pictures calls nobody.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from nsfwd.errors import NsfwdError

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_CPP_MAX_VLOG_LEVEL": "0",
    "GRPC_VERBOSITY": "ERROR",
    "GLOG_minloglevel": "3",
    "ABSL_MIN_LOG_LEVEL": "3",
    "KERAS_HOME": f"{os.devnull}/keras",
}
"""Variables of frameworks. Keras would make ``~/.keras`` or ``/tmp/.keras`` and read a ``keras.json`` there, which may
be anybody's and changes how Keras computes. Below a device nothing can be read or made."""


def silence() -> None:
    """Silence TensorFlow, absl, Keras and OpenVINO in this process and its children. Idempotent.

    Keras runs on TensorFlow unless an engine says otherwise, whatever back end the caller's own work has set.
    """
    os.environ.update(ENVIRONMENT)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.dont_write_bytecode = True  # TensorFlow imports programs that it makes, and would leave theirs in /tmp
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: its import fails
    for name in ("tensorflow", "absl", "jax", "keras"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


@contextmanager
def muted() -> Iterator[None]:
    """Hold back what native code and children write to both standard streams, and let it out only after a surprise.

    For imports and loading: TensorFlow greets from C++ before any setting reaches it. An error of our own says all in
    one line; after any other the chatter may hold the cause, so it goes to standard error.
    """
    silence()
    _flush()
    with ExitStack() as stack:
        held = os.memfd_create("nsfwd-chatter")
        stack.callback(os.close, held)
        real: dict[int, int] = {}
        for stream in (1, 2):
            real[stream] = os.dup(stream)
            stack.callback(_put_back, real[stream], stream)
            os.dup2(held, stream)
        stack.callback(_flush)
        try:
            yield
        except NsfwdError:
            raise
        except BaseException:
            sys.stderr.flush()
            os.lseek(held, 0, os.SEEK_SET)
            with open(held, "rb", closefd=False) as chatter, open(real[2], "wb", closefd=False) as stderr:
                shutil.copyfileobj(chatter, stderr)
            raise


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _put_back(kept: int, stream: int) -> None:
    os.dup2(kept, stream)
    os.close(kept)
