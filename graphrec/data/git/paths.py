"""Kinds of files, recognized by their paths."""

from __future__ import annotations

import re


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


SOURCE = words("""
    adb ads asm astro awk bash bat bzl c cc cfg clj cljs cmake coffee conf cpp cr cs cshtml css csx cu
    cuh cxx cypher d dart diff dockerfile ejs elm erl ex exs f f03 f08 f77 f90 f95 fs fsx gd glsl go gql
    gradle graphql groovy h haml handlebars hbs hcl hh hpp hrl hs htm html hxx ini ino ipynb j2 jade
    java jinja jinja2 jl js json json5 jsonc jsx kt kts less lisp ll lua m m4 mak make md mdx mjs mk ml
    mli mm mustache nim nix pas patch php pl pm po pp prisma properties proto ps1 pug pxd pxi py pyi pyx
    r rb rego rkt rs rst s sass sc scala scm scss sh slim sol sql st styl sv svelte swift tcl tex tf
    thrift toml ts tsx twig txt v vb vhd vhdl vim vue wat xml xsd xsl xslt yaml yml zig zsh
""")
"""Extensions of files that people write: code, its configuration, its documentation."""
NAMES = words("""
    makefile dockerfile rakefile gemfile procfile vagrantfile jenkinsfile license license readme
    changelog changes authors contributors news copying codeowners manifest .gitignore .gitattributes
    .editorconfig .mailmap .flake8 .coveragerc .dockerignore .pylintrc
""")
"""Names of such files that have no extension."""
VENDORED = re.compile(
    rb"(^|/)(_?vendor(ed|s)?|third[-_]?party|node_modules|bower_components|site-packages|extern(al)?s?|"
    rb"\.venv|venv|dist|__pycache__|\.yarn)/|\.min\.(js|css)$|"
    rb"(^|/)(package-lock\.json|yarn\.lock|pnpm-lock\.yaml|poetry\.lock|pdm\.lock|uv\.lock|pipfile\.lock|"
    rb"cargo\.lock|composer\.lock|gemfile\.lock|go\.sum|npm-shrinkwrap\.json)$",
    re.IGNORECASE,
)
"""Files that other projects or programs wrote."""
TESTS = re.compile(
    rb"(^|/)(tests?|testing|specs?|__tests__)/|(^|/)(test_[^/]*|[^/]*[_.](test|spec))\.[^/.]+$|"
    rb"(^|/)conftest\.py$",
    re.IGNORECASE,
)
DOCS = re.compile(
    rb"(^|/)docs?/|\.(md|mdx|rst|adoc|tex)$|(^|/)(readme|changelog|changes|news|authors|contributing)[^/]*$",
    re.IGNORECASE,
)


def is_source(path: bytes, extensions: frozenset[str] = SOURCE) -> bool:
    """Whether a file of this name is written by people."""
    name = path.rpartition(b"/")[2].lower().decode("utf-8", "replace")
    stem, dot, extension = name.rpartition(".")
    return name in NAMES or bool(dot and stem and extension in extensions)
