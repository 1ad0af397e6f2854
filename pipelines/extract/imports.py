"""Which files of a repository import which others, and an order in which imported files come first.

Imports are read with one pattern a language and resolved by name among the files at hand; whatever leads out of the
repository, or to more than a name can tell, is no edge. The order needs to be useful to a reader, not to a linker.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

_READ = 100_000  # characters of a file in which imports are looked for
_IMPORTS = 300  # of one file that count
_SAME_NAME = 5_000  # files of one name that are compared
_ROOTS = ("", "src", "lib", "include", "source", "src/main/java", "src/main/kotlin", "src/main/scala", "app")

# How a language writes an import: a path beside the file or below a root of the tree, or a name with separators that
# becomes one. The endings are tried in this order.
_Kind = Literal["path", "name"]
_RULES: dict[str, tuple[_Kind, str, tuple[str, ...], str]] = {
    "C": ("path", "", ("",), r"^[ \t]*#[ \t]*(?:include|import)[ \t]*[\"<]([^\">\n]{1,200})[\">]"),
    "CSS": (
        "path",
        "",
        ("", ".css", ".scss", ".less"),
        r"^[ \t]*@(?:import|use)[ \t]+(?:url\()?[\"']([^\"'\n]{1,200})",
    ),
    "Crystal": ("path", "", ("", ".cr"), r"^[ \t]*require[ \t]+\"([^\"\n]{1,200})\""),
    "Dart": (
        "path",
        "",
        ("",),
        r"^[ \t]*(?:import|export|part)[ \t]+['\"](?:package:[^/\n]{1,80}/)?([^'\":\n]{1,200})",
    ),
    "Elixir": ("name", ".", (".ex", ".exs"), r"^[ \t]*(?:alias|import|use|require)[ \t]+([A-Z][\w.]{0,200})"),
    "Erlang": ("path", "", ("",), r"^-include(?:_lib)?\([ \t]*\"([^\"\n]{1,200})\""),
    "Fortran": ("name", ".", (".f90", ".f", ".F90"), r"^[ \t]*[uU][sS][eE][ \t]+(?:::[ \t]*)?(\w{1,80})"),
    "Haskell": ("name", ".", (".hs",), r"^import[ \t]+(?:qualified[ \t]+)?([A-Z][\w.']{0,200})"),
    "Java": ("name", ".", (".java", ".kt", ".scala"), r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]{3,200})"),
    "JavaScript": (
        "path",
        "",
        ("", ".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs", ".vue", ".svelte", "/index.js", "/index.ts", "/index.tsx"),
        r"(?:\bfrom[ \t]*|\bimport[ \t]*\(?[ \t]*|\brequire\([ \t]*)[\"'](\.{1,2}/[^\"'\n]{1,200})[\"']",
    ),
    "Julia": ("path", "", ("",), r"^[ \t]*include\([ \t]*\"([^\"\n]{1,200})\""),
    "Lua": ("name", ".", (".lua", "/init.lua"), r"\brequire[ \t]*\(?[ \t]*[\"']([\w./-]{1,200})[\"']"),
    "Make": ("path", "", ("",), r"^-?include[ \t]+([^\s$]{1,200})"),
    "OCaml": ("name", ".", (".ml",), r"^[ \t]*open!?[ \t]+([A-Z]\w{0,80})"),
    "PHP": ("name", "\\", (".php",), r"^[ \t]*use[ \t]+(?:function[ \t]+)?\\?([\w\\]{3,200})"),
    "Perl": ("name", "::", (".pm",), r"^[ \t]*(?:use|require)[ \t]+([A-Z][\w:]{0,200})"),
    "Protocol Buffers": ("path", "", ("",), r"^[ \t]*import[ \t]+(?:public[ \t]+)?\"([^\"\n]{1,200})\""),
    "R": ("path", "", ("",), r"^[ \t]*source\([ \t]*[\"']([^\"'\n]{1,200})"),
    "Ruby": ("path", "", (".rb", ""), r"^[ \t]*require(?:_relative)?[ \t]*\(?[ \t]*['\"]([^'\"\n]{1,200})"),
    "Shell": ("path", "", ("",), r"^[ \t]*(?:\.|source)[ \t]+[\"']?(?:\$\{?\w+\}?/)?([\w./-]{1,200})"),
    "Solidity": ("path", "", ("",), r"^[ \t]*import[ \t]+(?:[^\"';\n]{0,200}\bfrom[ \t]+)?[\"']([^\"'\n]{1,200})"),
    "TeX": ("path", "", ("", ".tex", ".sty", ".cls"), r"\\(?:input|include|subfile|usepackage)\{([^}\n]{1,200})\}"),
    "Zig": ("path", "", ("",), r"@import\(\"([^\"\n]{1,200}\.zig)\"\)"),
}
_LIKE = {
    "C++": "C",
    "CUDA": "C",
    "GLSL": "C",
    "Groovy": "Java",
    "Kotlin": "Java",
    "Objective-C": "C",
    "Scala": "Java",
    "Svelte": "JavaScript",
    "TypeScript": "JavaScript",
    "Vue": "JavaScript",
}
_PATTERNS = {language: re.compile(rule[3], re.M) for language, rule in _RULES.items()}

_PYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.{0,9}[\w.]{0,200})[ \t]+import[ \t]*(\([^)]{0,2000}\)|[^\n#;]{1,500})"
    r"|import[ \t]+([\w., \t]{1,500}))",
    re.M,
)
_GO_BLOCK = re.compile(r"^import[ \t]*(?:\(([^()]{0,20000})\)|[\w.]*[ \t]*(\"[^\"\n]{1,200}\"))", re.M)
_QUOTED = re.compile(r"\"([^\"\n]{1,200})\"")
_GO_MODULE = re.compile(r"^module[ \t]+\"?([^\s\"]{1,200})", re.M)
_RUST = re.compile(r"^[ \t]*(?:pub(?:\([^)\n]{0,40}\))?[ \t]+)?(mod|use)[ \t]+([\w:]{1,200})[ \t]*([;:{,])?", re.M)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def imports(path: str, text: str, language: str | None) -> list[str]:
    """What a file imports, as it is written there or nearly so; `resolve` knows what it means."""
    text = text[:_READ]
    if posixpath.basename(path) == "go.mod":
        return [f"module {found[1]}"] if (found := _GO_MODULE.search(text)) else []
    language = _LIKE.get(language or "", language or "")
    if language == "Python":
        return list(dict.fromkeys(_python(text)))[:_IMPORTS]
    if language == "Go":
        blocks = (found[1] or found[2] for found in _GO_BLOCK.finditer(text))
        return list(dict.fromkeys(name for block in blocks for name in _QUOTED.findall(block)))[:_IMPORTS]
    if language == "Rust":
        found_all = (f"{kind} {name}" for kind, name, _ in _RUST.findall(text))
        return list(dict.fromkeys(found_all))[:_IMPORTS]
    if language in _PATTERNS:
        return list(dict.fromkeys(_PATTERNS[language].findall(text)))[:_IMPORTS]
    return []


def _python(text: str) -> Iterator[str]:
    for module, names, plain in _PYTHON.findall(text):
        for name in plain.split(","):
            if name.strip():
                yield name.split()[0]
        for name in names.strip("()").split(","):
            if words := name.split("#")[0].split():  # a module of that name, or something in the module before
                yield f"{module}{'' if module.endswith('.') else '.'}{words[0]}"


class _Tree:
    """The paths of a repository, found again by parts of them."""

    def __init__(self, files: Mapping[str, tuple[str | None, Sequence[str]]]) -> None:
        self.paths = set(files)
        self.known: dict[str, list[str]] = {}
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.go_packages: dict[str, list[str]] = defaultdict(list)
        for path in sorted(files):
            self.by_name[posixpath.basename(path)].append(path)
            if path.endswith(".go") and not path.endswith("_test.go"):
                self.go_packages[posixpath.dirname(path)].append(path)
        self.go_modules = {
            spec.removeprefix("module "): posixpath.dirname(path)
            for path, (_, specs) in sorted(files.items())
            if posixpath.basename(path) == "go.mod"
            for spec in specs
        }

    def tails(self, wanted: str) -> list[str]:
        """The paths that are `wanted` or end in it; of a name that is everywhere the first thousands."""
        if wanted not in self.known:
            same = self.by_name.get(posixpath.basename(wanted), [])[:_SAME_NAME]
            self.known[wanted] = [path for path in same if path == wanted or path.endswith("/" + wanted)]
        return self.known[wanted]

    def near(self, wanted: str, folder: str) -> str | None:
        """The file `wanted` below `folder` or the closest folder above it, or below a usual root of one."""
        wanted = posixpath.normpath(wanted)
        if not self.tails(wanted):  # most imports lead out of the repository
            return None
        while True:
            for root in _ROOTS:
                path = "/".join(part for part in (folder, root, wanted) if part)
                if path in self.paths:
                    return path
            if not folder:
                return None
            folder = posixpath.dirname(folder)

    def ending(self, wanted: str, folder: str) -> str | None:
        """The file whose path ends in `wanted`, which has more than one part; of several the nearest."""
        if "/" not in wanted:
            return None
        found = self.tails(wanted)
        return min(found, key=lambda path: (-len(posixpath.commonprefix([path, folder])), path), default=None)


def _targets(path: str, language: str | None, specs: Iterable[str], tree: _Tree) -> Iterator[str]:
    folder = posixpath.dirname(path)
    language = _LIKE.get(language or "", language or "")
    for spec in specs:
        found: str | None = None
        if language == "Python":
            found = _python_file(spec, folder, tree)
        elif language == "Go":
            for module, base in tree.go_modules.items():
                if spec == module or spec.startswith(module + "/"):
                    yield from tree.go_packages.get(posixpath.join(base, spec[len(module) + 1 :]).rstrip("/"), ())
        elif language == "Rust":
            found = _rust_file(spec, path, tree)
        elif language in _RULES:
            kind, separator, endings, _ = _RULES[language]
            found = (
                _at_path(spec, folder, endings, tree)
                if kind == "path"
                else _by_name(spec, language, separator, endings, folder, tree)
            )
        if found:
            yield found


def _at_path(spec: str, folder: str, endings: Iterable[str], tree: _Tree) -> str | None:
    beside = posixpath.normpath(posixpath.join(folder, spec))
    stem = re.sub(r"\.[cm]?jsx?$", "", beside)  # TypeScript names the file that its compiler will write
    for base in dict.fromkeys((beside, stem)):
        for ending in endings:
            if base + ending in tree.paths:
                return base + ending
    if spec.startswith("."):
        return None
    for ending in endings:
        if found := tree.near(spec + ending, folder) or tree.ending(posixpath.normpath(spec + ending), folder):
            return found
    return None


def _by_name(spec: str, language: str, separator: str, endings: Iterable[str], folder: str, tree: _Tree) -> str | None:
    parts = [part for part in spec.replace("/", separator).split(separator) if part and part != "*"]
    if language == "Elixir":
        parts = [_CAMEL.sub("_", part).lower() for part in parts]
    elif language == "OCaml":
        parts = [parts[0][0].lower() + parts[0][1:]] if parts else []
    # The last parts may name something inside the file, and the first ones a root that has another name on disk.
    for end in range(len(parts), max(0, len(parts) - 3), -1):
        for begin in range(2 if language == "PHP" else 1):
            wanted = "/".join(parts[begin:end])
            for ending in endings if wanted else ():
                if found := tree.near(wanted + ending, folder) or tree.ending(wanted + ending, folder):
                    return found
    return None


def _python_file(spec: str, folder: str, tree: _Tree) -> str | None:
    dots = len(spec) - len(spec.lstrip("."))
    parts = spec[dots:].split(".")
    for _ in range(dots - 1):
        folder = posixpath.dirname(folder)
    for end in range(len(parts), max(0, len(parts) - 2), -1):
        name = "/".join(parts[:end])
        for wanted in (f"{name}.py", f"{name}/__init__.py", f"{name}.pyi", f"{name}.pyx"):
            if dots:
                path = posixpath.join(folder, wanted)
                if path in tree.paths:
                    return path
            elif found := tree.near(wanted, folder) or tree.ending(wanted, folder):
                return found
    return (
        posixpath.join(folder, "__init__.py") if dots and posixpath.join(folder, "__init__.py") in tree.paths else None
    )


def _rust_file(spec: str, path: str, tree: _Tree) -> str | None:
    kind, _, name = spec.partition(" ")
    folder, stem = posixpath.dirname(path), posixpath.splitext(posixpath.basename(path))[0]
    inner = folder if stem in {"lib", "main", "mod"} else posixpath.join(folder, stem)
    if kind == "mod":
        candidates = [(inner, [name])]
    else:
        first, *parts = [part for part in name.split("::") if part]
        while first == "super" and parts:
            inner = posixpath.dirname(inner)
            first, *parts = ("self", *parts) if parts[0] != "super" else parts
        if first == "crate":
            inner = folder
            while inner and not {posixpath.join(inner, "lib.rs"), posixpath.join(inner, "main.rs")} & tree.paths:
                inner = posixpath.dirname(inner)
        elif first != "self":
            return None
        candidates = [(inner, parts[:end]) for end in range(len(parts), 0, -1)]
    for base, parts in candidates:
        for ending in (".rs", "/mod.rs"):
            if (found := posixpath.join(base, *parts) + ending) in tree.paths:
                return found
    return None


def edges(files: Mapping[str, tuple[str | None, Sequence[str]]]) -> dict[str, list[str]]:
    """Path -> the paths that it imports, sorted; `files` is path -> (language, imports)."""
    tree = _Tree(files)
    return {
        path: sorted(set(_targets(path, language, specs, tree)) - {path})
        for path, (language, specs) in sorted(files.items())
    }


def in_import_order(files: Mapping[str, tuple[str | None, Sequence[str]]], first: Iterable[str] = ()) -> list[str]:
    """All paths, those in `first` at the beginning; then alphabetically, each after the files that it imports.

    Where files import each other in a circle, the one that comes first in the alphabet is left with imports behind
    it. The order does not depend on the order of `files`.
    """
    graph = edges(files)
    order = [path for path in dict.fromkeys(first) if path in graph]
    done = set(order)
    for root in sorted(graph):
        stack = [(root, iter(graph[root]))] if root not in done else []
        entered = {root}
        while stack:
            path, rest = stack[-1]
            if (following := next((one for one in rest if one not in done and one not in entered), None)) is not None:
                entered.add(following)
                stack.append((following, iter(graph[following])))
            else:
                stack.pop()
                done.add(path)
                order.append(path)
    return list(dict.fromkeys(order))
