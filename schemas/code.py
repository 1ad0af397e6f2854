"""Which programming language a file is written in, by its name and, where that leaves it open, by its text.

The name of the language goes into a document's metadata under `code`; annotators read it there instead of
guessing a natural language for source code.
"""

import re
from functools import lru_cache
from pathlib import PurePosixPath

from schemas.code_look import look

_LANGUAGES = {
    "Ada": ".ada .adb .ads",
    "Agda": ".agda",
    "ANTLR": ".g4",
    "Apex": ".apex .trigger",
    "Assembly": ".asm .nasm .s",
    "Awk": ".awk",
    "Batch": ".bat",
    "C": ".c .h",
    "C#": ".cs .csx",
    "C++": ".c++ .cc .cpp .cppm .cxx .h++ .hh .hpp .hxx .inc .inl .ino .ipp .ixx .tpp",
    "Clojure": ".clj .cljc .cljs .edn",
    "CMake": ".cmake",
    "COBOL": ".cbl .cob .cobol",
    "CoffeeScript": ".coffee",
    "Common Lisp": ".lisp .lsp",
    "Crystal": ".cr",
    "CSS": ".css .less .sass .scss",
    "CUDA": ".cu .cuh",
    "D": ".d",
    "Dart": ".dart",
    "Dockerfile": ".dockerfile",
    "Elixir": ".ex .exs",
    "Elm": ".elm",
    "Erlang": ".erl .escript .hrl",
    "F#": ".fs .fsx",
    "Forth": ".forth .fth .4th",
    "Fortran": ".f .f03 .f08 .f77 .f90 .f95 .for",
    "GDScript": ".gd",
    "GLSL": ".comp .frag .geom .glsl .vert",
    "Go": ".go",
    "GraphQL": ".gql .graphql",
    "Groovy": ".gradle .groovy",
    "Hack": ".hack",
    "Haskell": ".hs .lhs",
    "Haxe": ".hx",
    "HCL": ".hcl",
    "HLSL": ".hlsl",
    "Idris": ".idr",
    "Java": ".java",
    "JavaScript": ".cjs .js .jsx .mjs",
    "JSON": ".json .json5",
    "Jsonnet": ".jsonnet .libsonnet",
    "Julia": ".jl",
    "Kotlin": ".kt .kts",
    "Lean": ".lean",
    "Lex": ".lex .l",
    "Lisp": ".el .scm",
    "LLVM": ".ll",
    "Lua": ".lua",
    "M4": ".m4",
    "Make": ".mk",
    "Mathematica": ".nb .wl .wls",
    "MATLAB": ".mlx",
    "Metal": ".metal",
    "Nim": ".nim .nims",
    "Nix": ".nix",
    "Objective-C": ".m .mm",
    "OCaml": ".ml .mli .mll .mly",
    "Pascal": ".dpr .lpr .pas",
    "Perl": ".al .pl .plx .pm .t",
    "PHP": ".php .php3 .php4 .php5 .phps .phtml",
    "PowerShell": ".ps1 .psd1 .psm1",
    "Prolog": ".pro .prolog",
    "Protocol Buffers": ".proto",
    "Puppet": ".pp",
    "Python": ".py .pyi .pyw .pyx",
    "QMake": ".pri",
    "R": ".r",
    "Racket": ".rkt",
    "Rego": ".rego",
    "Ruby": ".gemspec .rake .rb .ru",
    "Rust": ".rs",
    "SAS": ".sas",
    "Scala": ".sbt .sc .scala",
    "Shell": ".bash .csh .fish .ksh .sh .zsh",
    "Solidity": ".sol",
    "SQL": ".sql",
    "Standard ML": ".sig .sml",
    "Starlark": ".bzl .star",
    "Stata": ".do",
    "Svelte": ".svelte",
    "Swift": ".swift",
    "Tcl": ".tcl",
    "Terraform": ".tf",
    "TeX": ".cls .dtx .ltx .sty .tex",
    "Thrift": ".thrift",
    "TOML": ".toml",
    "TypeScript": ".cts .mts .ts .tsx",
    "V": ".vsh",
    "Vala": ".vala",
    "Verilog": ".sv .v",
    "VHDL": ".vhd .vhdl",
    "Vim script": ".vim",
    "Visual Basic": ".bas .vb .vbs",
    "Vue": ".vue",
    "WebAssembly": ".wat",
    "WGSL": ".wgsl",
    "XML": ".xml .xsd .xsl .xslt",
    "Yacc": ".y .yy",
    "YAML": ".yaml .yml",
    "Zig": ".zig",
}
DATA = frozenset({"JSON", "TOML", "TeX", "XML", "YAML"})
"""Languages of markup and data: files in them are read as code, and are not of the domain `code`."""

