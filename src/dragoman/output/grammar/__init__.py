"""Grammars that constrain an answer to a format or to tool calls, in llguidance's syntax."""

from dragoman.output.grammar.build import BuiltGrammar as BuiltGrammar
from dragoman.output.grammar.build import build_grammar as build_grammar
from dragoman.output.grammar.lark import PARSER_LIMITS as PARSER_LIMITS
