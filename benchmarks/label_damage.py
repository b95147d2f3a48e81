"""Pictures damaged in ten ways, for ``label_robustness.py``."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

WAYS = (
    "zero bytes",
    "wrong suffix",
    "truncated",
    "bomb",
    "no permission",
    "vanished",
    "folder",
    "text",
    "broken link",
    "unsupported format",
)


def damage(folder: Path, good: list[Path], each: int) -> dict[str, list[str]]:
    """Put ``each`` pictures of every way into a folder; return way → their keys.

    Args:
        folder: of the pictures.
        good: at least 2 × ``each`` pictures that can be read, not in the folder; they are copied.
        each: how many of each way. Those of "vanished" are sound until somebody deletes them; their names are the
            last in order.
    """
    made: dict[str, list[str]] = {way: [] for way in WAYS}
    for i in range(each):
        picture, other = good[2 * i].read_bytes(), good[2 * i + 1].read_bytes()
        names = {way: f"{way.replace(' ', '_')}_{i}.jpg" for way in WAYS}
        names["vanished"] = f"zz_{names['vanished']}"
        names["bomb"] = f"bomb_{i}.png"
        names["unsupported format"] = f"unsupported_format_{i}.heic"
        (folder / names["zero bytes"]).write_bytes(b"")
        (folder / names["wrong suffix"]).write_bytes(_archive(picture))
        (folder / names["truncated"]).write_bytes(picture[: len(picture) // (i + 2)])
        (folder / names["bomb"]).write_bytes(bomb(50_000 + 1_000 * i))
        (folder / names["no permission"]).write_bytes(other)
        (folder / names["no permission"]).chmod(0)
        (folder / names["vanished"]).write_bytes(other)
        (folder / names["folder"]).mkdir()
        (folder / names["text"]).write_text("404: this picture is not here\n" * (i + 1))
        (folder / names["broken link"]).symlink_to(folder / f"nowhere_{i}.jpg")
        (folder / names["unsupported format"]).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + picture)
        for way, name in names.items():
            made[way].append(f"{name}/" if way == "folder" else name)
    return made


def _archive(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("picture.jpg", data)
    return out.getvalue()


def bomb(side: int) -> bytes:
    """Return a PNG of a few bytes that unpacks to ``side`` × ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
