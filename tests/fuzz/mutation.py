"""Damage files as a stranger or a disk would: bytes, and what they mean — JSON, archives, tensors, text."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

Mutator = Callable[[Random, bytes], bytes]

CODE = '__import__("pathlib").Path("executed").touch()'
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**64, 10**30, 1.5)
DIGITS, DEEP = "@digits@", "@deep@"  # what `json` cannot write: a number of 5,000 digits, a list 50,000 deep
TEXTS = (
    *(
        "",
        "a",
        "\0",
        "\ud800",
        "a" * 300,
        "../../etc/passwd",
        "/dev/zero",
        "~nobody-has-this-name/x",
        "nan",
        "inf",
        "-",
    ),
    *(
        "images",
        "self",
        "__class__",
        "forward",
        "torch.load",
        "node",
        "list",
        "1e999",
        "é" * 200,
        "\x1b[31m",
        "%s",
        "=",
    ),
    *(CODE, DIGITS, DEEP),
)
SPECIAL: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], {"node": 0}, {"list": [1]}, 1e308, -0.0)


def damaged(rng: Random, content: bytes) -> bytes:  # noqa: C901
    """Change some bytes, without a thought of what they are."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not changed:
            return rng.randbytes(rng.randrange(1, 64))
        start = rng.randrange(len(changed))
        end = min(len(changed), start + rng.choice((1, 2, 4, 8, 64, 1024)))
        kind = rng.randrange(8)
        if kind == 0:
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[start:end] = rng.randbytes(end - start)
        elif kind == 2:
            del changed[start:end]
        elif kind == 3:
            changed[start:start] = changed[start:end]
        elif kind == 4:
            form = rng.choice(("<H", "<I", "<Q", ">H", ">I"))
            size = struct.calcsize(form)
            number = rng.choice((0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 2 ** (8 * size - 1) - 1))
            changed[start : start + size] = struct.pack(form, number)
        elif kind == 5:
            del changed[start:]
        elif kind == 6:
            other = rng.randrange(len(changed))
            changed[start:end] = changed[other : other + end - start]
        else:
            changed[start:end] = bytes([rng.choice((0, 0x20, 0x7F, 0x80, 0xFF))]) * (end - start)
    return bytes(changed)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a nested value."""
    found, pending = [], [value]
    while pending:
        part = pending.pop()
        items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, inner in items:
            found.append((part, key))
            pending.append(inner)
    return found


def special(rng: Random) -> Any:
    """Return a value of its own: one that many places shared would come to hold itself, and grow without end."""
    return deepcopy(rng.choice(SPECIAL))


def changed_value(rng: Random, value: Any) -> Any:  # noqa: C901
    """Change some parts of a JSON value, in place where it can be."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        known = places(value)
        if not known:
            return special(rng)
        (container, key), (other, there) = rng.choice(known), rng.choice(known)
        kind = rng.randrange(8)
        if kind < 3:
            container[key] = special(rng)
        elif kind == 3:
            container[key] = json.loads(json.dumps(other[there]))
        elif kind == 4:
            del container[key]
        elif kind == 5 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = container[key]
        elif kind == 6 and isinstance(container, list):
            container.insert(key, json.loads(json.dumps(rng.choice(container))))
        elif type(container[key]) in (int, float):
            container[key] = rng.choice(
                (container[key] + 1, -container[key], container[key] * 2**20, rng.choice(NUMBERS))
            )
        else:
            container[key] = [container[key]]
    return value


def as_text(value: Any) -> bytes:
    text = json.dumps(value).replace(f'"{DIGITS}"', "9" * 5000).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)
    return text.encode()


def changed_json(rng: Random, content: bytes) -> bytes:
    """Change values of a JSON document, or its bytes."""
    if rng.random() < 0.15:
        return damaged(rng, content)
    return as_text(changed_value(rng, json.loads(content)))


def changed_lines(rng: Random, content: bytes) -> bytes:
    """Change one line of many JSON documents, and the checksum that stands behind one."""
    lines = content.splitlines(keepends=True)
    if lines[0].strip() == b"{":  # one document over many lines
        return changed_json(rng, content)
    place = rng.randrange(len(lines))
    text, tab, _ = lines[place].partition(b"\t")
    changed = changed_json(rng, text)
    checksum = hashlib.sha256(changed).hexdigest()[:16].encode() if tab else b""
    lines[place] = changed + tab + checksum + b"\n" * rng.randrange(2)
    return b"".join(lines)


