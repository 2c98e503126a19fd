"""PNG files whose texts or colour profile Pillow refuses, without these: metadata costs no picture."""

from __future__ import annotations

import zlib

from PIL import PngImagePlugin

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def lighter_png(data: bytes) -> bytes:
    """A PNG without the texts and colour profiles that Pillow refuses it for: too large, or damaged. Others as given.

    None of them is of use here, but for the orientation that a text of usual size may have.
    """
    if not data.startswith(_PNG):
        return data
    kept, total, at, lost = [_PNG], 0, len(_PNG), False
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in _TEXTS:
            size = _inflated(data[at:end])
            total += size or 0
            if size is None or total > PngImagePlugin.MAX_TEXT_MEMORY:
                total -= size or 0
                lost, at = True, end
                continue
        kept.append(data[at:end])
        at = end
    return b"".join(kept) if lost else data


def _inflated(chunk: bytes) -> int | None:
    """Bytes of a text's or profile's content; None where it is damaged, or longer than Pillow takes."""
    kind, body = chunk[4:8], chunk[8:-4]
    if zlib.crc32(chunk[4:-4]).to_bytes(4, "big") != chunk[-4:]:
        return None
    rest = body.partition(b"\0")[2]
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        packed, rest = kind != b"tEXt", rest[1:] if kind != b"tEXt" else rest
    if not packed:
        return len(rest)
    try:
        inflater = zlib.decompressobj()
        content = inflater.decompress(rest, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else len(content)
