"""What people paste, made readable: encodings, colors, boxes, quotes, prefixes of logs; and which line is the error.

A paste holds a last error, and above it perhaps earlier errors, warnings and noise. `errors` finds where each begins,
`clean` takes away what terminals, browsers, mail and log collectors have added. Nothing here knows the catalogue.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import Any

LONGEST = 200_000
"""Characters that are looked at: an error stands at the end of a log, so of more the last ones."""

# ---- bytes to text ----------------------------------------------------------------------------------------------


def decode(data: bytes) -> str:
    """Text from bytes as files and pipes hold them: UTF-8 or UTF-16, with or without a byte order mark."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    sample = data[:4000]
    if len(sample) > 3 and sample[1::2].count(0) > 0.7 * len(sample[1::2]) and not sample[::2].count(0):
        return data.decode("utf-16-le", errors="replace")
    if len(sample) > 3 and sample[::2].count(0) > 0.7 * len(sample[::2]) and not sample[1::2].count(0):
        return data.decode("utf-16-be", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def is_binary(data: bytes) -> bool:
    """Whether these bytes are no text: a picture, weights, an archive."""
    sample = decode(data[:4000])
    strange = sum(c == "\ufffd" or (c < " " and c not in "\t\n\r\x0b\x0c\x1b\x08") for c in sample)
    return strange > 0.1 * len(sample) + 1


# ---- text to clean text -----------------------------------------------------------------------------------------

_ANSI = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|"
    r"\^\[\[[0-9;]*m|\[(?:\d{1,3};){0,4}\d{1,3}m"  # the escape shown as two characters, or lost in a copy
)
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\u00ad\ufeff\x00\x08"))
_STRAIGHT = {
    **str.maketrans("\u2018\u2019\u201c\u201d\u201e\u201a\u00a0\u3000", "''\"\"\"'  "),
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},  # ：（）＝ of Chinese and Japanese keyboards
}
_ENTITY = re.compile(r"&(?:#\d{1,6}|#[xX][0-9a-fA-F]{1,5}|amp|lt|gt|quot|apos|nbsp);")
_TAG = re.compile(
    r"</?(?:code|pre|span|div|p|br|b|i|u|em|strong|a|td|tr|th|table|tbody|font|li|ul|ol|blockquote|samp|kbd|tt|hr|"
    r"details|summary|body|html)(?:\s[^<>]{0,300})?/?>",
    re.I,
)
_ESCAPED = re.compile(r"(?:Traceback \(most recent call last\)|\b\w*(?:Error|Exception)\b)[^\n]{0,3000}?\\n")
_BORDER = re.compile(r"^[\s│┃║|]*[╭╰┌└╔╚┏┗├╞+][─━═╌-]+(.{0,200}?)[─━═╌-]*[╮╯┐┘╗╝┓┛┤╡+]?[\s│┃║|]*$")
_SIDES = re.compile(r"^\s{0,8}[│┃║▌▏] ?(.*?)\s*[│┃║▐▕]?\s*$")
_SOFT = re.compile(r"(?<![=!<>\s])=\r?\n")
_CONTINUED = re.compile(r"(?<=\S)[\\↵⏎]$")  # where a line goes on, as editors and terminals mark it
_CELL = re.compile(r"^\s{0,8}\| ?(.*?)\s*\|\s*$")
_QUOTES = re.compile(r"^\s{0,8}(?:[>|] ?)+(?![\w/]+\.py\b)")
_PYTEST = re.compile(r"^E   (?= )\s*|^E   ")
_STAMP = (
    r"\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?\]?:? ?",
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) {1,2}\d{1,2} \d\d:\d\d:\d\d [\w.-]{1,60} "
    r"[\w./-]{1,60}(?:\[\d+\])?: ",
    r"[EWIDF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]{1,80}:\d+\] ?",
    r"\[?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?\]?:? ",
)
_PREFIXES = re.compile(
    "|".join(
        (
            *_STAMP,
            r"[\w./-]{1,50} *\| ",  # docker compose
            r"\[(?:rank|gpu|worker|node|proc|pid|stderr|stdout|err|out|\d)[\w: -]{0,30}\]:? ?",
            r"\([\w ]{1,40} pid=\d+[^()]{0,60}\) ?",  # ray
            r"(?:stderr|stdout|F|stderr F|stdout F): ?",
            r"(?:ERROR|WARNING|INFO|DEBUG|CRITICAL):[\w.]{1,60}:",  # logging.basicConfig
        )
    )
)
_LEVEL = re.compile(r"(?:- )?\[?(?:ERROR|WARNING|WARN|INFO|DEBUG|CRITICAL|FATAL|stderr|stdout)\]?(?: [FP])?:?(?: -)? ")
_LOGGER = re.compile(r"(?:\[[\w.:-]{1,60}\]|[\w.]{1,60}(?: -|:\d+ -|:\d+:)) ")


