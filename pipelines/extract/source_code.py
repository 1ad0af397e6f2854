"""What is worth knowing of a source file before it is learned from: how it came to be, and its licence."""

import re
from pathlib import PurePosixPath

from schemas.code import DATA

_HEADER_LINES = 40
_HEADER = 4_000  # characters
_LONG_LINE = 1_000  # nobody writes lines of that many characters
_MEAN_LINE = {"JavaScript": 110, "CSS": 110, "TypeScript": 160}  # a longer mean is the work of a machine
_MEAN_LINE_OTHERS = 200
_LETTERS = 0.25  # a smaller share of letters is a table of numbers

_GENERATED_TEXT = re.compile(
    r"@generated\b|<auto-?generated|\bgenerated\b[^\n]{0,120}\bdo not (?:edit|modify|change)"
    r"|\bdo not (?:edit|modify|change)\b[^\n]{0,120}\bgenerated\b|\bauto-?\s?generated (?:by|from|file|code|using)\b"
    r"|\b(?:file|code|source|class|module) (?:is|was|has been) (?:automatically |auto-?|machine[ -])?generated\b"
    r"|^\W{0,20}(?:automatically |auto-?|machine[ -])?generated (?:by|from|with|using|on|at)\b"
    r"|\bautomatically generated (?:by|from)\b|\ba bison parser, made by\b"
    r"|^\W{0,20}do not edit (?:this file|by hand|manual)",
    re.I | re.M,
)
_GENERATED_NAME = re.compile(
    r"(?:\.pb\.(?:go|cc|h|dart|swift)|_pb2(?:_grpc)?\.pyi?|\.designer\.(?:cs|vb)|\.(?:g|freezed|gr)\.dart|\.g\.cs"
    r"|[._]generated\.\w+|\.(?:js|css)\.map|\.tab\.[ch]|\.nib|\.xcworkspacedata|\.pbxproj|(?:^|/)zz_generated[^/]*"
    r"|(?:^|/)bindata\.go|(?:^|/)r\.java|_rc\.py|\.snap)$",
    re.I,
)
_SOURCE_MAP = re.compile(r"^//[#@] sourceMappingURL=", re.M)
_MINIFIED_NAME = re.compile(r"[.-]min\.\w+$|\.bundle\.js$", re.I)
_VENDORED = re.compile(
    r"(?:^|/)(?:node_modules|bower_components|vendors?|third[-_]?party|3rd[-_]?party|godeps|pods"
    r"|carthage|site-packages|dist-packages|_deps|\.yarn|\.venv|venv)/"
    r"|(?:^|/)(?:jquery|bootstrap|angular|react|vue|prototype|mootools|d3|modernizr|underscore|lodash|backbone|three)"
    r"(?:[.-](?:v?\d[\w.]*|min|slim|core|ui))*\.(?:js|css)$|(?:^|/)(?:gradlew(?:\.bat)?|mvnw(?:\.cmd)?|configure|ltmain\.sh"
    r"|config\.(?:guess|sub)|install-sh|aclocal\.m4|depcomp|missing|compile|cpplint\.py|versioneer\.py|catch\.hpp)$",
    re.I,
)
_LOCKS = frozenset(
    "bun.lock bun.lockb cargo.lock composer.lock conan.lock deno.lock flake.lock gemfile.lock go.sum go.work.sum "
    "gradle.lockfile mix.lock npm-shrinkwrap.json package-lock.json package.resolved packages.lock.json pdm.lock "
    "pipfile.lock pixi.lock pnpm-lock.yaml podfile.lock poetry.lock pubspec.lock rebar.lock renv.lock uv.lock "
    "yarn.lock".split()
)
_NUMBERS = re.compile(r"(?:0x[0-9a-fA-F]+|[-+]?[0-9.]+(?:e[-+]?[0-9]+)?)[uUlLfF]{0,3}\s*[,;\s]")
_BLOB = re.compile(r"[A-Za-z0-9+/=]{1000}")


def is_lock(path: str) -> bool:
    """Whether a file only pins the versions of packages."""
    return PurePosixPath(path).name.lower() in _LOCKS


def is_vendored(path: str) -> bool:
    """Whether a path leads to other people's code, copied in."""
    return bool(_VENDORED.search(path))


def code_flags(path: str, text: str, language: str | None) -> list[str]:
    """What speaks against learning from a source file: any of data, generated, lock, minified and vendored, sorted.

    `generated` and `minified` by name, by what the beginning says and by the look of the lines; `data` is a table of
    numbers or a blob in the shape of code.
    """
    flags = set()
    if is_lock(path):
        flags.add("lock")
    if is_vendored(path):
        flags.add("vendored")
    header = "\n".join(text[:_HEADER].split("\n", _HEADER_LINES)[:_HEADER_LINES])
    if _GENERATED_NAME.search(path) or _GENERATED_TEXT.search(header):
        flags.add("generated")
    if language not in DATA:
        lines = [len(line) for line in text.split("\n") if line and not line.isspace()]
        longest = sum(length for length in lines if length > _LONG_LINE)
        mean = len(text) / max(1, len(lines))
        blob = _BLOB.search(text)
        if not blob and (
            _MINIFIED_NAME.search(path)
            or (mean > _MEAN_LINE.get(language or "", _MEAN_LINE_OTHERS) and len(text) > 400)
            or (longest > len(text) / 2)
        ):
            flags.add("minified")
        if language == "JavaScript" and _SOURCE_MAP.search(text[-_HEADER:]) and "minified" not in flags:
            flags.add("generated")
        if blob or (len(text) > 2_000 and _is_table(text)):
            flags.add("data")
    return sorted(flags)


def _is_table(text: str) -> bool:
    """Whether a text is numbers: of its characters few are letters, or most belong to lists of numbers."""
    sample = text[:200_000]
    if sum(map(str.isalpha, sample)) < _LETTERS * (len(sample) - sum(map(str.isspace, sample))):
        return True
    return sum(len(match[0]) for match in _NUMBERS.finditer(sample)) > len(sample) / 2
