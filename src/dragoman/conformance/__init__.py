"""Checks of any server against what a dialect promises, from outside, for `dragoman conformance`."""