_BY_SUFFIX = {suffix: language for language, suffixes in _LANGUAGES.items() for suffix in suffixes.split()}
_BY_NAME = {
    "brewfile": "Ruby",
    "build.bazel": "Starlark",
    "cmakelists.txt": "CMake",
    "configure.ac": "M4",
    "containerfile": "Dockerfile",
    "dockerfile": "Dockerfile",
    "fastfile": "Ruby",
    "gemfile": "Ruby",
    "gnumakefile": "Make",
    "jenkinsfile": "Groovy",
    "makefile": "Make",
    "makefile.am": "Make",
    "makefile.in": "Make",
    "meson.build": "Meson",
    "pkgbuild": "Shell",
    "podfile": "Ruby",
    "rakefile": "Ruby",
    "sconscript": "Python",
    "sconstruct": "Python",
    "vagrantfile": "Ruby",
}

_LOOKED_AT = 20_000  # characters of a text that tell its language
_LINES = 400


def _lines_with(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.M)


# Extensions that several languages share: the first whose lines are found, else the last, which has no pattern.
_SHARED: dict[str, tuple[tuple[str, re.Pattern[str] | None], ...]] = {
    ".cls": (
        ("Visual Basic", _lines_with(r"^VERSION \d\.\d CLASS")),
        ("Apex", _lines_with(r"^\s{0,40}(?:@\w+\s+)?(?:public|private|global)\b[^\n]{0,80}\bclass\b")),
        ("TeX", None),
    ),
    ".d": (
        ("Make", _lines_with(r"^[^\s:#]{1,200}\.(?:o|obj|lo|d)\s*:[^=]")),
        ("DTrace", _lines_with(r"^(?:\w*:\w*:[\w-]*:\w*|BEGIN|END|#pragma D option)")),
        ("D", None),
    ),
    ".f": (("Forth", _lines_with(r"^(?:: \S+ |\\ )")), ("Fortran", None)),
    ".for": (("Forth", _lines_with(r"^(?:: \S+ |\\ )")), ("Fortran", None)),
    ".fs": (
        ("Forth", _lines_with(r"^(?:: \S+ |\\ )")),
        ("GLSL", _lines_with(r"^\s{0,40}(?:#version|precision|uniform|varying|vec[234])\s")),
        ("F#", None),
    ),
    ".h": (
        ("Objective-C", _lines_with(r"^[ \t]{0,40}(?:@(?:interface|class|protocol|property|end|import)\b|#import\b)")),
        (
            "C++",
            _lines_with(
                r"^[ \t]{0,40}(?:template\s*<|(?:inline )?namespace\b[^;\n]{0,80}(?:\{|$)|using (?:namespace )?\w|"
                r"(?:public|private|protected)\s*:|class\s+(?:[A-Z_]+\s+)?\w+(?:\s+final)?\s*(?:[:{;]|$)|virtual\s|"
                r"constexpr\s|#\s*include\s*<(?:algorithm|array|cassert|cinttypes|cmath|cstd\w+|cstring|deque|functional|"
                r"iosfwd|iostream|limits|list|map|memory|optional|ostream|set|sstream|string|tuple|type_traits|"
                r"unordered_\w+|utility|variant|vector)>)|-\*-\s*(?:mode:\s*)?c\+\+\s*[-;]|\bstd::\w"
            ),
        ),
        ("C", None),
    ),
    ".inc": (
        ("PHP", _lines_with(r"<\?(?:php|=)")),
        ("Assembly", _lines_with(r"(?i)^\s{0,40}(?:\.macro|%macro|%define|section\s+\.|\w+\s+(?:equ|macro)\b)")),
        ("Pascal", _lines_with(r"(?i)^\s{0,40}(?:\{\$|(?:procedure|function)\b[^\n]{0,200};\s*$)")),
        ("SQL", _lines_with(r"(?i)^\s{0,40}(?:create (?:table|procedure)|insert into|select )")),
        ("C++", None),
    ),
    ".l": (("Lisp", _lines_with(r"^\((?:de|def\w*|setq) ")), ("Lex", None)),
    ".m": (
        ("Objective-C", _lines_with(r"^[ \t]{0,40}(?:@(?:interface|implementation|protocol|end|import|class)\b|#im)")),
        ("Mathematica", _lines_with(r"^\(\*|^\w+\[[^\]\n]{0,80}_\w*[^\n]{0,80}\]\s*:?=|^Begin(?:Package)?\[")),
        ("MATLAB", _lines_with(r"^\s{0,40}(?:%|function\b|end\s*;?\s*$|classdef\b|clear\b|\w+\s*=\s*\[)")),
        ("Objective-C", None),
    ),
    ".php": (("Hack", _lines_with(r"\A<\?hh\b")), ("PHP", None)),
    ".pl": (
        (
            "Perl",
            _lines_with(r"\A#!.{0,80}perl|^\s{0,40}(?:use (?:strict|warnings|v?5)|package [\w:]+;|my [$@%(]|sub \w+)"),
        ),
        ("Prolog", _lines_with(r"^(?:[a-z]\w*\b[^\n#$]{0,200})?:-")),
        ("Perl", None),
    ),
    ".pp": (
        ("Pascal", _lines_with(r"(?i)^\s{0,40}(?:unit|program|library)\s+\w+\s*;")),
        ("Puppet", None),
    ),
    ".pro": (
        ("QMake", _lines_with(r"^\s{0,40}(?:TEMPLATE|TARGET|QT|CONFIG|SOURCES|HEADERS)\s*[+-]?=")),
        ("IDL", _lines_with(r"(?i)^\s{0,40}(?:pro|function)\s+\w+\s*(?:,|$)")),
        ("Prolog", None),
    ),
    ".r": (("Rebol", _lines_with(r"(?i)^\s{0,40}rebol\s*\[")), ("R", None)),
    ".rs": (("XML", _lines_with(r"\A\s{0,40}<\?xml")), ("Rust", None)),
    ".ts": (("XML", _lines_with(r"\A\s{0,40}(?:<\?xml|<!DOCTYPE TS|<TS\b)")), ("TypeScript", None)),
    ".tsx": (("XML", _lines_with(r"\A\s{0,40}<\?xml")), ("TypeScript", None)),
    ".v": (
        (
            "Coq",
            _lines_with(
                r"^\s{0,40}(?:Require|Import|From|Theorem|Lemma|Definition|Fixpoint|Inductive|Proof|Section|Module)\b"
                r"[^\n]{0,400}(?:\.|:=|:)\s*$|^\(\*"
            ),
        ),
        ("V", _lines_with(r"^(?:pub )?fn \w|^module \w+\s*$|^import \w[\w.]*\s*$")),
        ("Verilog", None),
    ),
    ".y": (("Yacc", None),),
}

