"""A model file's named chat templates, joined into one."""


def join_templates(default: str | None, tool_use: str | None) -> str | None:
    """Return one template that writes what `tool_use` writes for a request with tools, and `default` for others.

    Transformers chooses between a tokenizer's named templates in this way. Without a
    `tool_use`, or without a default, that is the default. Jinja removes a line break at a template's end, and white
    space around the tags that are put there, were it not for the empty texts.
    """
    if default is None or tool_use is None:
        return default
    default, tool_use = (source.removesuffix("\n") for source in (default, tool_use))
    return (
        f"{{% if tools %}}{{{{ '' }}}}{tool_use}{{{{ '' }}}}{{% else %}}{{{{ '' }}}}{default}{{{{ '' }}}}{{% endif %}}"
    )
