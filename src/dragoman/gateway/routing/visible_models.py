"""The models that one principal may know of."""

from collections.abc import Sequence

from dragoman.core.errors import ModelNotFound
from dragoman.core.models import ServedModel, TokenizedPrompt
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.gateway.auth.authenticator import Principal
from dragoman.gateway.remote_images import ImageFetcher, remote_urls
from dragoman.gateway.routing.catalog import Catalog, Deployment, ResolvedModel


class PrincipalModels:
    """Implements core.services.VisibleModels."""

    def __init__(self, catalog: Catalog, principal: Principal, images: ImageFetcher | None = None) -> None:
        """`images` fetches images at http(s) addresses; None: the engines refuse them."""
        self._catalog = catalog
        self._principal = principal
        self._images = images

    def models(self) -> list[ServedModel]:
        return self._catalog.models(self._principal.owner, self._principal.models)

    def find_model(self, name: str) -> ServedModel | None:
        return self._catalog.find_model(name, self._principal.owner, self._principal.models)

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        deployment = self.resolve(model).deployment
        return (await deployment.count_tokens(await self._with_images(prompt, model, deployment))).tokens

    async def tokenize(self, model: str, prompt: Prompt) -> TokenizedPrompt:
        deployment = self.resolve(model).deployment
        prompt = await self._with_images(prompt, model, deployment)
        return await deployment.tokenizer_for(prompt).tokenize(prompt)

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        return await self.resolve(model).deployment.tokenizer.detokenize(token_ids)

    def resolve(self, model: str) -> ResolvedModel:
        """Resolve a name or alias. Raises ModelNotFound also for a model that the key may not use."""
        resolved = self._catalog.resolve(model, self._principal.owner)
        if not self._principal.may_use(resolved.canonical_name):
            raise ModelNotFound(model)
        return resolved

    async def _with_images(self, prompt: Prompt, model: str, deployment: Deployment) -> Prompt:
        """Fetch the images of a prompt, unless the deployment takes none. Raises BadRequest."""
        if self._images is None or not remote_urls(prompt):
            return prompt
        deployment.candidates(GenerationRequest(model=model, prompt=prompt))
        return await self._images.with_images_of(prompt)
