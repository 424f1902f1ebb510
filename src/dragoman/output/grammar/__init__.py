"""Grammars that hold an answer to a format or to calls of tools, written for llguidance."""

from dragoman.output.grammar.build import build_grammar as build_grammar
from dragoman.output.grammar.lark import PARSER_LIMITS as PARSER_LIMITS
