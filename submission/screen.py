"""What a terminal would show of a program's output."""

import re

from submission.notebook import MAX_TEXT

# "100%|████| 5/5 [00:00<00:00, 9.1it/s]", also with a label before it.
PROGRESS_BAR = re.compile(r".*\d+%\|.*\| \S+/\S+ \[.*\]\s*|\s*")


class Screen:
    r"""What a terminal would show of a stream with its ``\r`` and cursor.

    Progress bars redraw themselves thousands of times; only what stays
    visible in the end belongs into the notebook.
    """

    TOKEN = re.compile(
        r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
        r"|[\r\n\b]|[^\r\n\b\x1b]+|."
    )

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = self.size = self.left_out = 0

    def feed(self, text: str) -> None:
        """Print more text."""
        if self.size > MAX_TEXT:
            self.left_out += len(text)
            return
        if len(text) > MAX_TEXT:
            self.left_out += len(text) - MAX_TEXT
            text = text[:MAX_TEXT]
        for token in self.TOKEN.finditer(text):
            self._print(token)
        self.size = sum(map(len, self.lines))

    def _print(self, token: re.Match[str]) -> None:
        text = token[0]
        if text == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.lines):
                self.lines.append("")
        elif text == "\r":
            self.column = 0
        elif text == "\b":
            self.column = max(self.column - 1, 0)
        elif token[2] == "A":
            self.row = max(self.row - int(token[1] or 1), 0)
        elif token[2] == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif not text.startswith("\x1b"):
            line = self.lines[self.row].ljust(self.column)
            end = self.column + len(text)
            self.lines[self.row] = line[: self.column] + text + line[end:]
            self.column = end

    def text(self) -> str:
        """Everything visible; '' if that is only finished progress bars."""
        text = "\n".join(line.rstrip(" ") for line in self.lines)
        if self.left_out:
            text += f"\n[… {self.left_out:,} characters left out here …]\n"
        if all(
            len(line) < 300 and PROGRESS_BAR.fullmatch(line)
            for line in self.lines
        ):
            return ""
        return text
