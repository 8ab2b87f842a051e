"""Documents, docstrings, comments and messages avoid a list of phrasings."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHRASES = (  # regular expressions for whole words; what to write instead
    r"told(?! apart)",  # reported, raised, logged; the observation includes the task
    r"whole numbers?|natural numbers?",  # integer, non-negative integer
    r"numbers? that (is|are) none",  # NaN or inf, non-finite
    r"(?<!there )(is|are) no (?!longer|more|less|better|faster|such)",  # is not, are not
    r"void",  # discarded; unstable
    r"sets? aside|setting aside",  # excluded, quarantined
    r"(goes|go|going|gone|went) on(?! to\b)|anew",  # continues, resumes; again, from scratch
    r"mend(s|ed|ing)?",  # fix
    r"so many(th)?",  # n, every n-th
    r"stands? (in|beside)",  # is in, is next to
    r"what (came|comes|becomes|became) of",  # result of
    r"pictures?",  # frame, rendering, figure
    r"processors?",  # CPU
    r"own words",  # message
    r"side by side",  # in parallel, concurrently
    r"meanwhile",  # inside the context, in between
    r"of ours",  # built-in
    r"shall",  # must, should
)
PATTERN = re.compile(rf"\b({'|'.join(PHRASES)})\b".replace(" ", "[ \n]"), re.IGNORECASE)
ALLOWED = {
    ("CHANGELOG.md", "void"),  # the former name
    ("maml_rl/analysis/video/grid.py", "side by side"),  # frames of a grid
    ("maml_rl/system/thread_pool.py", "processor"),  # its cache
}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a file, each with the number of its first line."""
    text = path.read_text()
    if path.suffix == ".md":
        yield 1, text
        return
    nodes = list(ast.walk(ast.parse(text)))
    if path.is_relative_to(ROOT / "tests"):  # docstrings only: other strings quote what is tested
        nodes = [node.value for node in nodes if isinstance(node, ast.Expr)]
    else:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def find(text: str) -> Iterator[tuple[int, str]]:
    """Yield the phrases in a text, each with the number of line breaks before it."""
    text = re.sub(r"[ \t>]*\n[ \t>]*", "\n", text)
    for match in PATTERN.finditer(text):
        yield text.count("\n", 0, match.start()), match[0].lower().replace("\n", " ").strip()


def test_phrases_are_found() -> None:
    text = "It is no file, so the task is set\n    aside. There\nis no other; it is no longer void."
    assert list(find(text)) == [(0, "is no"), (0, "set aside"), (2, "void")]


def test_text_is_plain() -> None:
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    for folder in ("maml_rl", "envs", "benchmarks", "examples", "tests"):
        paths.extend(ROOT.glob(f"{folder}/**/*.py"))
    report = [
        f"{path.relative_to(ROOT)}:{first_line + line}: {phrase}"
        for path in sorted(paths)
        for first_line, text in prose(path)
        for line, phrase in find(text)
        if (path.relative_to(ROOT).as_posix(), phrase) not in ALLOWED
    ]
    assert not report, "\n".join(["phrases to replace:", *report])


def test_lines_of_documents_have_at_most_100_columns() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            may_be_longer = line.startswith(("|", "![", "[![")) or "](http" in line
            assert len(line) <= 100 or may_be_longer, f"{path.name}:{number}"