def changed_text(rng: Random, content: bytes) -> bytes:
    """Change words, lines and bytes of a text."""
    if rng.random() < 0.3:
        return damaged(rng, content)
    separator = rng.choice((b"\n", b",", b"=", b" ", b'"', b":", b"<", b">"))
    parts = content.split(separator)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(parts))
        kind = rng.randrange(5)
        if kind == 0:
            parts[place] = str(rng.choice(SPECIAL)).encode(errors="surrogatepass")
        elif kind == 1:
            parts.insert(place, rng.choice(parts))
        elif kind == 2 and len(parts) > 1:
            del parts[place]
        elif kind == 3:
            parts[place] = rng.choice(
                (b"[" * 5000, b"9" * 5000, b'"', b"'''", b"{", b"\xff\xfe", b"\xef\xbb\xbf", b"&a;")
            )
        else:
            parts[place] = parts[rng.randrange(len(parts))]
    return separator.join(parts)


def changed_member(rng: Random, name: str, content: bytes) -> bytes:
    if name.endswith(".json") and rng.random() < 0.9:
        return changed_json(rng, content)
    return (changed_text if name.endswith((".xml", ".rels")) else damaged)(rng, content)


def changed_archive(rng: Random, content: bytes) -> bytes:  # noqa: C901
    """Change a member of a zip archive and pack it anew, or change its bytes."""
    if rng.random() < 0.25:
        return damaged(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    heavy = [place for place, (name, _) in enumerate(members) if name.endswith((".json", ".pkl", ".xml"))]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.choice(heavy) if heavy and rng.random() < 0.6 else rng.randrange(len(members))
        name, inner = members[place]
        kind = rng.randrange(10)
        if kind < 7:
            members[place] = (name, changed_member(rng, name, inner))
        elif kind == 7 and len(members) > 1:
            del members[place]
            heavy = []
        elif kind == 8:
            members[place] = (rng.choice(TEXTS).replace("\ud800", "") or "x", inner)
        else:
            members.append((name.rpartition("/")[0] + "/" + rng.choice(("a", "constants.pkl", "code/x.py")), inner))
    packed = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)  # the last take longest
    with zipfile.ZipFile(packed, "w", rng.choices(methods, (12, 4, 1, 1))[0]) as archive:
        for name, inner in members:
            archive.writestr(name, inner)
    whole = bytearray(packed.getvalue())
    if rng.random() < 0.2:  # sizes and methods in the headers
        at = whole.find(b"PK\x01\x02", rng.randrange(len(whole)))
        if at >= 0:
            whole[at + rng.randrange(4, 46)] = rng.randrange(256)
    return bytes(whole)


def changed_tensors(rng: Random, content: bytes) -> bytes:
    """Change the header of a safetensors file, its description of a network, or its bytes."""
    if rng.random() < 0.1:
        return damaged(rng, content)
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.get("__metadata__", {})
    inner = next((key for key in metadata if key.startswith("iqa_armor")), None)
    if inner and rng.random() < 0.8:
        metadata[inner] = as_text(changed_value(rng, json.loads(metadata[inner]))).decode()
        text = json.dumps(header).encode()
    else:
        text = as_text(changed_value(rng, header))
    if rng.random() < 0.1:
        data = damaged(rng, data)
    return struct.pack("<Q", len(text) if rng.random() < 0.98 else rng.choice((0, 2**40, 2**63))) + text + data


def changed_png(rng: Random, content: bytes) -> bytes:
    """Change a chunk of a PNG and its checksum, so that decoders look at it."""
    if rng.random() < 0.4:
        return damaged(rng, content)
    chunks, position = [], 8
    while position + 12 <= len(content):
        (size,) = struct.unpack(">I", content[position : position + 4])
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + size]))
        position += 12 + size
    place = rng.randrange(len(chunks))
    kind, data = chunks[place]
    if kind == b"IDAT" and rng.random() < 0.5:
        data = zlib.compress(damaged(rng, zlib.decompress(data)))
    else:
        data = damaged(rng, data)
    chunks[place] = (rng.choice((kind, kind, kind, b"tRNS", b"PLTE", b"zTXt", b"eXIf", b"iCCP", b"acTL")), data)
    if rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    made = bytearray(content[:8])
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return bytes(made)