_SHEBANG = re.compile(r"#!\s*\S*/(?:env\s+(?:-\S+\s+|\w+=\S+\s+)*)?([a-zA-Z]+)")
_INTERPRETERS = {
    "ash": "Shell",
    "awk": "Awk",
    "bash": "Shell",
    "csh": "Shell",
    "dash": "Shell",
    "deno": "TypeScript",
    "elixir": "Elixir",
    "escript": "Erlang",
    "fish": "Shell",
    "gawk": "Awk",
    "groovy": "Groovy",
    "guile": "Lisp",
    "julia": "Julia",
    "ksh": "Shell",
    "lua": "Lua",
    "luajit": "Lua",
    "make": "Make",
    "mawk": "Awk",
    "node": "JavaScript",
    "nodejs": "JavaScript",
    "ocaml": "OCaml",
    "perl": "Perl",
    "php": "PHP",
    "pwsh": "PowerShell",
    "pypy": "Python",
    "python": "Python",
    "racket": "Racket",
    "rscript": "R",
    "ruby": "Ruby",
    "runghc": "Haskell",
    "runhaskell": "Haskell",
    "sbcl": "Common Lisp",
    "scala": "Scala",
    "sh": "Shell",
    "swift": "Swift",
    "swipl": "Prolog",
    "tclsh": "Tcl",
    "wish": "Tcl",
    "zsh": "Shell",
}

