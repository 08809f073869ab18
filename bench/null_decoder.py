"""A decoder that opens nothing: every job is done at once and its slot stays as it is.

With it the whole pipeline runs (admission, lanes, links, groups, batches, deadlines, replies), and the cost
of nsfwd itself is measured. Started as ``python -m bench.null_decoder serve ...``, a server has these decoders.
"""

from __future__ import annotations

import sys

from nsfwd.imaging import decoder
from nsfwd.ipc import child_messages


class NullDecoder(decoder.Decoder):
    """Answers every job like a decoder that needs no time."""

    def do(self, job: child_messages.Job, descriptor: int | None) -> child_messages.Decoded:
        """Say that the pixels are there."""
        return child_messages.Decoded(job.number, job.slot, job.lease_id, "", "", 1e-6, 64, 64, "jpeg")


def _serve() -> None:
    from nsfwd.cli.main import main
    from nsfwd.pipeline.decode import decoder_pool

    decoder_pool.DECODER = __spec__.name  # what the server starts as its decoders
    main()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        _serve()
    else:
        decoder.Decoder = NullDecoder  # type: ignore[misc]
        decoder.main()
