"""Fifty texts of several languages and lengths."""

_SENTENCES = (
    "The capital of France is Paris.",
    "How do I reverse a linked list in place?",
    "PHOTOSYNTHESIS converts light into chemical energy",
    "It's raining -- don't forget your umbrella!",
    "def add(a, b):\n    return a + b",
    "Ein Übergrößenträger läuft naïvement au café.",
    "Где находится библиотека?",
    "¿Cuánto cuesta un billete de ida y vuelta?",
    "The price rose by 3.75% to $1,299.00 in Q4/2025.",
    "東京は日本の首都です。",
    "مرحبا بالعالم",
    "E = mc² — “energy” equals mass times the speed of light squared…",
    "https://example.com/a/very/long/path?query=string&page=2#top",
    "🎉 Congratulations on your graduation! 🎓",
    "SELECT name, count(*) FROM users GROUP BY name HAVING count(*) > 1;",
    "a",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "Water boils at one hundred degrees Celsius at sea level.",
    "The quick brown fox jumps over the lazy dog.",
    "  spaces   and\ttabs \n are   one   ",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "A cat sits on the mat.",
    "Feline on a rug.",
    "Stock markets fell sharply on Monday.",
    "[brackets] {braces} <tags> and `ticks`",
)

TEXTS = (*_SENTENCES, *(f"{first} {second}" for first, second in zip(_SENTENCES, reversed(_SENTENCES), strict=True)))