_EMACS = re.compile(r"-\*-[ \t]*(?:[^\n]{0,200}?\bmode:[ \t]*)?([\w+#-]{1,30})[ \t]*(?:;[^\n]{0,200})?-\*-", re.I)
_VIM = re.compile(r"\b(?:vim?|ex):[^\n]{0,200}?\b(?:ft|filetype|syntax)=([\w+#-]{1,30})")
_MARKS = ("#!", "-*-", "ft=", "filetype=", "syntax=")  # a text that names its language has one of them
_MODES = {language.lower(): language for language in _LANGUAGES} | {
    "cperl": "Perl",
    "cpp": "C++",
    "csharp": "C#",
    "emacs-lisp": "Lisp",
    "js": "JavaScript",
    "js2": "JavaScript",
    "makefile": "Make",
    "objc": "Objective-C",
    "scheme": "Lisp",
    "shell-script": "Shell",
    "sh": "Shell",
    "tuareg": "OCaml",
    "cmake": "CMake",
}

_LONGEST_LINE = 300


@lru_cache(maxsize=1024)
def name_and_suffix(path: str) -> tuple[str, str]:
    """Name of a file and the end of it from the last dot, in lower case; many documents of one file are asked about."""
    pure = PurePosixPath(path.lower())
    return pure.name, pure.suffix


def code_language(path: str, text: str | None = None) -> str | None:
    """The programming language of a file called `path`, such as "Python", or None for anything else.

    With the beginning of its `text`, an extension of several languages is decided by what stands there, and so is a
    name without an extension: by its first line, what it tells an editor, and the look of its lines.
    """
    name, suffix = name_and_suffix(path)
    if known := _BY_NAME.get(name):
        return known
    known = _BY_SUFFIX.get(suffix)
    if text is None:
        return known
    text = text[:_LOOKED_AT]
    if suffix in _SHARED:
        return _told(text) or next(
            language for language, pattern in _SHARED[suffix] if pattern is None or pattern.search(text)
        )
    if known or suffix:
        return known
    return _told(text) or look(text)


def _told(text: str) -> str | None:
    """The language that a text names itself, to the system or to an editor."""
    if not ("#" in text or "*" in text or "=" in text) or not any(map(text.__contains__, _MARKS)):
        return None  # single characters are found sooner, and most prose has none of these
    lines = text.lstrip("\ufeff").split("\n", _LINES)
    if shebang := _SHEBANG.match(lines[0]):
        return _INTERPRETERS.get(shebang[1].lower())
    for line in lines[:2]:
        if (mode := _EMACS.search(line[:_LONGEST_LINE])) and (known := _MODES.get(mode[1].lower())):
            return known
    for line in [*lines[:5], *lines[-5:]]:
        if (mode := _VIM.search(line[:_LONGEST_LINE])) and (known := _MODES.get(mode[1].lower())):
            return known
    return None
