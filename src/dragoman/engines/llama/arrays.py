"""The arrays that the engine passes from one part to another."""

import numpy as np
import numpy.typing as npt

TokenArray = npt.NDArray[np.int32]
"""Token ids: int32[tokens]."""

Logits = npt.NDArray[np.float32]
"""float32[vocabulary], or float32[rows, vocabulary]."""

EmbeddingArray = npt.NDArray[np.float32]
"""What a model computes with instead of the embeddings of tokens: float32[tokens, width]."""

SequenceState = npt.NDArray[np.uint8]
"""KV cells as llama.cpp writes them: about as many bytes as they take in the cache."""

Cells = npt.NDArray[np.int32]
"""Numbers of KV cells, in the order of their tokens."""

NO_CELLS: Cells = np.empty(0, dtype=np.int32)
