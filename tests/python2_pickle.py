"""Pickles as Python 2 wrote them, such as the batches of CIFAR-10."""

import io
import pickle
import struct
from typing import ClassVar


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2 did."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_python2_text(self, value):
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_python2_text


def dump_python2_pickle(value: object) -> bytes:
    """Returns the pickle of a value, its texts as Python 2's."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()
