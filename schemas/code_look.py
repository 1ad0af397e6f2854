"""The programming language of a text without a name that tells it, by lines that are typical of one language."""

import re

# Beginnings of lines that are typical of one language and rare in others, by what such a line is worth. A text is in
# the language that its lines are worth most in, if that is enough.
_TYPICAL: dict[str, dict[int, tuple[str, ...]]] = {
    "C": {
        3: (r"#\s*include\s*[<\"][\w/.+-]+\.h[>\"]",),
        2: (
            r"(?:typedef|struct|unsigned|static|extern|size_t|u?int\d+_t|const char)\b[^\n]*[(;={,]\s*$",
            r"(?:int|char|void|long|float|double) [\w* ]+\([^\n]*[,){;]\s*$",
            r"[^\n]*\w->\w+",
        ),
        1: (
            r"#\s*(?:define|ifdef|ifndef|endif|if|else|undef|error)\b",
            r"(?:int|char|void|long|float|double) \**\w+\s*[;=\[,]",
            r"if \([^\n]*\)(?: \{)?\s*$",
            r"(?:else )?\{|goto \w+;|free\(|return (?:-?\d|NULL)\w*;",
        ),
    },
    "C#": {
        3: (r"using (?:static )?System[\w.]*;",),
        2: (
            r"namespace [\w.]+\s*[;{]?\s*$",
            r"\[\w+(?:\([^\n]*\))?\]\s*$",
            r"(?:public|private|protected|internal)[\w\s<>,\[\]?]*\{\s*get;",
            r"internal ",
            r"public (?:override|async|sealed|partial) ",
        ),
        1: (r"using [A-Z][\w.]+;",),
    },
    "C++": {
        3: (
            r"#\s*include\s*<(?:algorithm|cstd\w+|functional|iostream|map|memory|sstream|string|utility|vector)>",
            r"template\s*<",
            r"using namespace",
            r"namespace \w*[\w:]*\s*\{",
            r"std::",
            r"(?:public|private|protected):\s*$",
        ),
        2: (
            r"[^\n]*\bstd::",
            r"[\w:<>*&\s]+\b\w+::~?\w+\(",
            r"virtual ",
            r"constexpr ",
            r"class \w+[^;\n]*\{?\s*$",
        ),
        1: (r"#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b",),
    },
    "CSS": {
        2: (
            r"[.#@]?[\w-]+(?:[\s,>:.#][\w.#:>,\s-]*)?\s*\{\s*$",
            r"(?:color|margin|padding|font|border|display|width)[\w-]*:[^\n]*;",
        ),
    },
    "Clojure": {
        3: (
            r"\(ns [\w.-]",
            r"\(defn-? ",
            r"\(defmacro ",
            r"\(:require",
            r"\(defmulti",
            r"\(deftest ",
        ),
        1: (
            r"\(def ",
            r"\(let \[",
        ),
    },
    "Dart": {
        3: (
            r"import '(?:dart|package):",
            r"part (?:of )?'",
            r"library [\w.]+;",
            r"@override\s*$",
            r"(?:late )?final \w[\w<>?, ]* \w+;",
            r"[^\n]*\brequired this\.",
        ),
        2: (
            r"(?:static )?(?:const|final) [A-Z][\w<>?, ]* \w+ =",
            r"(?:Widget|Future<|Stream<|factory |String|bool|int|double|List<|Map<)[^\n]*(?:\{|=>|;)\s*$",
            r"(?:class|mixin|extension|enum) \w+[^\n;]*\{",
        ),
    },
    "Elixir": {
        3: (
            r"defmodule [\w.]+ do",
            r"defp? \w+[^\n]* do\s*$",
            r"@(?:moduledoc|doc|spec) ",
            r"(?:alias|use|import|require) [A-Z][\w.]+",
            r"(?:defstruct|defmacrop?|defimpl|defprotocol|defdelegate|defguard|defexception)\b",
            r"@impl |\|> ",
        ),
        1: (
            r"(?:with|case|if|cond|for|test|describe)\b[^\n]* do\s*$|end\s*$",
            r"[^\n]* -> |\{:\w+",
        ),
    },
    "Erlang": {
        3: (r"-(?:module|export|include|define|record|behaviou?r|spec)\(",),
        1: (r"[a-z]\w*\([^\n]*\)\s*(?:when[^\n]*)?->\s*$",),
    },
    "Fortran": {
        3: (
            r"(?i:(?:end )?(?:subroutine|program|module|function)\b(?: \w+)?\s*(?:\(|$)|implicit none|use,? [\w:, ]+$)",
        ),
        2: (
            r"(?i:(?:integer|real|character|logical|type|class)\s*(?:\([^)\n]*\))?[^:\n]*::|(?:call|allocate|deallocate)\b)",
        ),
    },
    "Go": {
        3: (
            r"package [a-z]\w*\s*$",
            r"func (?:\(\w+ \*?\w+\) )?\w+\(",
            r"import \(\s*$",
            r"type \w+ (?:struct|interface) \{",
        ),
        2: (
            r"if err != nil",
            r"[\w, ]+ := ",
            r"defer ",
        ),
    },
    "Haskell": {
        3: (
            r"module [A-Z][\w.]* *(?:\(|where|$)",
            r"import (?:qualified )?[A-Z][\w.]*(?: \(| as |$)",
            r"\{-# ",
            r"instance [A-Z]",
        ),
        2: (
            r"[a-z]\w*'? :: ",
            r"data [A-Z]\w* ",
            r"newtype ",
            r"deriving ",
        ),
    },
    "Java": {
        3: (
            r"import (?:static )?(?:java|javax|org|com|io|net)\.[\w.*]+;",
            r"package [a-z][\w.]*;",
        ),
        2: (
            r"(?:public|private|protected) (?:static |final |abstract )*(?:class|interface|enum|void) \w+",
            r"(?:public|private|protected) (?:static |final |abstract )*[A-Z]\w*[<\w,>\[\]]* \w+",
            r"@(?:Override|Test|Nullable|Deprecated|SuppressWarnings)\b",
        ),
    },
    "JavaScript": {
        3: (
            r"(?:const|let|var) [\w{}, ]+ = require\(",
            r"module\.exports",
            r"['\"]use strict['\"]",
        ),
        2: (
            r"(?:export |async )*function\*? \w*\s*\(",
            r"import [\w{}*, ]+ from ['\"]",
            r"export (?:default|const)\b",
            r"import ['\"]",
        ),
        1: (
            r"(?:const|let|var) \w+ =",
            r"[^\n]*=> \{",
            r"\}\);?\s*$",
            r"document\.",
            r"console\.",
        ),
    },
    "Julia": {
        2: (
            r"function [\w.!]+\(",
            r"using [A-Z][\w., :]*$",
            r"module [A-Z]\w*\s*$",
            r"struct \w+",
            r"@(?:test|testset|inline|assert)\b",
            r"mutable struct",
            r"abstract type",
        ),
        1: (r"end\s*$",),
    },
    "Kotlin": {
        3: (
            r"(?:(?:private|internal|public|override|suspend|inline|open) )*fun (?:<[^>\n]*> )?[\w.<>?]+\(",
            r"(?:data|sealed|open) class ",
        ),
        2: (
            r"(?:(?:private|internal|override|lateinit) )*va[lr] \w+\s*(?::|=)",
            r"import [a-z][\w.]+\s*$",
            r"package [a-z][\w.]*\s*$",
            r"companion object",
        ),
    },
    "Lua": {
        3: (
            r"local (?:function )?[\w, ]+(?:=|\()",
            r"function [\w.:]+\([^\n]*\)\s*$",
        ),
        2: (
            r"end[,)]?\s*$",
            r"(?:else)?if [^\n]* then\s*$",
        ),
    },
    "OCaml": {
        3: (
            r"let (?:rec )?[\w' ~?:()]+ =\s*(?:function|fun|match|$)",
            r"open! ?[A-Z]",
            r"open [A-Z][\w.]*\s*$",
            r"module [A-Z]\w* (?:=|:)",
            r"\(\*",
        ),
        2: (
            r"\| [A-Z_][\w ,()_]* ->",
            r"val \w+ :",
            r"type (?:\w|'\w )+ =",
            r"[^\n]*;;\s*$",
            r"let (?:rec |%\w+ )?\w+",
        ),
    },
    "PHP": {
        6: (r"<\?php",),
        2: (
            r"\$\w+\s*=",
            r"\$this->",
            r"(?:public|private|protected)(?: static)? function",
            r"namespace [\w\\]+;",
            r"use [\w\\]+;",
        ),
    },
    "Perl": {
        3: (
            r"use (?:strict|warnings|parent|base|v?5)\b",
            r"package [\w:]+;",
            r"my \(?[$@%]\w",
            r"sub \w+\s*\{",
            r"=head\d ",
            r"=cut",
        ),
        1: (
            r"[$@%]\w+\s*=",
            r"\$self->",
        ),
    },
    "Python": {
        3: (
            r"def \w+\([^\n]*\)?(?: ->[^\n]*)?:?\s*$",
            r"from [\w.]+ import ",
            r"class \w+(?:\([^)\n]*\))?:\s*$",
            r"if __name__ ==",
        ),
        1: (
            r"import \w[\w.]*(?: as \w+)?\s*$",
            r"(?:if|elif|for|while|with|try|else|except)\b[^\n;{]*:\s*$",
            r"self\.\w+",
            r"@\w+",
        ),
    },
    "R": {
        3: (
            r"[\w.]+ <- (?:function\b)?",
            r"library\(\w",
            r"#' ",
        ),
        1: (
            r"if \([^\n]*\) \{\s*$",
            r"\}\s*$",
        ),
    },
    "Ruby": {
        3: (
            r"require(?:_relative)? ['\"]",
            r"module [A-Z][\w:]*\s*$",
            r"class [A-Z][\w:]*(?: < [\w:]+)?\s*$",
            r"attr_(?:reader|accessor|writer) ",
        ),
        2: (
            r"def (?:self\.)?\w+[?!=]?(?:\([^\n:]*\))?\s*$",
            r"(?!def)[^\n]* do(?: \|[^|\n]*\|)?\s*$",
            r"include [A-Z]",
            r"# frozen_string_literal",
        ),
        1: (
            r"end\s*$",
            r"@\w+ ",
        ),
    },
    "Rust": {
        3: (
            r"(?:pub(?:\([^)\n]*\))? )?(?:async )?(?:unsafe )?fn \w+",
            r"use (?:crate|std|super|self|[a-z_]\w*)::",
            r"impl\b",
            r"#!?\[",
        ),
        2: (
            r"(?:pub )?(?:mod|enum|struct|trait) \w+",
            r"let (?:mut )?\w+",
            r"match [^\n]*\{\s*$",
            r"//[/!]",
        ),
    },
    "SQL": {
        3: (
            r"(?i:create (?:or replace )?(?:table|view|index|function|procedure)\b)",
            r"(?i:insert into|alter table|drop table|select\b[^\n]*\bfrom\b)",
        ),
    },
    "Scala": {
        3: (
            r"(?:(?:private|protected|final|override|implicit|sealed|abstract)(?:\[\w+\])? )*def \w+[^\n]*=",
            r"(?:(?:private|final|implicit|sealed|abstract)(?:\[\w+\])? )*(?:case class |object [A-Z]|trait [A-Z])",
        ),
        2: (
            r"import [\w.]+(?:\.\{[^\n]*\}|\._)?\s*$",
            r"package [a-z][\w.]*\s*$",
            r"va[lr] \w+[^\n]*=",
            r"case [^\n]*=>",
        ),
    },
    "Shell": {
        2: (
            r"(?:if|elif|while) \[\[? ",
            r"fi\s*$",
            r"done\b",
            r"esac\s*$",
            r"echo ",
            r"export \w+=",
            r"\w+\(\) ?\{",
            r"set -[eux]",
            r"case [^\n]* in\s*$",
        ),
        1: (
            r"\w+=[\"$]",
            r"then\s*$",
            r"do\s*$",
        ),
    },
    "Solidity": {
        6: (r"pragma solidity",),
        3: (
            r"(?:abstract )?contract \w+",
            r"function \w+\([^\n]*(?:external|public|internal|private|view|pure)",
            r"mapping\(",
            r"modifier ",
            r"event ",
        ),
    },
    "Swift": {
        3: (
            r"import (?:Foundation|UIKit|SwiftUI|XCTest)\b",
            r"(?:(?:public|private|internal|open|static|override) )*func \w+",
            r"guard let ",
            r"if let ",
            r"extension [A-Z]",
        ),
        1: (r"(?:let|var) \w+\s*[:=]",),
    },
    "TypeScript": {
        4: (
            r"(?:export )?(?:declare )?(?:interface|type|namespace|abstract class|enum) \w+[^\n]*[{=]",
            r"import type ",
            r"export type ",
            r"declare ",
        ),
        3: (
            r"(?:export |async |default )*function \w+(?:<[^>\n]*>)?\([^)\n]*\w\??:\s*\w",
            r"(?:private|public|protected|readonly) \w+[?!]?[:(]",
        ),
        2: (
            r"import [\w{}*, ]+ from ['\"]",
            r"export (?:default|const|class)\b",
            r"(?:const|let) \w+:\s*\w",
            r"\w+\??: [\w\[\]<>|' ]+;\s*$",
            r"\w+\([^\n]*\): \w[\w<>\[\]|]* \{",
        ),
        1: (r"(?:const|let|var) [\w{}, ]+ =",),
    },
    "XML": {
        9: (r"<\?xml ",),
    },
}
_TYPICAL_LINES = {
    language: [(worth, re.compile(f"[ \\t]*(?:{'|'.join(patterns)})")) for worth, patterns in worths.items()]
    for language, worths in _TYPICAL.items()
}
_ANY_TYPICAL = re.compile(
    f"[ \\t]*(?:{'|'.join(one for worths in _TYPICAL.values() for patterns in worths.values() for one in patterns)})"
)
_ENOUGH = 8  # worth of a text, and of its lines on average
_ENOUGH_A_LINE = 0.25
_MOST = max(max(worths) for worths in _TYPICAL.values())
_NEUTRAL = re.compile(r"\s*(?://|/?\*|#\s|#$|--|;;|%|[\])};,]*$)")  # comments and brackets tell nothing
_SIGNS = b"(){}[];=<>_$\"'"
_SIGNS_SHARE = 0.012  # of the characters; no source file of the shared ones has less, and most prose has
_LINES = 400
_LONGEST_LINE = 300


def look(text: str) -> str | None:
    """The language whose typical lines a text has, if it has enough of them; looks at 400 lines."""
    content = text.encode("utf-8", "surrogatepass")
    if len(content) - len(content.translate(None, _SIGNS)) < _SIGNS_SHARE * len(text):
        return None
    lines = [line[:_LONGEST_LINE] for line in text.split("\n", _LINES)[:_LINES]]
    lines = [line for line in lines if not _NEUTRAL.match(line)]
    enough = max(_ENOUGH, _ENOUGH_A_LINE * len(lines))
    lines = [line for line in lines if _ANY_TYPICAL.match(line)]
    if len(lines) * _MOST < enough:
        return None
    worth = {
        language: sum(next((worth for worth, pattern in patterns if pattern.match(line)), 0) for line in lines)
        for language, patterns in _TYPICAL_LINES.items()
    }
    best = max(worth, key=lambda language: worth[language])
    return best if worth[best] >= enough else None
