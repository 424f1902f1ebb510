"""Keep the upstreams of a deployment as the replicas of its application are."""

from collections.abc import Callable, Iterable, Mapping


class UpstreamFollower:
    """Adds the replicas that have come and removes those that have gone."""

    def __init__(self, known: Mapping[str, str], add: Callable[[str], str], remove: Callable[[str], None]) -> None:
        """`known` has the names of the upstreams that are stored, by URL. `add` takes a URL and returns a name."""
        self._names = dict(known)
        self._add = add
        self._remove = remove

    def follow(self, urls: Iterable[str]) -> None:
        """Let exactly these URLs be upstreams."""
        wanted = set(urls)
        for url in sorted(self._names.keys() - wanted):
            self._remove(self._names.pop(url))
        for url in sorted(wanted - self._names.keys()):
            self._names[url] = self._add(url)