def clean(text: str) -> str:
    """A paste without what was added on its way: one clean line for each line of the original.

    Args:
        text: as pasted; of a long one the last `LONGEST` characters are taken.
    """
    text = text[-LONGEST:]
    if text.count("\x00") > len(text) // 4:  # UTF-16 that was read as something else
        text = text.replace("\x00", "").lstrip("\ufffdÿþ")
    text = _from_json(text)
    if _ESCAPED.search(text):
        text = _unescape(text)
    if len(_SOFT.findall(text)) > 1:  # a mail in quoted-printable
        text = _SOFT.sub("", text).replace("=3D", "=").replace("=20", " ").replace("=27", "'")
    text = _ANSI.sub("", text)
    if _ENTITY.search(text):
        text = html.unescape(html.unescape(text))
    if "</" in text or "<br" in text:
        text = _TAG.sub(lambda tag: "\n" if re.match(r"</?(?:br|p|div|tr|li|pre)\b", tag[0], re.I) else "", text)
    text = text.translate(_INVISIBLE).translate(_STRAIGHT)
    lines = [_line(line) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return "\n".join(_without_common_prefix(lines))


def _line(line: str) -> str:
    """One line without borders of boxes, quotes, and the prefixes of loggers and log collectors."""
    if len(line) > 20_000:
        return line
    border = _BORDER.match(line)
    if border:
        return border[1].strip(" ─━═╌-")
    sides = _SIDES.match(line) or _CELL.match(line)
    if sides:
        line = sides[1]
    line = _QUOTES.sub("", line)
    line = _CONTINUED.sub("", _PYTEST.sub("", line))
    for _ in range(5):
        prefix = _PREFIXES.match(line)
        if not prefix:
            break
        line = line[prefix.end() :]
        stamped = any(re.match(stamp, prefix[0]) for stamp in _STAMP)
        for more in (_LOGGER, _LEVEL, _LOGGER) if stamped else (_LEVEL,):
            follows = more.match(line)
            if follows and not _HEADER.match(line):
                line = line[follows.end() :]
    return line


def _without_common_prefix(lines: list[str]) -> list[str]:
    """Take away what stands before every line, numbers aside, such as a name of a host and a count."""
    told = [re.sub(r"\d", "0", line) for line in lines if line.strip()]
    if len(told) < 2:
        return lines
    first, last = min(told), max(told)
    common = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    prefix = re.match(r"(.*[|\]>:] ?)", first[:common])
    if not prefix or common > 120 or re.search(r"Error|Exception|Warning|File|Traceback", prefix[1]):
        return lines
    return [line[prefix.end() :] if line.strip() else line for line in lines]


def _from_json(text: str) -> str:
    """The traceback in VS Code's copied error, in a notebook, or in lines of a log in JSON; else the text itself."""
    stripped = text.strip()
    if not stripped.startswith("{"):
        return text
    try:
        return _told(json.loads(stripped)) or text
    except (ValueError, RecursionError):
        pass
    lines = []
    for line in stripped.splitlines():
        try:
            lines.append((_told(json.loads(line)) if line.startswith("{") else "") or line)
        except (ValueError, RecursionError):
            lines.append(line)
    return "\n".join(lines)


def _told(data: Any) -> str:
    """The text in JSON that says what went wrong: a notebook's outputs, a traceback, a field of a log; "" if none."""
    if not isinstance(data, dict):
        return ""
    if isinstance(data.get("cells"), list):  # a notebook: all that its cells printed and raised, in order
        outputs = [o for cell in data["cells"] if isinstance(cell, dict) for o in cell.get("outputs", []) or []]
        return "\n".join(_told(output) for output in outputs if isinstance(output, dict))
    if isinstance(data.get("traceback"), list):
        return "\n".join(map(str, data["traceback"]))
    for key in ("stack", "exc_info", "exception", "traceback", "log", "msg", "message", "text"):
        value = data.get(key)
        if isinstance(value, list):
            value = "".join(map(str, value))
        if isinstance(value, str) and value.strip():
            name, message = data.get("name"), data.get("message")
            whole = key == "stack" and isinstance(name, str) and isinstance(message, str)
            return f"{value}\n{name}: {message}" if whole and message not in value else value
    return ""


def _unescape(text: str) -> str:
    for written, meant in ((r"\r\n", "\n"), (r"\n", "\n"), (r"\"", '"'), (r"\t", "\t"), (r"\u001b", "\x1b"),
                           (r"\x1b", "\x1b"), (r"\033", "\x1b"), (r"\'", "'")):  # fmt: skip
        text = text.replace(written, meant)
    return text


# ---- which line is the error ------------------------------------------------------------------------------------

SPEAKER = r"(?:sana-lab|python -m sana_lab[\w.]*)"
"""The programs of ours that write their name before what went wrong, as a pattern; see `sana_lab.commandline`."""

_NAME = r"(?:[A-Za-z_]\w*\.)*[A-Z]?\w*(?:Error|Exception|Interrupt|NotFound|Refused|Unavailable|NotReady|NotYet)"
_HEADER = re.compile(
    rf"(?P<name>{_NAME})(?: \(note: [^)]{{0,80}}\))?: +(?=\S)|(?P<own>{SPEAKER}): |(?P<pip>ERROR|error): (?=\S)|"
    r"(?P<comfy>!!! Exception during processing!? ?!!!) ?|(?P<crash>Fatal Python error|Segmentation fault|"
    r"terminate called after throwing|Aborted \(core dumped\)|Killed\b(?! [a-z])|Illegal instruction)"
)
_INSIDE = re.compile(rf"""(?:^|[\s"'\]|>(,;}}%)*-])(?P<name>{_NAME}): +(?=\S)""")
_BARE = re.compile(rf"^(?:{_NAME})$")
_UNUSUAL = re.compile(r"^(?P<name>(?:[a-z_]\w*\.)+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*): (?=\S)")
_FRAME = re.compile(
    r"""^\s*(?:File ["']?.{1,300}?["']?(?:, line|:)\s?\d+|-+> ?\d+ |❱ ?\d+ |\S+\.py in \w|\S+\.py:\d+ in )|^\s{4,}at """
)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
_CHAIN = re.compile(r"^\s*(?:During handling of the above exception, another exception occurred|"
                    r"The above exception was the direct cause of the following exception):?\s*$")  # fmt: skip
_NOT_HEADERS = re.compile(r"^\s*(?:except\b|raise\b|-+> ?\d+ +raise|\d+ +raise|#)|\b(?:raise|except) ")
_IGNORED = re.compile(r"^Exception ignored in")
_ECHOES = re.compile(
    r"^(?:[\w.]*ChildFailedError|subprocess\.CalledProcessError|CalledProcessError|SystemExit|[\w.]*ProcessExitedException)"
)


@dataclass(frozen=True)
class Raised:
    """An error in a paste.

    Attributes:
        name: class as printed, `""` where the paste has none.
        message: its lines, up to the next error or the end of the paste.
        frames: the traceback that leads to it, and all else since the error before.
        line: number of its first line in the clean text, counted from 0.
        caused: whether the next error was raised from this one.
        echo: whether it only says that another program failed.
    """

    name: str
    message: str
    frames: str
    line: int
    caused: bool = False
    echo: bool = False

    @property
    def headline(self) -> str:
        """Its first line, not longer than a line should be."""
        words = " ".join(self.message.split("\n", 2)[0].split())
        return words if len(words) <= 160 else words[:157].rstrip() + "\u2026"


def errors(text: str) -> list[Raised]:
    """All errors in a clean text, in order; the last is the one that is asked about.

    Empty where no line says that it is one: then the text is a message without its class, a log, or something else.
    """
    lines = text.split("\n")
    heads: list[tuple[int, str, bool]] = []
    framed = ignored = False
    for number, line in enumerate(lines):
        if _TRACEBACK.search(line):
            framed = True
            continue
        if _IGNORED.match(line):
            ignored = True
        if _CHAIN.match(line):
            framed = ignored = False
            heads.append((number, "", False))
            continue
        if _FRAME.match(line):
            framed = True
            continue
        name = _head(line, framed)
        if name is not None:
            heads.append((number, name, ignored))
            framed = ignored = False
    return _built(lines, heads)


def _head(line: str, framed: bool) -> str | None:
    """The class of the error that begins in this line, None if none does; `framed`: a traceback stands above it."""
    if len(line) > 20_000 or _NOT_HEADERS.search(line):
        return None
    short = line.strip()
    found = _HEADER.match(short)
    if found:
        return found["name"] or ("sana-lab" if found["own"] else "")
    if _BARE.match(line.rstrip()) and (framed or line.strip() in ("KeyboardInterrupt", "AssertionError")):
        return line.strip()
    if framed and not line.startswith(" "):
        unusual = _UNUSUAL.match(line)
        if unusual and not unusual["name"].endswith("Warning"):
            return unusual["name"]
    inside = _INSIDE.search(line)
    return inside["name"] if inside else None


def _built(lines: list[str], heads: list[tuple[int, str, bool]]) -> list[Raised]:
    found: list[Raised] = []
    begin = 0
    for index, (number, name, ignored) in enumerate(heads):
        after = heads[index + 1][0] if index + 1 < len(heads) else len(lines)
        chain = _CHAIN.match(lines[number])
        if chain:
            begin = number + 1
            if index + 1 < len(heads) and not _CHAIN.match(lines[heads[index + 1][0]]):
                continue  # the error that follows has a line of its own
        stops = (n for n in range(number + 1, after) if _TRACEBACK.search(lines[n]) or _IGNORED.match(lines[n]))
        end = after if chain else next(stops, after)
        start = number + 1 if chain else number
        message = "\n".join(lines[start:end]).strip()
        if not message:
            continue
        caused = after < len(lines) and bool(_CHAIN.match(lines[after])) and "direct cause" in lines[after]
        echo = ignored or bool(_ECHOES.match(lines[number].strip()))
        found.append(Raised(name, message, "\n".join(lines[begin:start]), start, caused, echo))
        begin = end
    return found


def last(raised: list[Raised]) -> int | None:
    """Which error a paste is about: the last that is no echo of another; `None` where there is none."""
    own = [index for index, error in enumerate(raised) if not error.echo]
    return own[-1] if own else (len(raised) - 1 if raised else None)
