"""The pages: each reads what it shows and renders a template."""
