"""The HTTP dialects: one folder each, with the same three files. A dialect knows core, and what lies beside it here:
the JSON vocabulary several of them share and the mechanics of an HTTP exchange. No dialect imports another."""
