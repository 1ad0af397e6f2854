"""Which programming language a file is written in, by its name.

The name of the language goes into a document's metadata under `code`; annotators read it there instead of
guessing a natural language for source code.
"""

from pathlib import PurePosixPath

_LANGUAGES = {
    "Ada": ".ada .adb .ads",
    "Assembly": ".asm .s",
    "Awk": ".awk",
    "Batch": ".bat",
    "C": ".c .h",
    "C#": ".cs",
    "C++": ".cc .cpp .cxx .hh .hpp .hxx .inc .ino",
    "CMake": ".cmake",
    "CSS": ".css .less .sass .scss",
    "CUDA": ".cu .cuh",
    "Clojure": ".clj .cljs",
    "D": ".d",
    "Dart": ".dart",
    "Elixir": ".ex .exs",
    "Elm": ".elm",
    "Erlang": ".erl .hrl",
    "F#": ".fs .fsx",
    "Fortran": ".f .f90 .for",
    "Go": ".go",
    "Groovy": ".gradle .groovy",
    "Haskell": ".hs",
    "JSON": ".json",
    "Java": ".java",
    "JavaScript": ".cjs .js .jsx .mjs",
    "Julia": ".jl",
    "Kotlin": ".kt .kts",
    "Lisp": ".el .lisp .scm",
    "Lua": ".lua",
    "Make": ".mk",
    "Nim": ".nim",
    "Nix": ".nix",
    "OCaml": ".ml .mli",
    "Objective-C": ".m .mm",
    "PHP": ".php",
    "Pascal": ".pas",
    "Perl": ".pl .pm",
    "PowerShell": ".ps1",
    "Protocol Buffers": ".proto",
    "Python": ".py .pyi .pyx",
    "R": ".r",
    "Ruby": ".rb",
    "Racket": ".rkt",
    "Rust": ".rs",
    "SQL": ".sql",
    "Scala": ".scala",
    "Shell": ".bash .fish .sh .zsh",
    "Solidity": ".sol",
    "Svelte": ".svelte",
    "Swift": ".swift",
    "TOML": ".toml",
    "Tcl": ".tcl",
    "TeX": ".cls .sty .tex",
    "Terraform": ".tf",
    "TypeScript": ".ts .tsx",
    "VHDL": ".vhd .vhdl",
    "Verilog": ".sv .v",
    "Vue": ".vue",
    "XML": ".xml .xsl",
    "YAML": ".yaml .yml",
    "WebAssembly": ".wat",
    "Zig": ".zig",
}
DATA = frozenset({"JSON", "TOML", "TeX", "XML", "YAML"})
"""Languages of markup and data: files in them are read as code, and are not of the domain `code`."""

_BY_SUFFIX = {suffix: language for language, suffixes in _LANGUAGES.items() for suffix in suffixes.split()}
_BY_NAME = {"cmakelists.txt": "CMake", "dockerfile": "Dockerfile", "makefile": "Makefile", "rakefile": "Ruby"}


def code_language(path: str) -> str | None:
    """The programming language of a file called `path`, such as "Python", or None for anything else."""
    name = PurePosixPath(path.lower()).name
    return _BY_NAME.get(name) or _BY_SUFFIX.get(PurePosixPath(name).suffix)
