"""How much people would like a picture, as a linear head on CLIP reads it. The encoder is the caller's.

Letters: B pictures · D features of the encoder.
"""

import numpy as np
from numpy.typing import NDArray


def aesthetic(embedding_BD: NDArray[np.float32], weight_D: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
    """Return the head's value of each embedding, brought to length one first; 1 to 10, higher is liked more.

    Source: LAION-AI/aesthetic-predictor, `sa_0_4_vit_l_14_linear`: Linear(768, 1) on normalised CLIP ViT-L/14 embeddings.

    >>> round(float(aesthetic(np.array([[3, 4]], np.float32), np.array([1, 0], np.float32), 2.0)[0]), 3)
    2.6
    """
    length_B1 = np.linalg.norm(embedding_BD.astype(np.float64), axis=1, keepdims=True)
    unit_BD = embedding_BD / np.where(length_B1 > 0, length_B1, 1)
    return (unit_BD @ weight_D.astype(np.float64) + bias).astype(np.float32)
