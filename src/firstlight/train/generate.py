"""Text that a trained model writes: token by token, from the distribution that it predicts."""

import torch

from firstlight.base.errors import InputError
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer
from firstlight.models.decoder import Decoder
from firstlight.train.sampling import Sampling, choose
from firstlight.train.trained import TrainedRun


def generate(run: TrainedRun, prompt: str, sampling: Sampling) -> str:
    """`prompt` and what the model makes of it, up to the end of the document.

    An empty prompt begins a document. Raises InputError when the prompt has no room in the context.
    """
    tokenizer = load_tokenizer(run.folder.tokenizer)
    end = end_of_document_id(tokenizer, run.folder.tokenizer)
    # In the training data a document begins behind the end of another.
    tokens = tokenizer.encode(prompt, add_special_tokens=False).ids or [end]
    context = run.sequence_length
    if len(tokens) > context:
        raise InputError(f"the prompt has {len(tokens)} tokens, the model was trained on {context}; use a shorter one")
    written = _continue(run.model, tokens, context, end=end, sampling=sampling)
    return str(tokenizer.decode(written, skip_special_tokens=True))


@torch.no_grad()
def _continue(model: Decoder, tokens: list[int], context: int, *, end: int, sampling: Sampling) -> list[int]:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = list(tokens)
    for _ in range(sampling.max_new_tokens):
        window = torch.tensor([tokens[-context:]], device=device)
        logits_v = model.logits(window)[0, -1].float().cpu()
        scores, ids = logits_v.topk(min(sampling.num_choices, logits_v.shape[0]))
        token = choose(scores, ids, sampling, generator)
        if token == end:
            break
        tokens.append(token)
    return tokens
