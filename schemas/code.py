"""Which programming language a file is written in, by its name.

The name of the language goes into a document's metadata under `code`; annotators read it there instead of
guessing a natural language for source code.
"""

from pathlib import PurePosixPath

_LANGUAGES = {
    "Ada": ".adb .ads",
    "Assembly": ".asm .s",
    "C": ".c .h",
    "C#": ".cs",
    "C++": ".cc .cpp .cxx .hh .hpp .hxx",
    "CMake": ".cmake",
    "CSS": ".css .scss .less",
    "CUDA": ".cu .cuh",
    "Clojure": ".clj",
    "D": ".d",
    "Dart": ".dart",
    "Elixir": ".ex .exs",
    "Erlang": ".erl",
    "Fortran": ".f .f90 .for",
    "Go": ".go",
    "Haskell": ".hs",
    "JSON": ".json",
    "Java": ".java",
    "JavaScript": ".cjs .js .jsx .mjs",
    "Julia": ".jl",
    "Kotlin": ".kt .kts",
    "Lisp": ".el .lisp .scm",
    "Lua": ".lua",
    "Nim": ".nim",
    "OCaml": ".ml .mli",
    "PHP": ".php",
    "Pascal": ".pas",
    "Perl": ".pl .pm",
    "PowerShell": ".ps1",
    "Protocol Buffers": ".proto",
    "Python": ".py .pyi .pyx",
    "R": ".r",
    "Ruby": ".rb",
    "Rust": ".rs",
    "SQL": ".sql",
    "Scala": ".scala",
    "Shell": ".bash .sh .zsh",
    "Swift": ".swift",
    "TOML": ".toml",
    "TeX": ".cls .sty .tex",
    "TypeScript": ".ts .tsx",
    "VHDL": ".vhd .vhdl",
    "Verilog": ".sv .v",
    "Vue": ".vue",
    "XML": ".xml .xsl",
    "YAML": ".yaml .yml",
    "Zig": ".zig",
}
_BY_SUFFIX = {suffix: language for language, suffixes in _LANGUAGES.items() for suffix in suffixes.split()}
_BY_NAME = {"cmakelists.txt": "CMake", "dockerfile": "Dockerfile", "makefile": "Makefile", "rakefile": "Ruby"}


def code_language(path: str) -> str | None:
    """The programming language of a file called `path`, such as "Python", or None for anything else."""
    name = PurePosixPath(path.lower()).name
    return _BY_NAME.get(name) or _BY_SUFFIX.get(PurePosixPath(name).suffix)
